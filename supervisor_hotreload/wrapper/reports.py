"""Reports what hotreload-run does: lines on stderr, the status file, systemd."""

from __future__ import annotations

import os
import select
import time
from contextlib import suppress
from typing import Any, Optional

from supervisor_hotreload.core.model import Fault, Outcome
from supervisor_hotreload.core.reload import Reload
from supervisor_hotreload.core.text import joined, printable
from supervisor_hotreload.system.files import replace_file
from supervisor_hotreload.system.world import World
from supervisor_hotreload.wrapper.options import RunOptions
from supervisor_hotreload.wrapper.service_manager import ServiceManager

LINE_BYTES = 2000
"""Of one line: less than a pipe takes at once (PIPE_BUF), so that a write never blocks."""

EXPLAINED_BY_SERVER = frozenset({Fault.SUCCESSOR_EXITED, Fault.NOT_READY, Fault.NO_SUCCESSOR})
"""Faults of the new release: the server has printed why, to the same stderr."""


class Reports:
    """Writes everything that hotreload-run says.

    :param notify: the value of NOTIFY_SOCKET, None to report to no service manager.
    """

    def __init__(self, options: RunOptions, world: World, notify: Optional[str]) -> None:
        self._name = options.name
        self._world = world
        self._path = options.status_file
        self._state: dict[str, Any] = {}
        self._failed = False
        self.counts = {outcome.value: 0 for outcome in Outcome if outcome is not Outcome.PENDING}
        self._last: Optional[Reload] = None
        self._manager: Optional[ServiceManager] = None
        if notify:
            try:
                self._manager = ServiceManager(notify)
            except OSError as error:
                self.say(f"nothing is reported to systemd: {error.strerror}")

    def say(self, text: str) -> None:
        """Write *text* to stderr as one line."""
        self.log(f"hotreload: {self._name}: {text}")

    def log(self, text: str) -> None:
        """Write a whole line to stderr, unless nobody reads it: the server serves on."""
        now = time.time()
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
        line = f"{stamp},{int(now % 1 * 1000):03} {printable(joined(text))}"
        with suppress(OSError, ValueError):  # closed, or a pipe without a reader
            if select.select([], [2], [], 0)[1]:
                os.write(2, line.encode("utf-8", "replace")[:LINE_BYTES] + b"\n")

    def reloading(self, reload: Reload) -> None:
        """Report that a reload begins."""
        self._last = reload
        now = int(self._world.now() * 1_000_000)  # Type=notify-reload asks for microseconds
        self._notify("RELOADING=1", f"MONOTONIC_USEC={now}", "STATUS=reloading")

    def ended(self, reload: Reload) -> None:
        """Count a reload that has an outcome."""
        self.counts[reload.outcome.value] += 1

    def ready(self, serving: str, advice: str = "") -> None:
        """Report that the first generation is ready, or that a reload has ended.

        :param serving: a sentence that names the generation that serves.
        :param advice: its end, with what to do after a reload that failed.
        """
        last = self._last
        failed = last if last is not None and last.outcome is not Outcome.SUCCEEDED else None
        if failed is not None:
            explained = failed.fault in EXPLAINED_BY_SERVER
            why = "; what the new one printed above says why it does not" if explained else ""
            self.say(f"{serving}{why}{advice}")
        why = "" if failed is None else f" (the reload {failed.outcome.value}: {failed.reason})"
        self._notify("READY=1", f"STATUS={serving}{why}")

    def stopping(self) -> None:
        """Report that the server is being stopped."""
        self._notify("STOPPING=1")

    def _notify(self, *lines: str) -> None:
        if self._manager is not None:
            self._manager.send(*lines)

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
            "reload": None if self._last is None else _fields(self._last),
        }
        if now != self._state:
            self._state = now
            import json

            try:
                replace_file(self._path, json.dumps(now, indent=1) + "\n", 0o644)
                self._failed = False
            except OSError as error:
                if not self._failed:
                    self.say(f"the status file {self._path} cannot be written: {error.strerror}")
                self._failed = True  # tried again at the next change


def _fields(reload: Reload) -> dict[str, Any]:
    """Return what the status file says of a reload."""
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
