"""Replaces hotreload-run by another version on USR2, in the same process."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass, field
from typing import Callable, Optional

from supervisor_hotreload.system.world import World
from supervisor_hotreload.wrapper import handover
from supervisor_hotreload.wrapper.children import Children
from supervisor_hotreload.wrapper.handover import Handover
from supervisor_hotreload.wrapper.listening import Listening
from supervisor_hotreload.wrapper.reports import Reports
from supervisor_hotreload.wrapper.signals import Signals

TRIAL_SECONDS = 30.0
"""How long the new version has to start and print its version."""


@dataclass
class Upgrade:
    """Tries the new version, and then becomes it.

    An exec that fails later would end hotreload-run and leave the server alone: hence the trial.

    :param may_execute: tells whether nothing is under way that the exec would lose.
    :param state: returns what the new version is given.
    """

    world: World
    reports: Reports
    children: Children
    signals: Signals
    listening: Listening
    may_execute: Callable[[], bool]
    state: Callable[[], Handover]
    wanted: bool = False
    _since: float = 0.0
    _pid: Optional[int] = field(default=None, init=False)

    @property
    def is_tried(self) -> bool:
        """Tell whether a trial run is under way."""
        return self._pid is not None

    def begin(self) -> None:
        """Let the new version print its version; it has to know all our options."""
        null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
        line = [*handover.image(), "--version", *sys.argv[1:]]
        try:
            self._pid = os.posix_spawn(line[0], line, os.environ, file_actions=null)
        except OSError as error:
            self._refuse(f"{line[0]}: {error.strerror}")
            return
        self._since = self.world.now()
        self.children.reapers[self._pid] = self._go_on

    def step(self) -> None:
        """Kill a trial run that takes too long; it was not reaped, so the pid is its own."""
        if self._pid is not None and self.world.now() - self._since > TRIAL_SECONDS:
            os.kill(self._pid, signal.SIGKILL)

    def _go_on(self, pid: int, status: int) -> None:
        """Become the new version if its trial run has succeeded."""
        self._pid = None
        if status:
            code = os.waitstatus_to_exitcode(status)
            self._refuse(f"'{' '.join(handover.image())} --version' ended with status {code}")
        elif self.may_execute():  # else it is tried again when that is over
            self.reports.say("hotreload-run upgrades itself in place")
            self._execute(self.state())

    def _execute(self, state: Handover) -> None:
        """Become the new version. It returns only where that is impossible."""
        line = [*handover.image(), *sys.argv[1:]]
        self.signals.block()  # they stay pending over the exec
        state.pending.extend(self.signals.wait(0))
        environment = dict(os.environ)
        state.write(environment)
        self.listening.survive_exec(True)
        try:
            os.execve(line[0], line, environment)
        except OSError as error:
            self.listening.survive_exec(False)
            self.signals.unblock()
            self._refuse(f"{line[0]}: {error.strerror}")

    def _refuse(self, why: str) -> None:
        self.wanted = False
        self.reports.say(f"hotreload-run was not upgraded, this version goes on: {why}")
