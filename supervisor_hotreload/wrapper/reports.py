"""What is told of the command: lines on stderr, systemd, the status file."""

from __future__ import annotations

import os
import select
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Optional

from supervisor_hotreload.core.model import Outcome
from supervisor_hotreload.core.reload import Reload
from supervisor_hotreload.core.text import printable
from supervisor_hotreload.system.world import World
from supervisor_hotreload.wrapper import files
from supervisor_hotreload.wrapper.options import Options

if TYPE_CHECKING:
    from supervisor_hotreload.wrapper.notify import Notifier

LONGEST = 2000
"""Bytes of one line: less than a pipe takes at once (PIPE_BUF), so that it never blocks."""


class Reports:
    """Everybody who is told.

    :param notify: the value of NOTIFY_SOCKET, None to tell no service manager.
    """

    def __init__(self, options: Options, world: World, notify: Optional[str]) -> None:
        self._name = options.name
        self._world = world
        self._path = options.status_file
        self._state: dict[str, Any] = {}
        self._failed = False
        self.counts = {outcome.value: 0 for outcome in Outcome if outcome is not Outcome.PENDING}
        self._last: Optional[Reload] = None
        self._notifier: Optional[Notifier] = None
        if notify:
            from supervisor_hotreload.wrapper.notify import Notifier  # not before it is needed

            try:
                self._notifier = Notifier(notify)
            except OSError as error:
                self.say(f"systemd cannot be told: {error.strerror}")

    def say(self, text: str) -> None:
        """Write *text* to stderr as one line."""
        self.log(f"hotreload: {self._name}: {text}")

    def log(self, text: str) -> None:
        """Write a whole line to stderr, unless nobody reads it: serving goes on."""
        one = printable(" | ".join(text.splitlines()))
        line = one.encode("utf-8", "replace")[:LONGEST] + b"\n"
        with suppress(OSError, ValueError):  # closed, or a pipe without a reader
            if select.select([], [2], [], 0)[1]:
                os.write(2, line)

    def reloading(self, reload: Reload) -> None:
        self._last = reload
        if self._notifier is not None:
            self._notifier.reloading(self._world.now())

    def ended(self, reload: Reload) -> None:
        self.counts[reload.outcome.value] += 1

    def ready(self, serving: str) -> None:
        """The first generation is ready, or a reload has ended, whatever its outcome."""
        if self._notifier is not None:
            last = self._last
            failed = last is not None and last.outcome is not Outcome.SUCCEEDED
            why = f" (the reload {last.outcome.value}: {last.reason})" if last and failed else ""
            self._notifier.ready(serving + why)

    def stopping(self) -> None:
        if self._notifier is not None:
            self._notifier.stopping()

    def write(self, state: str, generation: int, server: int) -> None:
        """Keep the status file up to date; cheap when nothing has changed."""
        if self._path is None:
            return
        now = {
            "pid": os.getpid(),
            "name": self._name,
            "state": state,
            "generation": generation,
            "server_pid": server,
            "reloads": dict(self.counts),
            "reload": None if self._last is None else _told(self._last),
        }
        if now != self._state:
            self._state = now
            import json

            try:
                files.write(self._path, json.dumps(now, indent=1) + "\n")
                self._failed = False
            except OSError as error:
                if not self._failed:
                    self.say(f"the status file {self._path} cannot be written: {error.strerror}")
                self._failed = True  # tried again at the next change


def _told(reload: Reload) -> dict[str, Any]:
    return {
        "phase": reload.phase.value,
        "outcome": reload.outcome.value,
        "fault": None if reload.fault is None else reload.fault.name,
        "reason": reload.reason,
        "old_pid": reload.old_pid,
        "new_pid": reload.new_pid,
        "progress": None if reload.progress is None else reload.progress.text,
        "seconds": round(reload.seconds, 3) if reload.done else None,
    }
