"""Tells which process listens and which accepts, from outside (Linux; elsewhere nothing).

The kernel answers by sock_diag. It does not for another network namespace, nor where it
refuses: then the tables of /proc/PID/net are read, into which every user can write names.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import socket
import stat
import time
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import Callable, Optional, Union

from supervisor_hotreload.system import sock_diag
from supervisor_hotreload.system.budget import Unreadable
from supervisor_hotreload.system.cache import FRESH_SECONDS, STALE_SECONDS, Cache
from supervisor_hotreload.system.credentials import ids_of
from supervisor_hotreload.system.descriptors import EPOLL, Descriptors, inode_of, looking
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.sock_diag import Refused, hexadecimal

LISTEN = "0A"
"""The state of a TCP socket that listens (/proc/net/tcp)."""

SYN_RECV = "03"
"""The state of half a connection. Its client may think that the connection is complete."""

ACCEPTS_CONNECTIONS = 0x10000
"""The flag of a unix socket that listens (/proc/net/unix, __SO_ACCEPTCON)."""

UNIX_LINE = re.compile(
    r"(?:[0-9a-f]{8}){1,2}: [0-9A-F]{8} [0-9A-F]{8} (?P<flags>[0-9A-F]{8})"
    r" [0-9A-F]{4} [0-9A-F]{2} +(?P<inode>[0-9]{1,20})(?: (?P<path>.*))?"
)
"""A line of /proc/net/unix (unix_seq_show). Every user can bind a name that contains a line
feed, which the kernel does not escape: the rest of such a name is a line of its own."""

TCP_LINE = re.compile(
    r" *[0-9]+: (?P<here>(?:[0-9A-F]{8}){1,4}:[0-9A-F]{4})"
    r" (?P<there>(?:[0-9A-F]{8}){1,4}:[0-9A-F]{4})"
    r" (?P<state>[0-9A-F]{2}) [0-9A-F]{8}:[0-9A-F]{8} [0-9A-F]{2}:[0-9A-F]{8} [0-9A-F]{8}"
    r" +[0-9]+ +[0-9]+ (?P<inode>[0-9]{1,20})(?: .*)?"
)
"""A line of /proc/net/tcp or tcp6 (get_tcp4_sock)."""

LINES = 8192
"""How many lines of all tables one look reads at most."""

CONNECTIONS = 20_000
"""How many lines are read to find one connection."""

REST = 10
"""An answer is used again for so many times the seconds that it took: the kernel walks over all
unix sockets of the host, and other users may have very many (unix_diag_dump)."""

LINE = 1024
"""Bytes of one line. The longest name of a unix socket is shorter."""


@dataclass(frozen=True)
class Sockets:
    """The listening sockets of one process at one moment.

    :param held: their inodes.
    :param accepted: those that are in one of its epoll sets: it accepts connections from
        them since that moment, and not before.
    """

    held: frozenset[int] = field(default_factory=frozenset)
    accepted: frozenset[int] = field(default_factory=frozenset)


def listening(pid: int) -> dict[int, str]:
    """Return the listening sockets where *pid* lives: inode to address.

    :return: 'ADDRESS:PORT' as /proc/net/tcp writes it in hexadecimal digits, or
        the path of a unix socket, '@name' for an abstract one.
    :raises Unreadable: when there are too many.
    """
    if _namespace(pid) in (None, _namespace(os.getpid())):
        try:
            return dict(sock_diag.listeners())
        except Refused:
            pass
    return _listed(pid)


def _namespace(pid: int) -> Optional[str]:
    """Return the network namespace of *pid*, None when that is hidden."""
    try:
        return looking(lambda: ids_of(pid), lambda: os.readlink(f"/proc/{pid}/ns/net"))
    except OSError:
        return None


def _listed(pid: int) -> dict[int, str]:
    """Return what :func:`listening` does, from the tables."""
    found: dict[int, str] = {}
    table = Table(pid, LINES)
    for kind in ("tcp", "tcp6"):
        for line in table.lines(kind):
            seen = TCP_LINE.fullmatch(line)
            if seen is not None and seen["state"] != LISTEN:
                break  # they come first, there may be very many others
            if seen is not None:
                found[int(seen["inode"])] = seen["here"]
    found.update(_unix(table.lines("unix")))
    return found


def _unix(lines: Iterator[str]) -> dict[int, str]:
    """Return the listening unix sockets of a table, by inode. Torn lines are left out.

    When two lines are about one inode, one of them is forged, and it is unknown which. Then
    the socket listens only if both lines say so, and has no name. A socket whose name goes on
    in the next line has no name either.
    """
    found: dict[int, tuple[int, str]] = {}
    inode = 0
    for line in lines:
        seen = UNIX_LINE.fullmatch(line)
        if seen is None:
            if inode in found:
                found[inode] = found[inode][0], ""
            continue
        inode, flags, path = int(seen["inode"]), int(seen["flags"], 16), seen["path"] or ""
        if inode in found:
            flags, path = flags & found[inode][0], ""
        found[inode] = flags, path
    return {i: path for i, (flags, path) in found.items() if i and flags & ACCEPTS_CONNECTIONS}


class Table:
    """The tables of /proc/PID/net. One look reads a limited number of lines of all of them."""

    def __init__(self, pid: int, lines: int) -> None:
        self._pid = pid
        self._lines = self._left = lines

    def lines(self, kind: str) -> Iterator[str]:
        """Yield the lines of a table without its heading, none when there is no such table.

        :raises Unreadable: when too many lines have been read from all tables.
        """
        path = f"/proc/{self._pid}/net/{kind}"
        try:
            with open(path, "rb") as file:
                file.readline(LINE)
                while line := file.readline(LINE):
                    self._left -= 1
                    if self._left < 0:
                        raise Unreadable(f"{path}: more than {self._lines} sockets")
                    if line.endswith(b"\n"):
                        yield os.fsdecode(line[:-1])
        except OSError:
            return


class SocketView:
    """The listening sockets of processes, remembered for a moment.

    :param descriptors: what the processes hold open.
    :param clock: returns monotonic seconds.
    """

    def __init__(self, descriptors: Descriptors, clock: Callable[[], float]) -> None:
        self._descriptors = descriptors
        self._listening: Cache[str, Union[dict[int, str], Unreadable]] = Cache(clock)

    def listening(self, process: Process) -> dict[int, str]:
        """Return what :func:`listening` does. Each network namespace is asked once a tick, or more
        seldom where that takes long.

        :raises Unreadable: when there are too many. This is remembered for longer.
        """
        place = _namespace(process.pid) or ""
        found = self._listening.fresh(place)
        if found is None:
            began = time.thread_time()
            try:
                found, seconds = listening(process.pid), FRESH_SECONDS
            except Unreadable as error:
                found, seconds = error, STALE_SECONDS
            took = time.thread_time() - began
            self._listening.put(place, found, max(seconds, REST * took))
        if isinstance(found, Unreadable):
            raise Unreadable(found.detail)
        return dict(found)

    def sockets(self, process: Process, known: Container[int]) -> Sockets:
        """Return which of the listening sockets *known* the process holds and accepts from.

        :raises Unreadable: when the kernel hides its descriptors, or there are too many.
        """
        links = self._descriptors.links(process, known)
        inodes = {name: inode_of(link) for name, link in links.items()}
        held = {name: inode for name, inode in inodes.items() if inode and inode in known}
        accepted: set[int] = set()
        for name, link in links.items():
            if held and link == EPOLL:
                watched = self._descriptors.watched(process, name)
                accepted.update(inode for key, inode in held.items() if key in watched)
        return Sockets(frozenset(held.values()), frozenset(accepted))


def is_bound_to(inode: int, path: str) -> bool:
    """Tell whether the listening unix socket *inode* is the file that is at *path* now.

    The kernel knows which file a socket is bound to. Where it cannot be asked, the answer is
    True for any socket file: the caller has to know by other means who holds *inode*.
    """
    try:
        seen = os.lstat(path)
        bound = sock_diag.unix_socket(inode)
    except OSError:
        return False
    except Refused as refused:
        return refused.code != errno.ENOENT and stat.S_ISSOCK(seen.st_mode)
    if not stat.S_ISSOCK(seen.st_mode) or bound is None or bound.file is None:
        return False
    # the device is not compared: stat() reports another one on an overlay or on btrfs
    return bound.state == sock_diag.TCP_LISTEN and bound.file[1] == seen.st_ino & 0xFFFFFFFF


def server_side(client: socket.socket) -> Optional[int]:
    """Return the inode of the other end of the TCP connection *client* within this host.

    :return: 0 while nobody has accepted it, or when it is not found; None while the kernel
        defers the acceptance until there is something to read (TCP_DEFER_ACCEPT).
    :raises Unreadable: when there is too much to search.
    """
    here, there = client.getsockname(), client.getpeername()
    scope = there[3] if len(there) == 4 else 0
    ours, theirs = (_packed(here[0]), here[1]), (_packed(there[0]), there[1])
    try:
        found = sock_diag.connection(theirs, ours, scope)
    except Refused as refused:
        if refused.code == errno.ENOENT and _answers_about_tcp():
            return 0
        return _searched(theirs, ours)
    if found is None:
        return 0
    return None if found.state == sock_diag.TCP_SYN_RECV else found.inode


@functools.cache
def _answers_about_tcp() -> bool:
    """Tell whether the kernel answers such questions, so that 'no such socket' can be believed."""
    try:
        next(sock_diag.listeners(), None)
    except Refused:
        return False
    except Unreadable:
        pass
    return True


def _searched(here: tuple[bytes, int], there: tuple[bytes, int]) -> Optional[int]:
    table = Table(os.getpid(), CONNECTIONS)
    for kind in ("tcp", "tcp6"):
        wanted = tuple(hexadecimal(_mapped(a, kind), port) for a, port in (here, there))
        for line in table.lines(kind):
            seen = TCP_LINE.fullmatch(line) if wanted[0] in line else None
            if seen is not None and (seen["here"], seen["there"]) == wanted:
                return None if seen["state"] == SYN_RECV else int(seen["inode"])
    return 0


def _packed(host: str) -> bytes:
    host = host.partition("%")[0]
    return socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)


def _mapped(packed: bytes, kind: str) -> bytes:
    return bytes(10) + b"\xff\xff" + packed if kind == "tcp6" and len(packed) == 4 else packed
