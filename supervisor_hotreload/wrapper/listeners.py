"""A server as one copy of a family that listens: who is its master, and who accepts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Optional

from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.sockets import Sockets
from supervisor_hotreload.system.world import World

DEPTH = 3
"""How many shells or wrappers deep the server may sit under the tracked process."""


@dataclass(frozen=True)
class Copy:
    """One copy of a server as it was at one moment.

    :param tracked: the process that was started.
    :param master: the topmost process under it that holds a listening socket.
    :param workers: the children of the master that hold one too.
    :param listening: how many processes hold one.
    :param accepting: how many processes have one in their epoll set: from the
        first moment on when they accept, never earlier. 0 for a server that
        does not use epoll.
    :param paths: the unix sockets' paths, and their inode in the kernel.
    """

    tracked: Process
    master: Process
    workers: frozenset[Process]
    listening: int
    accepting: int
    paths: dict[str, int]


def survey(world: World, tracked: Process) -> Copy:
    """Return what *tracked* and its family listen on; what cannot be seen listens on nothing."""
    try:
        known = world.listening(tracked)
    except Unreadable:
        known = {}
    family = dict(_family(world, tracked))
    seen = {process: _sockets(world, process, known) for process in family}
    holders = [process for process in family if seen[process].held]
    master = holders[0] if holders else tracked
    mine = {inode for process in holders for inode in seen[process].held}
    return Copy(
        tracked=tracked,
        master=master,
        workers=frozenset(p for p in holders if family[p] == master),
        listening=len(holders),
        accepting=sum(bool(seen[process].accepted) for process in holders),
        paths={known[inode]: inode for inode in mine if os.path.isabs(known[inode])},
    )


def _sockets(world: World, process: Process, known: dict[int, str]) -> Sockets:
    try:
        return world.sockets(process, known)
    except Unreadable:
        return Sockets()


def _family(world: World, tracked: Process) -> Iterator[tuple[Process, Optional[Process]]]:
    """Yield *tracked* and what is below it with its parent, level by level."""
    level: list[tuple[Process, Optional[Process]]] = [(tracked, None)]
    for _ in range(DEPTH + 1):
        yield from level
        level = [(child, process) for process, _ in level for child in world.children(process)]
