"""Who listens and who accepts, seen from outside (Linux's /proc; elsewhere nothing is seen)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Optional

from supervisor_hotreload.identity import Process
from supervisor_hotreload.world import World

DEPTH = 3
"""How many shells or wrappers deep the server may sit under the tracked process."""

LISTEN = "0A"
"""A TCP socket's state (/proc/net/tcp)."""

ACCEPTS_CONNECTIONS = 0x10000
"""A unix socket's flag (/proc/net/unix, __SO_ACCEPTCON)."""


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
    """Return what *tracked* and its family listen on."""
    listening = _listening(tracked.pid)
    family = dict(_family(world, tracked))
    held = {process: _sockets(process.pid) for process in family}
    holders = {process: found.keys() & listening.keys() for process, found in held.items()}
    master = next((process for process in family if holders[process]), tracked)
    mine = {inode for found in holders.values() for inode in found}
    paths = {listening[inode]: inode for inode in mine}
    return Copy(
        tracked=tracked,
        master=master,
        workers=frozenset(p for p in family if holders[p] and family[p] == master),
        listening=sum(map(bool, holders.values())),
        accepting=sum(_accepts(p.pid, held[p], holders[p]) for p in family if holders[p]),
        paths={path: inode for path, inode in paths.items() if path is not None},
    )


def catches(pid: int, number: int) -> bool:
    """Tell whether *pid* has a handler for signal *number* (proc(5), SigCgt)."""
    for line in _all_lines(f"/proc/{pid}/status"):
        name, _, mask = line.partition(":")
        if name == "SigCgt":
            return bool(int(mask, 16) >> (number - 1) & 1)
    return False


def _family(world: World, tracked: Process) -> Iterator[tuple[Process, Optional[Process]]]:
    """Yield *tracked* and what is below it with its parent, level by level."""
    level: list[tuple[Process, Optional[Process]]] = [(tracked, None)]
    for _ in range(DEPTH + 1):
        yield from level
        level = [(child, process) for process, _ in level for child in world.children(process)]


def _listening(pid: int) -> dict[int, Optional[str]]:
    """Return the listening sockets where *pid* lives, with the paths of unix ones."""
    found: dict[int, Optional[str]] = {}
    for kind in ("tcp", "tcp6"):
        for line in _lines(f"/proc/{pid}/net/{kind}"):
            fields = line.split()
            if fields[3] != LISTEN:
                break  # they come first, there may be very many others
            found[int(fields[9])] = None
    for line in _lines(f"/proc/{pid}/net/unix"):
        fields = line.split(maxsplit=7)
        if int(fields[3], 16) & ACCEPTS_CONNECTIONS:
            path = fields[7].rstrip("\n") if len(fields) == 8 else ""
            found[int(fields[6])] = path if os.path.isabs(path) else None
    return found


def _lines(path: str) -> Iterator[str]:
    """Yield the lines of a table of the kernel, without its heading."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            next(file, None)
            yield from file
    except OSError:
        return


def _sockets(pid: int) -> dict[int, list[str]]:
    """Return the sockets that *pid* holds, and under which descriptors."""
    found: dict[int, list[str]] = {}
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return found
    for descriptor in descriptors:
        try:
            link = os.readlink(f"/proc/{pid}/fd/{descriptor}")
        except OSError:
            continue  # closed between two looks
        if link.startswith("socket:["):
            found.setdefault(int(link[8:-1]), []).append(descriptor)
    return found


def _accepts(pid: int, held: dict[int, list[str]], listening: set[int]) -> bool:
    """Tell whether one of *listening* is in an epoll set of *pid* (proc(5), fdinfo)."""
    wanted = {descriptor for inode in listening for descriptor in held[inode]}
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False
    for descriptor in descriptors:
        try:
            if os.readlink(f"/proc/{pid}/fd/{descriptor}") != "anon_inode:[eventpoll]":
                continue
        except OSError:
            continue
        watched = (line.split() for line in _all_lines(f"/proc/{pid}/fdinfo/{descriptor}"))
        if any(words[:1] == ["tfd:"] and words[1] in wanted for words in watched):
            return True
    return False


def _all_lines(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.readlines()
    except OSError:
        return []
