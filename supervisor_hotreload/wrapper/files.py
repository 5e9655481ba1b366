"""Files of ours in folders that may be somebody else's: nothing there is followed or trusted."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import Callable, Optional

from supervisor_hotreload.system.credentials import Ids, rights_of
from supervisor_hotreload.system.files import read_regular


def write(path: str, text: str) -> None:
    """Put *text* at *path*; a reader sees what was there before or all of it, never a half.

    A symlink at *path* is replaced, not followed.

    :raises OSError: when that cannot be; then nothing has changed.
    """
    beside = f"{path}.{os.getpid()}"
    with suppress(FileNotFoundError):
        os.unlink(beside)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(beside, flags, 0o644), "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(beside, path)
    except OSError:
        with suppress(OSError):
            os.unlink(beside)
        raise


def remove_if(path: str, text: str) -> None:
    """Remove the file *path* if *text* is what it holds and it is no link to another."""
    with suppress(OSError):
        regular = stat.S_ISREG(os.lstat(path).st_mode)
        if regular and read_regular(path, len(text) + 1) == text.encode():
            os.unlink(path)


class Keepsake:
    """A second name of a file that another process may unlink or replace.

    A server that unlinks its unix socket or its pidfile at exit takes away
    what its successor has just put there. All is done with the rights of the server,
    in whose folder it is: what its user may not do to a file, we do not do for it.

    :param ids: as whom the server acts.
    :param genuine: tells of the second name whether the file is the server's own.
    :raises OSError: when there is no such file, or it cannot be kept.
    """

    def __init__(self, path: str, ids: Optional[Ids], genuine: Callable[[str], bool]) -> None:
        self._path = path
        self._second = f"{path}.{os.getpid()}.kept"
        self._ids = ids
        with rights_of(ids):
            with suppress(FileNotFoundError):
                os.unlink(self._second)
            os.link(path, self._second, follow_symlinks=False)
            try:
                if not genuine(self._second):
                    raise PermissionError(1, f"{path} is not what the server has put there")
                self._file = os.lstat(self._second)
            except OSError:
                os.unlink(self._second)
                raise

    def mend(self) -> None:
        """Put the file back if it is gone or another one of its kind is in its place.

        :raises OSError: when that cannot be.
        """
        with rights_of(self._ids):
            with suppress(FileNotFoundError):
                there = os.lstat(self._path)
                kind = stat.S_IFMT(self._file.st_mode)
                if there.st_ino == self._file.st_ino or stat.S_IFMT(there.st_mode) != kind:
                    return
            third = f"{self._second}.2"
            with suppress(FileNotFoundError):
                os.link(self._second, third, follow_symlinks=False)
                os.replace(third, self._path)

    def drop(self) -> None:
        """Remove the second name. Never raises."""
        with suppress(OSError), rights_of(self._ids):
            os.unlink(self._second)


def is_own_file(path: str, ids: Optional[Ids]) -> bool:
    """Tell whether *path* is a regular file of the user that *ids* are, and nobody else's."""
    seen = os.lstat(path)
    return stat.S_ISREG(seen.st_mode) and ids is not None and seen.st_uid == ids.user
