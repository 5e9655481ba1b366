"""Who listens and who accepts, seen from outside (Linux's /proc; elsewhere nothing is seen)."""

from __future__ import annotations

import math
import os
import re
import socket
import sys
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Callable, Optional

from supervisor_hotreload import identity
from supervisor_hotreload.identity import Process, Unreadable

LISTEN = "0A"
"""A TCP socket's state (/proc/net/tcp)."""

ACCEPTS_CONNECTIONS = 0x10000
"""A unix socket's flag (/proc/net/unix, __SO_ACCEPTCON)."""

UNIX_LINE = re.compile(
    r"(?:[0-9a-f]{8}){1,2}: [0-9A-F]{8} [0-9A-F]{8} (?P<flags>[0-9A-F]{8})"
    r" [0-9A-F]{4} [0-9A-F]{2} +(?P<inode>[0-9]{1,20})(?: (?P<path>.*))?"
)
"""A line of /proc/net/unix (unix_seq_show). Anybody may bind a name with a line feed in it,
which the kernel does not escape: the rest of such a name is a line of its own."""

EPOLL = "anon_inode:[eventpoll]"

FRESH = 0.01
"""Seconds for which what was seen is not looked at again: less than a tick."""

WHOLE = 1.0
"""Seconds after which a number may have been used again for something else."""

FEW = 256
"""Descriptors that are all looked at each time."""

REMEMBERED = 500
"""Processes above which those of earlier reloads are forgotten."""

CONNECTIONS = 20_000
"""Connections of the host that are looked at, at most."""


@dataclass(frozen=True)
class Sockets:
    """The listening sockets of one process at one moment.

    :param held: their inodes.
    :param accepted: those in one of its epoll sets: it accepts from them, from
        that moment on and never earlier.
    """

    held: frozenset[int] = field(default_factory=frozenset)
    accepted: frozenset[int] = field(default_factory=frozenset)


def listening(pid: int) -> dict[int, str]:
    """Return the listening sockets where *pid* lives: inode to address.

    :return: 'ADDRESS:PORT' as /proc/net/tcp writes it in hexadecimal digits, or
        the path of a unix socket.
    """
    found: dict[int, str] = {}
    for kind in ("tcp", "tcp6"):
        for line in _lines(f"/proc/{pid}/net/{kind}"):
            fields = line.split()
            if fields[3] != LISTEN:
                break  # they come first, there may be very many others
            found[int(fields[9])] = fields[1]
    found.update(_unix(_lines(f"/proc/{pid}/net/unix")))
    return found


def _unix(lines: Iterator[str]) -> dict[int, str]:
    """Return the listening unix sockets that a table tells of, without what is torn.

    Of an inode that is told of twice one line is forged, nobody knows which: it listens
    only if both say so, and then its name is not believed.
    """
    told: dict[int, tuple[int, str]] = {}
    for line in lines:
        seen = UNIX_LINE.fullmatch(line.rstrip("\n"))
        if seen is None:
            continue
        inode, flags, path = int(seen["inode"]), int(seen["flags"], 16), seen["path"] or ""
        if inode in told:
            flags, path = flags & told[inode][0], ""
        told[inode] = flags, path
    return {i: path for i, (flags, path) in told.items() if i and flags & ACCEPTS_CONNECTIONS}


@dataclass
class Seen:
    """What is remembered of the descriptors of one process.

    :param links: what each of them is a link to.
    :param at: when they were looked at.
    :param whole_at: when each of them was.
    :param hidden: why they cannot be told.
    """

    links: dict[str, str] = field(default_factory=dict)
    at: float = -math.inf
    whole_at: float = -math.inf
    hidden: str = ""


