"""Finds who of one copy of a server listens: its master, its workers, who accepts."""

from __future__ import annotations

import os
from dataclasses import dataclass

from supervisor_hotreload.servers.generation import walk
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.sockets import Sockets
from supervisor_hotreload.system.world import World


@dataclass(frozen=True)
class ServerCopy:
    """One copy of a server of any kind, as it was at one moment.

    :param tracked: the process that was started.
    :param master: the topmost process under it that holds a listening socket.
    :param workers: the children of the master that hold one too.
    :param listening: how many processes hold one.
    :param accepting: how many processes have one in their epoll set: from that moment on
        they accept. 0 for a server that does not use epoll.
    :param paths: the paths of its unix sockets, with the inode of each socket.
    :param has_ports: it listens where no second copy can, unless both set SO_REUSEPORT.
    """

    tracked: Process
    master: Process
    workers: frozenset[Process]
    listening: int
    accepting: int
    paths: dict[str, int]
    has_ports: bool


def survey(world: World, tracked: Process) -> ServerCopy:
    """Return who listens among *tracked* and what is below it.

    A process whose descriptors cannot be read counts as one that does not listen.
    """
    try:
        known = world.listening(tracked)
    except Unreadable:
        known = {}
    parents = {}
    family = []
    for process, children in walk(world, tracked):
        family.append(process)
        parents.update(dict.fromkeys(children, process))
    seen = {process: _sockets(world, process, known) for process in family}
    holders = [process for process in family if seen[process].held]
    master = holders[0] if holders else tracked
    held = {inode for process in holders for inode in seen[process].held}
    paths = {known[inode]: inode for inode in held if os.path.isabs(known[inode])}
    return ServerCopy(
        tracked=tracked,
        master=master,
        workers=frozenset(p for p in holders if parents.get(p) == master),
        listening=len(holders),
        accepting=sum(bool(seen[process].accepted) for process in holders),
        paths=paths,
        has_ports=len(paths) < len(held),
    )


def _sockets(world: World, process: Process, known: dict[int, str]) -> Sockets:
    try:
        return world.sockets(process, known)
    except Unreadable:
        return Sockets()
