"""How a chain reload of uWSGI is asked for: 'c' on the master fifo, or a touched file.

Both lie where the application may write: all is done with the rights of its user, the
fifo is the one that the master holds, and a file is that user's own; or root's, where
nobody else can have put it and supervisord's own configuration names it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Optional

from supervisor_hotreload.servers.uwsgi.options import Options
from supervisor_hotreload.system.credentials import Ids, rights_of
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World


def fifo(world: World, master: Process, found: Options) -> Optional[str]:
    """Return the master fifo by the master's own descriptor, which proves whose it is.

    Its path is needed only where the master reads several.
    """
    told = found.paths("master-fifo", world.directory(master))
    if not told and not found.untold("master-fifo"):
        return None
    try:
        links = world.descriptors(master)
    except Unreadable:
        return None
    held = {
        link: f"/proc/{master.pid}/fd/{name}"
        for name, link in links.items()
        if link.startswith("/") and int(name) > 2 and _is_fifo(f"/proc/{master.pid}/fd/{name}")
    }
    try:
        with rights_of(found.rights):
            paths = [os.path.realpath(path) for path in told]
    except OSError:
        paths = []
    for path in paths:
        if path in held:
            return held[path]
    return next(iter(held.values())) if len(held) == 1 else None


def _is_fifo(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False


def write_to_fifo(path: str, command: bytes, rights: Optional[Ids]) -> None:
    """Write to the fifo that a master reads.

    :param rights: who has to be allowed to.
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
    """Let a file be newer by a second at least (uWSGI compares whole seconds).

    :param rights: whose it has to be.
    :param may_be_roots: or root's, where nobody else may have put it.
    :raises OSError: when it is another's, or no regular file.
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
    """Hold a regular file without opening it, which has effects where it is a device."""
    folder, name = os.path.split(path)
    root = Ids.of_user(os.geteuid(), os.getegid())
    with ExitStack() as stack:
        stack.enter_context(rights_of(root if may_be_roots else rights))
        place = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, place)
        held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
        stack.callback(os.close, held)
        seen = os.fstat(held)
        theirs = rights is not None and seen.st_uid == rights.user
        if may_be_roots and not theirs:
            theirs = _is_roots(seen) and _is_roots(os.fstat(place))
        if not stat.S_ISREG(seen.st_mode) or not theirs:
            raise OSError(
                0,
                "it is no regular file of the program's user, nor root's, in a directory that "
                "only root may write to, and named in the command: chown it to the program's user",
            )
        yield held


def _is_roots(seen: os.stat_result) -> bool:
    """Tell whether nobody but root can change what this is."""
    return seen.st_uid == os.geteuid() == 0 and not seen.st_mode & 0o022