class Memory:
    """Remembers what was seen a moment ago: a worker may have thousands of descriptors.

    Of more than :data:`FEW`, those that were listening sockets or epoll sets are looked at
    again each time, and so are new numbers; all others once in :data:`WHOLE` seconds.
    """

    def __init__(self) -> None:
        self._seen: dict[Process, Seen] = {}
        self._tables: dict[str, tuple[float, dict[int, str]]] = {}

    def listening(self, process: Process, now: Callable[[], float]) -> dict[int, str]:
        """Return what :func:`listening` does; read once a tick for each network namespace."""
        try:
            place = os.readlink(f"/proc/{process.pid}/ns/net")
        except OSError:
            place = str(process)
        at, found = self._tables.get(place, (-math.inf, {}))
        if now() - at >= FRESH:
            found = listening(process.pid)
            self._tables = {k: v for k, v in self._tables.items() if now() - v[0] < FRESH}
            self._tables[place] = now(), found
        return dict(found)

    def sockets(self, process: Process, known: Container[int], now: Callable[[], float]) -> Sockets:
        """Return which of *known*, that :meth:`listening` has told, *process* holds and
        accepts from.

        :raises Unreadable: when the kernel hides the descriptors, or there are too many.
        """
        links = self._links(process, known, now)
        held = {name: inode for name, inode in _inodes(links).items() if inode in known}
        accepted: set[int] = set()
        for name, link in links.items():
            if held and link == EPOLL:
                watched = _watched(process.pid, name)
                accepted.update(inode for key, inode in held.items() if key in watched)
        return Sockets(frozenset(held.values()), frozenset(accepted))

    def _links(
        self, process: Process, known: Container[int], now: Callable[[], float]
    ) -> dict[str, str]:
        self._forget(now())
        seen = self._seen.setdefault(process, Seen())
        if now() - seen.at >= (WHOLE if seen.hidden else FRESH):
            try:
                self._look(process.pid, seen, known, now())
                seen.hidden = ""
            except Unreadable as error:
                seen.hidden = str(error)
            seen.at = now()
        if seen.hidden:
            raise Unreadable(seen.hidden)
        return seen.links

    def _look(self, pid: int, seen: Seen, known: Container[int], now: float) -> None:
        names = identity.descriptors(pid)
        whole = now - seen.whole_at >= WHOLE or len(names) <= FEW
        links: dict[str, str] = {}
        inodes = {} if whole else _inodes(seen.links)
        for name in names:
            before = seen.links.get(name)
            if whole or before is None or before == EPOLL or inodes.get(name) in known:
                before = _link(pid, name)
            if before is not None:
                links[name] = before
        seen.links = links
        seen.whole_at = now if whole else seen.whole_at

    def _forget(self, now: float) -> None:
        """Forget processes that nobody has asked about for long, now and then."""
        if len(self._seen) > REMEMBERED:
            self._seen = {p: seen for p, seen in self._seen.items() if now - seen.at < WHOLE}


def _inodes(links: dict[str, str]) -> dict[str, int]:
    return {name: int(link[8:-1]) for name, link in links.items() if link.startswith("socket:[")}


SYN_RECV = "03"
"""A state in /proc/net/tcp: half of a connection, though its client may think it whole."""


def server_side(client: socket.socket) -> Optional[int]:
    """Return the inode of the other side of a TCP connection *client* within this host.

    :return: 0 while nobody has accepted it, or when it is not found; None when the kernel
        holds it back until there is something to read (TCP_DEFER_ACCEPT).
    """
    here, there = client.getsockname()[:2], client.getpeername()[:2]
    for kind in ("tcp", "tcp6"):
        wanted = f" {_hexadecimal(there, kind)} {_hexadecimal(here, kind)} "
        for line in islice(_lines(f"/proc/self/net/{kind}"), CONNECTIONS):
            if wanted in line:
                columns = line.split()
                return None if columns[3] == SYN_RECV else int(columns[9])
    return 0


def _hexadecimal(address: tuple[str, int], kind: str) -> str:
    """Return *address* as /proc/net/tcp or tcp6 writes it: words of 32 bits in native order."""
    host, port = address
    packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    if kind == "tcp6" and len(packed) == 4:
        packed = bytes(10) + b"\xff\xff" + packed
    words = (packed[at : at + 4] for at in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(w, sys.byteorder):08X}" for w in words) + f":{port:04X}"


def descriptors(pid: int) -> dict[str, str]:
    """Return what the descriptors of *pid* are links to.

    :raises Unreadable: when the kernel hides them, or there are too many.
    """
    found = ((name, _link(pid, name)) for name in identity.descriptors(pid))
    return {name: link for name, link in found if link is not None}


def _link(pid: int, name: str) -> Optional[str]:
    """Return what a descriptor is a link to, None when it has been closed."""
    try:
        return os.readlink(f"/proc/{pid}/fd/{name}")
    except OSError:
        return None


def _watched(pid: int, descriptor: str) -> set[str]:
    """Return the descriptors in the epoll set *descriptor* of *pid* (proc(5), fdinfo)."""
    words = (line.split() for line in _text(f"/proc/{pid}/fdinfo/{descriptor}"))
    return {found[1] for found in words if found[:1] == ["tfd:"]}


def _lines(path: str) -> Iterator[str]:
    """Yield the lines of a table of the kernel, without its heading."""
    lines = _text(path)
    next(lines, None)
    return lines


def _text(path: str) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            yield from file
    except OSError:
        return
