"""Starts copies of the command, each with the standard streams of this process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NoReturn, Optional

from supervisor_hotreload.system.process import Process, status_of
from supervisor_hotreload.wrapper.signals import Signals

FIRST = 3
"""The first descriptor that is passed on (sd_listen_fds(3), SD_LISTEN_FDS_START)."""


class CannotStart(Exception):
    """The command could not be executed.

    :param status: the exit status that a shell gives it: 127 not found, else 126.
    """

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


class Command:
    """The command as it is started, the first time and at every overlap.

    :param words: the command and its arguments.
    :param environment: what it gets; LISTEN_PID, LISTEN_FDS and PWD are added.
    :param sockets: descriptors of listening sockets to pass on.
    :param folder: the working directory, as written; None for that of this process.
    :param own_group: in a process group of its own, so that it survives this process.
    """

    def __init__(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        sockets: Sequence[int],
        signals: Signals,
        folder: Optional[str],
        own_group: bool,
    ) -> None:
        self._words = list(words)
        self._environment = dict(environment)
        self._sockets = sockets
        self._signals = signals
        self._own_group = own_group
        self.folder = _folder() if folder is None else folder
        self._environment["PWD"] = self.folder  # gunicorn believes it (gunicorn util.getcwd)

    def start(self) -> Process:
        """Start one copy; it has executed the command when this returns.

        :raises CannotStart: when it has not.
        """
        try:
            reader, writer = os.pipe()
        except OSError as error:
            raise CannotStart(f"{self._words[0]}: {error.strerror}", 126) from None
        self._signals.block()
        try:
            pid = os.fork()
            if pid == 0:
                self._execute(writer)
        except OSError as error:
            os.close(reader)
            raise CannotStart(f"{self._words[0]}: {error.strerror}", 126) from None
        finally:
            self._signals.unblock()
            os.close(writer)
        with open(reader, "rb") as errors:
            told = errors.read().decode("utf-8", "replace")  # ends at the exec
        status = status_of(pid)
        if told or status is None:
            os.waitpid(pid, 0)
            code, _, reason = told.partition(" ")
            raise CannotStart(reason, int(code or 126))
        return status.process

    def _execute(self, errors: int) -> NoReturn:
        """Become the command. Runs in the child; never returns, never raises."""
        try:
            errors = fcntl.fcntl(errors, fcntl.F_DUPFD_CLOEXEC, FIRST + len(self._sockets))
            environment = self._pass_sockets()
            if self._own_group:
                os.setpgid(0, 0)
            os.chdir(self.folder)  # anew, a symlink may have moved
            self._signals.reset()
            os.execvpe(self._words[0], self._words, environment)
        except OSError as error:
            code = 127 if isinstance(error, FileNotFoundError) else 126
            which = self.folder if error.filename == self.folder else self._words[0]
            os.write(errors, f"{code} {which}: {error.strerror}".encode())
        except BaseException as error:  # noqa: BLE001 - a child must never run the parent's code
            os.write(errors, f"126 {error!r}".encode())
        finally:
            os._exit(126)

    def _pass_sockets(self) -> dict[str, str]:
        """Move the sockets to descriptor 3 and up and return the environment that says so."""
        if not self._sockets:
            return self._environment
        above = FIRST + len(self._sockets)
        held = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in self._sockets]
        for number, descriptor in enumerate(held, FIRST):
            os.dup2(descriptor, number, inheritable=True)
        return dict(self._environment, LISTEN_FDS=str(len(held)), LISTEN_PID=str(os.getpid()))


def _folder() -> str:
    """Return the working directory as a shell wrote it, with its symlinks."""
    written = os.environ.get("PWD", "")
    with suppress(OSError):  # it names nothing any more
        if os.path.isabs(written) and os.path.samefile(written, "."):
            return written
    return os.getcwd()
