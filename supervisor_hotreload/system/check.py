"""Runs an operator's command beside a loop, never inside it."""

from __future__ import annotations

import os
import shlex
import signal
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from typing import Optional

from supervisor_hotreload.core.model import Failure, Fault
from supervisor_hotreload.core.text import printable
from supervisor_hotreload.system.command import ITSELF, Command, RunAs
from supervisor_hotreload.system.process import Process

TAIL = 2000
"""Bytes of the command's output that the answer shows."""


LIMIT = 16 << 20
"""Bytes that it may print: they are kept in a file until it ends."""

LINES = "\n\t"
"""What output is made of beside printable characters."""


class Check:
    """``check = COMMAND``: its exit status decides whether the successor is adopted;
    ``check_before``: whether anything is touched at all.

    It is told what it judges by HOTRELOAD_PROGRAM, HOTRELOAD_OLD_PID and
    HOTRELOAD_NEW_PID.

    A subclass says in which environment it runs, and who reaps it.

    :param name: the program's.
    :param command: split as a shell splits it, run without a shell.
    :param old: the master whose place the successor is to take.
    :param title: what to call it.
    :param fault: the kind of the Failure when it does not agree.
    :param directory: where it runs, None for here.
    :param umask: None for this process's.
    :param run_as: as whom it runs.
    :raises Failure: when there is no room for what it prints.
    """

    def __init__(
        self,
        name: str,
        command: str,
        old: Process,
        title: str = "",
        fault: Fault = Fault.CHECK_FAILED,
        directory: Optional[str] = None,
        umask: Optional[int] = None,
        run_as: RunAs = ITSELF,
    ) -> None:
        self._name = name
        self._words = command
        self._old = old
        self._title = printable(title or f"check ({command})")
        self._fault = fault
        self._directory = directory
        self._umask = umask
        self._run_as = run_as
        self._command: Optional[Command] = None
        self._status: Optional[int] = None
        try:
            self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        except OSError as error:  # no room, no descriptor
            raise self._not_run(f"there is no file for its output: {error}") from None

    def __str__(self) -> str:
        return self._title

    def __call__(self, new: Optional[Process]) -> bool:
        """Return True when the command has agreed; the first call starts it.

        :raises Failure: when it has not.
        """
        if self._command is None:
            self._command = self._start(new)
        if os.fstat(self._output.fileno()).st_size > LIMIT:
            much = f"{self._title} has printed more than {LIMIT >> 20} MiB"
            raise Failure(self._fault, f"{much}{self.tail()}")
        if self._status is None:
            return False
        if self._status == 0:
            return True
        trouble = self._command.trouble()
        if trouble:
            raise self._not_run(trouble)
        code = os.waitstatus_to_exitcode(self._status)
        how = f"exited with status {code}" if code >= 0 else f"was killed by signal {-code}"
        raise Failure(self._fault, f"{self._title} {how}{self.tail()}")

    def finish(self, pid: int, sts: int) -> None:
        """Take the exit status from whoever has reaped the command."""
        self._status = sts

    def tail(self) -> str:
        """Return the end of what it has printed, as the end of a sentence."""
        file = self._output.fileno()  # whose position is the command's own, which may still run
        raw = os.pread(file, TAIL, max(0, os.fstat(file).st_size - TAIL))
        text = raw.decode("utf-8", "replace").strip()
        return f": {printable(text, also=LINES)}" if text else ""

    def close(self) -> None:
        """End the command if it still runs, with all that it has started."""
        if self._command is not None and self._status is None:
            for kill in (os.kill, os.killpg):  # it may not lead a group yet
                with suppress(OSError):
                    kill(self._command.pid, signal.SIGKILL)
        if self._command is not None:
            self._command.close()
        self._output.close()

    def environment(self) -> Mapping[str, str]:
        """Return the environment that the command runs in."""
        return os.environ

    def hint(self) -> str:
        """Return what may be done where the command cannot be run."""
        return ""

    def spawned(self, pid: int) -> None:
        """Tell whoever reaps *pid* to call finish()."""

    def _start(self, new: Optional[Process]) -> Command:
        environment = dict(
            self.environment(),
            HOTRELOAD_PROGRAM=self._name,
            HOTRELOAD_OLD_PID=str(self._old.pid),
            HOTRELOAD_NEW_PID="" if new is None else str(new.pid),
        )
        try:
            words = shlex.split(self._words)
            if not words:
                raise ValueError("it is empty")
            output = self._output.fileno()
            command = Command(
                words, output, environment, self._directory, self._umask, self._run_as
            )
        except (OSError, ValueError) as error:
            raise self._not_run(str(error)) from None
        self.spawned(command.pid)
        return command

    def _not_run(self, why: str) -> Failure:
        return Failure(self._fault, f"{self._title} could not be run: {why}{self.hint()}")
