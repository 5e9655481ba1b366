"""Runs a command that judges a reload: a trial or a health check. The loop never waits."""

from __future__ import annotations

import os
import shlex
import signal
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from typing import Callable, Optional

from supervisor_hotreload.core.model import Failure, Fault
from supervisor_hotreload.core.text import printable
from supervisor_hotreload.system.command import ITSELF, Command, RunAs
from supervisor_hotreload.system.process import Process

TAIL_BYTES = 2000
"""How much of the end of the command's output a message shows."""

OUTPUT_BYTES = 16 << 20
"""How much the command may print. A temporary file holds it until the command ends."""

BETWEEN_WORDS = "\n\t"
"""Characters of an output that are not printable and may be shown."""


class JudgingCommand:
    """A command whose exit status decides (core.protocol.Judge).

    ``check = COMMAND`` decides whether the successor is adopted, ``check_before = COMMAND``
    whether anything is changed at all. The environment variables HOTRELOAD_PROGRAM,
    HOTRELOAD_OLD_PID and HOTRELOAD_NEW_PID say what is judged.

    :param name: the name of the program.
    :param command: is split as a shell splits it, and run without a shell.
    :param old: the master of the old generation.
    :param environment: the variables that it gets besides these three.
    :param spawned: called with its pid and this object, whose :meth:`finish` has to be called
        when that pid is reaped.
    :param title: what messages call the command.
    :param fault: the fault when it does not agree.
    :param directory: where it runs; None means the current directory.
    :param umask: None means that of this process.
    :param run_as: the user that it runs as.
    :param hint: what an operator can do when it cannot be run.
    :raises Failure: when no file can be made for its output.
    """

    def __init__(
        self,
        name: str,
        command: str,
        old: Process,
        environment: Mapping[str, str],
        spawned: Callable[[int, JudgingCommand], object],
        title: str = "",
        fault: Fault = Fault.CHECK_FAILED,
        directory: Optional[str] = None,
        umask: Optional[int] = None,
        run_as: RunAs = ITSELF,
        hint: str = "",
    ) -> None:
        self._name = name
        self._words = command
        self._old = old
        self._environment = environment
        self._spawned = spawned
        self._title = printable(title or f"check ({command})")
        self._fault = fault
        self._directory = directory
        self._umask = umask
        self._run_as = run_as
        self._hint = hint
        self._command: Optional[Command] = None
        self._status: Optional[int] = None
        try:
            self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        except OSError as error:  # no room, no descriptor
            raise self._not_run(f"there is no file for its output: {error}") from None

    def __str__(self) -> str:
        return self._title

    def __call__(self, new: Optional[Process]) -> bool:
        """Return True once the command has agreed. The first call starts it.

        :param new: the successor, None when nothing was changed yet.
        :raises Failure: when it has not agreed.
        """
        if self._command is None:
            self._command = self._start(new)
        if os.fstat(self._output.fileno()).st_size > OUTPUT_BYTES:
            much = f"{self._title} has printed more than {OUTPUT_BYTES >> 20} MiB"
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
        """Note the exit status *sts*. Whoever has reaped the command calls this."""
        self._status = sts

    def tail(self) -> str:
        """Return the end of its output as the end of a sentence: ': TEXT', or ''."""
        file = self._output.fileno()  # pread: the command may still run, and shares the position
        raw = os.pread(file, TAIL_BYTES, max(0, os.fstat(file).st_size - TAIL_BYTES))
        text = raw.decode("utf-8", "replace").strip()
        return f": {printable(text, also=BETWEEN_WORDS)}" if text else ""

    def close(self) -> None:
        """End the command if it still runs, and what it has started."""
        if self._command is not None and self._status is None:
            for kill in (os.kill, os.killpg):  # it may have no group of its own yet
                with suppress(OSError):
                    kill(self._command.pid, signal.SIGKILL)
        if self._command is not None:
            self._command.close()
        self._output.close()

    def _start(self, new: Optional[Process]) -> Command:
        environment = dict(
            self._environment,
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
        self._spawned(command.pid, self)
        return command

    def _not_run(self, why: str) -> Failure:
        return Failure(self._fault, f"{self._title} could not be run: {why}{self._hint}")
