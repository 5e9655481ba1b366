"""How a chain reload of uWSGI is asked for: 'c' on the master fifo, or a touched file.

Both lie where the application may write: the fifo is the one that the master holds, and
a file is its user's own, or root's where nobody else can have put it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Optional

from supervisor_hotreload.identity import Process, Unreadable
from supervisor_hotreload.servers.uwsgi_options import Options
from supervisor_hotreload.world import World


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
    for path in map(os.path.realpath, told):
        if path in held:
            return held[path]
    return next(iter(held.values())) if len(held) == 1 else None


def _is_fifo(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False


def write_to_fifo(path: str, command: bytes) -> None:
    """Write to the fifo that a master reads.

    :raises OSError: when nobody reads it, or it is no fifo.
    """
    held = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISFIFO(os.fstat(held).st_mode):
            raise OSError(0, "not a fifo")
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        descriptor = os.open(f"/proc/self/fd/{held}", flags)
        try:
            os.write(descriptor, command)
        finally:
            os.close(descriptor)
    finally:
        os.close(held)


def touch(path: str, owners: Iterable[Optional[int]]) -> None:
    """Let a file be newer by a second at least (uWSGI compares whole seconds).

    :param owners: whose it has to be, or root's where nobody else may have put it: it
        may lie where the application writes.
    :raises OSError: when it is another's, or no regular file.
    """
    with _held(path, owners) as held:
        itself, before = f"/proc/self/fd/{held}", os.fstat(held)
        os.utime(itself)
        if int(os.fstat(held).st_mtime) <= int(before.st_mtime):
            os.utime(itself, (before.st_atime, int(before.st_mtime) + 1))


def must_be_touchable(path: str, owners: Iterable[Optional[int]]) -> None:
    """Raise the OSError that :func:`touch` would raise."""
    with _held(path, owners):
        pass


@contextmanager
def _held(path: str, owners: Iterable[Optional[int]]) -> Iterator[int]:
    """Hold a regular file without opening it, which has effects where it is a device."""
    folder, name = os.path.split(path)
    with ExitStack() as stack:
        place = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, place)
        held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
        stack.callback(os.close, held)
        seen = os.fstat(held)
        if not stat.S_ISREG(seen.st_mode) or not _is_theirs(seen, os.fstat(place), owners):
            raise OSError(
                0,
                "it is no regular file of the program's user, nor root's in a directory that "
                "only root may write to: chown it to the program's user",
            )
        yield held


def _is_theirs(
    file: os.stat_result, folder: os.stat_result, owners: Iterable[Optional[int]]
) -> bool:
    """Tell whether a file is of *owners*, or root's where they cannot have linked it to."""
    if file.st_uid != 0 or not {*owners} - {0, None}:
        return file.st_uid in owners
    return os.geteuid() == 0 and folder.st_uid == 0 and not folder.st_mode & 0o022
