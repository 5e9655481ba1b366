"""USR2: another version of hotreload-run takes the place of this one, in the same process."""

from __future__ import annotations

import os
import signal
import sys
from typing import Callable, Optional

from supervisor_hotreload.wrapper import handover
from supervisor_hotreload.wrapper.handover import Handover
from supervisor_hotreload.wrapper.signals import Signals
from supervisor_hotreload.wrapper.sockets import Listening

PATIENCE = 30.0
"""Seconds that the new version has to start and say what it is."""


class Refused(Exception):
    """This version goes on; the message says why."""


class Upgrade:
    """The trial run of the new version, and then the exec of it.

    An exec that fails later would end the wrapper, and leave the server alone.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = 0.0
        self.pid: Optional[int] = None

    def begin(self) -> int:
        """Let the new code say its version; return the pid, for whoever reaps it.

        :raises Refused: when it cannot be executed.
        """
        null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
        line = [*handover.image(), "--version", *sys.argv[1:]]  # it has to know all options
        try:
            self.pid = os.posix_spawn(line[0], line, os.environ, file_actions=null)
        except OSError as error:
            raise Refused(f"{line[0]}: {error.strerror}") from None
        self._since = self._clock()
        return self.pid

    def step(self) -> None:
        """End a trial run that takes too long; it has not been reaped, so the pid is its own."""
        if self.pid is not None and self._clock() - self._since > PATIENCE:
            os.kill(self.pid, signal.SIGKILL)

    def judge(self, status: int) -> None:
        """:raises Refused: when the trial run has failed."""
        self.pid = None
        if status:
            code = os.waitstatus_to_exitcode(status)
            raise Refused(f"'{' '.join(handover.image())} --version' ended with status {code}")


def execute(state: Handover, signals: Signals, listening: Listening) -> None:
    """Become the new version. Returns never.

    :raises Refused: when it cannot be executed; nothing has changed then.
    """
    line = [*handover.image(), *sys.argv[1:]]
    signals.block()  # they stay pending over the exec
    state.pending.extend(signals.wait(0))
    environment = dict(os.environ)
    state.write(environment)
    listening.keep_over_exec(True)
    try:
        os.execve(line[0], line, environment)
    except OSError as error:
        listening.keep_over_exec(False)
        signals.unblock()
        raise Refused(f"{line[0]}: {error.strerror}") from None
