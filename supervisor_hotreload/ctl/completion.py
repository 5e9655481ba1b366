"""Completes ``hotreload`` in supervisorctl's prompt, at the Tab key."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Callable, Optional

from supervisor_hotreload.ctl.options import FLAGS, BadUsage, action_of


class Completion:
    """Completes ``hotreload`` in supervisorctl's prompt; a readline completer.

    :param controller: supervisorctl's Controller.
    :param others: its own completer, for every other command.
    """

    def __init__(self, controller: Any, others: Callable[..., Optional[str]]) -> None:
        self._controller = controller
        self._others = others

    def __call__(self, text: str, state: int, line: Optional[str] = None) -> Optional[str]:
        """Return match number *state* for *text*, the word at the end of *line*; None: no more."""
        if line is None:
            import readline  # missing where supervisorctl has no prompt to complete

            line = readline.get_line_buffer()
        before = line[: len(line) - len(text)].split()
        if before[:1] != ["hotreload"]:
            return self._others(text, state, line)
        matches = self._matches(text, before[1:])
        return matches[state] if state < len(matches) else None

    def _matches(self, text: str, before: list[str]) -> list[str]:
        last = before[-1] if before else ""
        if last.endswith("=") or (last in FLAGS and FLAGS[last].value):
            return []  # the value of an option
        if text.startswith("-"):
            return [f"{flag} " for flag in self._flags(before) if flag.startswith(text)]
        names: list[str] = self._controller._complete_processes(text)  # as for restart
        return names + ["all "] * "all".startswith(text)

    def _flags(self, before: Iterable[str]) -> list[str]:
        """Return the options that clash with none of those *before*."""
        given = [
            FLAGS[flag] for flag in (word.partition("=")[0] for word in before) if flag in FLAGS
        ]
        fitting = []
        for flag, option in FLAGS.items():
            try:
                action_of([*given, option])
            except BadUsage:
                continue
            fitting.append(flag)
        return fitting
