"""Who listens and who accepts, seen from outside (Linux's /proc; elsewhere nothing is seen)."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from itertools import islice

from supervisor_hotreload.identity import LINUX, Unreadable

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


def sockets(pid: int, known: Container[int]) -> Sockets:
    """Return which of *known*, that :func:`listening` has told, *pid* holds and accepts from.

    :raises Unreadable: when the kernel hides the descriptors.
    """
    links = descriptors(pid)
    held: dict[str, int] = {}
    for descriptor, link in links.items():
        if link.startswith("socket:[") and int(link[8:-1]) in known:
            held[descriptor] = int(link[8:-1])
    accepted: set[int] = set()
    for descriptor, link in links.items():
        if held and link == "anon_inode:[eventpoll]":
            watched = _watched(pid, descriptor)
            accepted.update(inode for key, inode in held.items() if key in watched)
    return Sockets(frozenset(held.values()), frozenset(accepted))


def server_side(client: socket.socket) -> int:
    """Return the inode of the other side of a TCP connection *client* within this host.

    :return: 0 while nobody has accepted it, or when it is not found.
    """
    here, there = client.getsockname()[:2], client.getpeername()[:2]
    for kind in ("tcp", "tcp6"):
        wanted = f" {_hexadecimal(there, kind)} {_hexadecimal(here, kind)} "
        for line in islice(_lines(f"/proc/self/net/{kind}"), CONNECTIONS):
            if wanted in line:
                return int(line.split()[9])
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

    :raises Unreadable: when the kernel hides them.
    """
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, ProcessLookupError):
        if LINUX:
            return {}
        raise Unreadable(f"{folder}: this system has none") from None
    except PermissionError:
        raise Unreadable(f"{folder}: permission denied") from None
    links: dict[str, str] = {}
    for name in names:
        try:
            links[name] = os.readlink(f"{folder}/{name}")
        except OSError:
            continue  # closed between two looks
    return links


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
