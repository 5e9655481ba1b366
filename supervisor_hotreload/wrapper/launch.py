"""Starts copies of the command, each with the standard streams of hotreload-run.

Nothing waits for an exec: the owner of an executable can delay it for as long as he likes (a
write lease, fcntl(2)). A copy says through a pipe what keeps it from executing the command.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, Optional

from supervisor_hotreload.system.process import Process, status_of
from supervisor_hotreload.wrapper.signals import Signals, name_of

FIRST = 3
"""The first descriptor that is passed on (sd_listen_fds(3), SD_LISTEN_FDS_START)."""

CANNOT_EXECUTE, NOT_FOUND = 126, 127
"""The exit statuses of a shell for a command that it cannot execute."""


class CannotStart(Exception):
    """There can be no other process now. The message says why."""


@dataclass
class Launch:
    """One copy of the command that was started.

    :param errors: the end of a pipe: closed by the exec, or written to when that fails.
    :param status: its wait status, once it was reaped.
    """

    process: Process
    errors: Optional[int] = None
    status: Optional[int] = None
    _trouble: str = ""

    def is_executed(self) -> bool:
        """Tell whether the command was executed, or failed to be."""
        if self.errors is None:
            return True
        try:
            text = os.read(self.errors, 4096)
        except BlockingIOError:
            return False
        self._trouble = text.decode("utf-8", "replace")
        self.close()
        return True

    def trouble(self) -> str:
        """Return why the command could not be executed, '' when it was or may still be."""
        self.is_executed()
        return self._trouble

    def end(self) -> str:
        """Return how it has ended, such as 'exited with status 3'."""
        if self.status is None:
            return "exited"
        code = os.waitstatus_to_exitcode(self.status)
        return f"exited with status {code}" if code >= 0 else f"was killed by {name_of(-code)}"

    def close(self) -> None:
        """Close the pipe, which nobody reads any more."""
        if self.errors is not None:
            os.close(self.errors)
            self.errors = None

    def reaped(self, pid: int, status: int) -> None:
        """Remember the wait status."""
        self.status = status


@dataclass(frozen=True)
class Launcher:
    """Starts copies of the command: the first one, and one for each overlap.

    :param words: the command and its arguments.
    :param environment: what it gets; LISTEN_PID, LISTEN_FDS and PWD are added.
    :param sockets: descriptors of listening sockets to pass on.
    :param directory: the working directory, with its symlinks as they are written.
    :param own_group: in a process group of its own, so that it survives this process.
    """

    words: tuple[str, ...]
    environment: Mapping[str, str]
    sockets: Sequence[int]
    signals: Signals
    directory: str
    own_group: bool

    def start(self) -> Launch:
        """Fork one copy, and return at once.

        :raises CannotStart: when there can be none.
        """
        try:
            reader, writer = os.pipe()
        except OSError as error:
            raise CannotStart(f"{self.words[0]}: {error.strerror}") from None
        self.signals.block()
        try:
            pid = os.fork()
            if pid == 0:
                self._execute(writer)
        except OSError as error:
            os.close(reader)
            raise CannotStart(f"{self.words[0]}: {error.strerror}") from None
        finally:
            self.signals.unblock()
            os.close(writer)
        os.set_blocking(reader, False)
        status = status_of(pid)  # it may have ended already, but nobody has reaped it
        if status is None:  # /proc cannot be read: no descriptor is left
            os.close(reader)
            os.kill(pid, 9)
            raise CannotStart(f"{self.words[0]}: the kernel does not show the process {pid}")
        return Launch(status.process, reader)

    def _execute(self, errors: int) -> NoReturn:
        """Become the command. Runs in the child; never returns, never raises."""
        try:
            errors = fcntl.fcntl(errors, fcntl.F_DUPFD_CLOEXEC, FIRST + len(self.sockets))
            environment = self._pass_sockets()
            if self.own_group:
                os.setpgid(0, 0)
            os.chdir(self.directory)  # a symlink may have moved
            self.signals.reset()
            os.execvpe(self.words[0], self.words, environment)
        except OSError as error:
            which = self.directory if error.filename == self.directory else self.words[0]
            missing = isinstance(error, FileNotFoundError) and "/" not in which
            why = "is not in PATH: give its full path" if missing else error.strerror
            os.write(errors, f"{which}: {why}".encode("utf-8", "replace"))
            os._exit(NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_EXECUTE)
        except BaseException as error:  # noqa: BLE001 - a child must never run the parent's code
            os.write(errors, repr(error).encode("utf-8", "replace"))
        finally:
            os._exit(CANNOT_EXECUTE)

    def _pass_sockets(self) -> dict[str, str]:
        """Move the sockets to descriptor 3 and up; return the environment that says so."""
        environment = dict(self.environment, PWD=self.directory)  # gunicorn util.getcwd believes it
        above = FIRST + len(self.sockets)
        copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in self.sockets]
        for number, descriptor in enumerate(copies, FIRST):
            os.dup2(descriptor, number, inheritable=True)
        if copies:
            environment.update(LISTEN_FDS=str(len(copies)), LISTEN_PID=str(os.getpid()))
        return environment
