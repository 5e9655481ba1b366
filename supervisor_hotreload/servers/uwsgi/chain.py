"""Asks uWSGI for a chain reload: by 'c' on the master fifo, or by a touched file.

Both lie where the application may write. So everything here is done with the rights of the
program's user. The fifo is the one that the master holds. The file belongs to that user, or
to root where only root can have put it there and supervisord's own configuration names it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Optional

from supervisor_hotreload.core.model import Failure, Fault
from supervisor_hotreload.core.text import printable
from supervisor_hotreload.servers.uwsgi.options import UwsgiOptions
from supervisor_hotreload.system.credentials import Ids, rights_of
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World

TOUCH = "touch-chain-reload"

MAX_TOUCHED = 8
"""Files that are tried, one after the other."""


@dataclass(frozen=True)
class Chain:
    """Asks one master for a chain reload.

    :param by_root: root starts the program, and no other user is configured for it.
    """

    world: World
    master: Process
    options: UwsgiOptions
    by_root: bool

    def refusal(self) -> str:
        """Return why a chain reload cannot be asked for, '' when it can."""
        return "" if self._fifo() is not None else self._touchable()[1]

    def ask(self) -> None:
        """Ask the master for a chain reload.

        :raises Failure: when that is not possible.
        """
        path = self._fifo()
        try:
            if path is not None:
                write_to_fifo(path, b"c", self.options.rights)
                return
            path, why = self._touchable()
            if path is None:
                raise Failure(Fault.NOT_READY, f"a chain reload {why}")
            touch(path, self.options.rights, self._may_be_roots(path))
        except OSError as error:
            raise Failure(
                Fault.NOT_READY,
                f"a chain reload cannot be asked for by {printable(str(path))}: {error.strerror}",
            ) from None

    def _fifo(self) -> Optional[str]:
        """Return the path of the master fifo by the master's own descriptor, or None.

        The descriptor proves whose the fifo is. The configured path is needed only where the
        master reads several fifos.
        """
        found, master = self.options, self.master
        configured = found.paths("master-fifo", self.world.directory(master))
        if not configured and not found.why_unknown("master-fifo"):
            return None
        try:
            links = self.world.descriptors(master)
        except Unreadable:
            return None
        held = {
            link: f"/proc/{master.pid}/fd/{name}"
            for name, link in links.items()
            if link.startswith("/") and int(name) > 2 and _is_fifo(f"/proc/{master.pid}/fd/{name}")
        }
        try:
            with rights_of(found.rights):
                paths = [os.path.realpath(path) for path in configured]
        except OSError:
            paths = []
        for path in paths:
            if path in held:
                return held[path]
        return next(iter(held.values())) if len(held) == 1 else None

    def _touchable(self) -> tuple[Optional[str], str]:
        """Return the first file that may be touched, or None and why there is none."""
        found = self.options
        paths = found.paths(TOUCH, self.world.directory(self.master))
        if not paths:
            why = found.why_unknown("master-fifo", TOUCH)
            return None, f"needs master-fifo or {TOUCH}" + (f" ({why})" if why else "")
        refused = []
        for path in paths[:MAX_TOUCHED]:
            try:
                must_be_touchable(path, found.rights, self._may_be_roots(path))
            except OSError as error:
                refused.append(f"{printable(path)}: {error.strerror}")
            else:
                return path, ""
        return None, f"cannot be asked for by {'; nor by '.join(refused)}"

    def _may_be_roots(self, path: str) -> bool:
        """Tell whether *path* may be root's: supervisord's own configuration names it, for a
        program that root starts."""
        stated = self.options.stated.get(TOUCH, ())
        named = (os.path.join(self.options.directory, one) for one in stated)
        return self.by_root and path in named


def _is_fifo(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False


def write_to_fifo(path: str, command: bytes, rights: Optional[Ids]) -> None:
    """Write to the fifo that a master reads, with *rights*.

    :raises OSError: when nobody reads it, or it is no fifo.
    """
    held = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISFIFO(os.fstat(held).st_mode):
            raise OSError(0, "not a fifo")
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        with rights_of(rights):
            descriptor = os.open(f"/proc/self/fd/{held}", flags)
        try:
            os.write(descriptor, command)
        finally:
            os.close(descriptor)
    finally:
        os.close(held)


def touch(path: str, rights: Optional[Ids], may_be_roots: bool = False) -> None:
    """Make a file newer by at least one second (uWSGI compares whole seconds).

    :param rights: those of the user to whom it has to belong.
    :param may_be_roots: accept a file of root too, where nobody else can have put it there.
    :raises OSError: when it belongs to another user, or is no regular file.
    """
    with _held(path, rights, may_be_roots) as held:
        itself, before = f"/proc/self/fd/{held}", os.fstat(held)
        os.utime(itself)
        if int(os.fstat(held).st_mtime) <= int(before.st_mtime):
            os.utime(itself, (before.st_atime, int(before.st_mtime) + 1))


def must_be_touchable(path: str, rights: Optional[Ids], may_be_roots: bool = False) -> None:
    """Raise the OSError that :func:`touch` would raise."""
    with _held(path, rights, may_be_roots):
        pass


@contextmanager
def _held(path: str, rights: Optional[Ids], may_be_roots: bool) -> Iterator[int]:
    """Hold a regular file without opening it: to open a device has effects."""
    folder, name = os.path.split(path)
    root = Ids.of_user(os.geteuid(), os.getegid())
    with ExitStack() as stack:
        stack.enter_context(rights_of(root if may_be_roots else rights))
        place = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, place)
        held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
        stack.callback(os.close, held)
        seen = os.fstat(held)
        accepted = rights is not None and seen.st_uid == rights.user
        if may_be_roots and not accepted:
            accepted = _is_roots(seen) and _is_roots(os.fstat(place))
        if not stat.S_ISREG(seen.st_mode) or not accepted:
            raise OSError(
                0,
                "it is no regular file of the program's user: chown it to that user (a file of "
                "root counts only where the command names it and only root can write to its "
                "directory)",
            )
        yield held


def _is_roots(seen: os.stat_result) -> bool:
    """Tell whether only root can change this file or directory."""
    return seen.st_uid == os.geteuid() == 0 and not seen.st_mode & 0o022
