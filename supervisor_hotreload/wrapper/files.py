"""Removes files from directories that may be another user's, and protects files of the server.

Nothing that is found there is followed or trusted.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Callable, Optional

from supervisor_hotreload.system.credentials import Ids, ids_of, rights_of
from supervisor_hotreload.system.files import read_regular
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.sockets import is_bound_to
from supervisor_hotreload.system.world import World


def remove_if(path: str, text: str) -> None:
    """Remove the file *path* if it holds *text* and is no link to another file."""
    with suppress(OSError):
        regular = stat.S_ISREG(os.lstat(path).st_mode)
        if regular and read_regular(path, len(text) + 1) == text.encode():
            os.unlink(path)


class SecondName:
    """Gives a second name to a file that another process may unlink or replace.

    A server that unlinks its unix socket or its pidfile at its end takes away what its
    successor has put there. All is done with the rights of the server, in whose directory
    the file is: what its user may not do to the file, we do not do for him.

    :param ids: as whom the server acts.
    :param is_genuine: tells of the second name whether the file is the server's own.
    :raises OSError: when there is no such file, or it can have no second name.
    """

    def __init__(self, path: str, ids: Optional[Ids], is_genuine: Callable[[str], bool]) -> None:
        self._path = path
        self._second = f"{path}.{os.getpid()}.second"
        self._ids = ids
        with rights_of(ids):
            with suppress(FileNotFoundError):
                os.unlink(self._second)
            os.link(path, self._second, follow_symlinks=False)
            try:
                if not is_genuine(self._second):
                    raise PermissionError(1, f"{path} is not what the server has put there")
                self._file = os.lstat(self._second)
            except OSError:
                os.unlink(self._second)
                raise

    def restore(self) -> None:
        """Put the file back if it is gone, or another one of its kind is in its place.

        :raises OSError: when that is impossible.
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

    def remove(self) -> None:
        """Remove the second name. Never raises."""
        with suppress(OSError), rights_of(self._ids):
            os.unlink(self._second)


class ProtectedFiles:
    """Protects the files that one copy of a server could take away from another.

    :param pidfile: where the server may write its pid, None when that is unknown.
    """

    def __init__(self, pidfile: Optional[str]) -> None:
        self._pidfile = pidfile
        self._names: list[SecondName] = []

    def protect(self, master: Process, paths: Mapping[str, int], with_pidfile: bool) -> None:
        """Give each file of a copy a second name. A file that is not its own, or can have no
        second name, is left alone.

        :param master: of that copy.
        :param paths: the paths of its unix sockets, with the inode of each socket.
        """
        ids = ids_of(master.pid)
        for path, inode in paths.items():
            with suppress(OSError):
                self._names.append(SecondName(path, ids, partial(is_bound_to, inode)))
        if self._pidfile is not None and with_pidfile:
            with suppress(OSError):
                own = partial(is_own_file, ids=ids)
                self._names.append(SecondName(self._pidfile, ids, own))

    def pidfile_names(self, world: World, process: Process) -> bool:
        """Tell whether *process* has written its pid to the pidfile."""
        if self._pidfile is None:
            return False
        try:
            return world.read_pid(self._pidfile) == process.pid
        except ValueError:
            return False

    def restore(self) -> None:
        """Put back what is gone."""
        for name in self._names:
            with suppress(OSError):  # its directory is gone: the server has to do without
                name.restore()

    def forget(self) -> None:
        """Remove all second names."""
        for name in self._names:
            name.remove()
        self._names.clear()


def is_own_file(path: str, ids: Optional[Ids]) -> bool:
    """Tell whether *path* is a regular file of the user of *ids*."""
    seen = os.lstat(path)
    return stat.S_ISREG(seen.st_mode) and ids is not None and seen.st_uid == ids.user
