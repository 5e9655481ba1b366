"""Reloads several programs, one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Callable, Optional

from supervisor_hotreload.core.model import Failure, Fault, Outcome
from supervisor_hotreload.core.reload import Reload
from supervisor_hotreload.plugin.admission import Overrides
from supervisor_hotreload.plugin.program import SupervisedProgram

Entry = tuple[SupervisedProgram, Reload]


class Batch:
    """Programs whose reloads were asked for together.

    After a failure the rest of that group is not attempted: it would get the same release.
    While an old generation drains for long, the next program is reloaded beside it.
    """

    def __init__(self, entries: Iterable[Entry], overrides: Overrides) -> None:
        self.overrides = overrides
        self.begun: list[Entry] = []
        self._waiting = deque(entries)

    @property
    def entries(self) -> list[Entry]:
        """Return every program with its reload, in the order of the reloads."""
        return [*self.begun, *self._waiting]

    @property
    def done(self) -> bool:
        """Tell whether every program has an outcome, or drains for long."""
        return not self._waiting and all(r.done or r.drains_on for _, r in self.begun)

    def step(
        self,
        begin: Callable[[SupervisedProgram, Reload, Overrides], object],
        refuse: Callable[[SupervisedProgram, Reload, Failure], None],
    ) -> bool:
        """Begin the next reload if the current one has ended, or drains for long.

        :param begin: begins a reload, or refuses it; it never raises.
        :param refuse: ends a reload that is not to begin.
        :return: False once nothing is left to begin.
        """
        current = self.begun[-1][1] if self.begun else None
        if current is not None and not current.done:
            if not current.drains_on:
                return True
            if self._waiting:
                current.say("still draining: the next program is reloaded meanwhile")
        while self._waiting:
            program, reload = self._waiting.popleft()
            self.begun.append((program, reload))
            if reload.done:
                continue  # it was cancelled, or the program was stopped, while it waited
            failed = self._failed_before(program)
            if failed is None:
                begin(program, reload, self.overrides)
            else:
                refuse(program, reload, failed)
            if not reload.done:
                return True
        return False

    def _failed_before(self, program: SupervisedProgram) -> Optional[Failure]:
        for before, reload in self.begun[:-1]:
            failed = reload.done and reload.outcome is not Outcome.SUCCEEDED
            if failed and before.group == program.group:
                reason = f"not attempted after the failure of {before.name}"
                return Failure(Fault.NOT_ATTEMPTED, reason)
        return None
