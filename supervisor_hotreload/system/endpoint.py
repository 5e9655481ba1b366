"""Asks an address whether it serves, a little at every look, without ever waiting for it."""

from __future__ import annotations

import enum
import errno
import os
import socket
import sys
from collections.abc import Container
from contextlib import suppress
from typing import Optional, Union
from urllib.parse import urlsplit

from supervisor_hotreload.core.model import Progress, Readiness, Ready
from supervisor_hotreload.system.credentials import Ids, rights_of
from supervisor_hotreload.system.http_answer import Redirect, judged
from supervisor_hotreload.system.linux import refuse_descriptors
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.sockets import server_side
from supervisor_hotreload.system.world import World

ANSWER = 1 << 16
"""Bytes of an answer that are read; what is asked for has to be among them."""

PATIENCE = 5.0
"""Seconds until the first question is given up and asked anew: a worker that is about to end
may have taken its connection."""

GROWTH = 3
"""How much longer the next one is waited for: a good answer may take long, and a worker with
one thread has to finish those that were given up before."""

REDIRECTS = 3
"""Redirects that are followed for one question."""

PAUSE = 0.1
"""Seconds between two exchanges."""

WITHHELD = 0.5
"""Seconds that the end of a request is held back until it is known who has accepted it."""

END = b"\r\n"
"""What ends a request. The rest is not held back: with TCP_DEFER_ACCEPT (unicorn) nobody
accepts a connection before there is something to read."""

REPEATS = 3
"""Good answers in a row for each worker, where it cannot be told who has given them."""

CHUNKS = 16
"""Reads of one look, at most."""

Address = Union[str, tuple[str, int]]


class Exchange:
    """One connection: what is sent, and all that comes back until the other side closes.

    :param address: the path of a unix socket, or a numerical address and a port.
    :param limit: bytes after which it ends as well.
    :raises OSError: at once, or later from :meth:`look`, when it cannot be made.
    """

    def __init__(self, address: Address, request: bytes = b"", limit: int = ANSWER) -> None:
        unix = isinstance(address, str)
        kind = socket.AF_UNIX if unix else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._socket = socket.socket(kind, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        if unix:
            refuse_descriptors(self._socket)
        self._socket.setblocking(False)
        self._unsent = request
        self._read: list[bytes] = []
        self._room = limit
        code = self._socket.connect_ex(address)
        self._connected = code == 0
        if code not in (0, errno.EINPROGRESS):
            self.close()
            raise OSError(code, os.strerror(code))

    def connected(self) -> bool:
        """Tell whether the other side has taken the connection.

        :raises OSError: when it has refused.
        """
        if not self._connected:
            code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
            with suppress(OSError):  # not connected yet
                self._socket.getpeername()
                self._connected = True
        return self._connected

    def send(self, more: bytes) -> None:
        """Have *more* sent at the next look."""
        self._unsent += more

    def server_side(self) -> Optional[int]:
        """Return the inode of the other side, 0 while nobody has accepted (TCP).

        None while nobody will, before something is sent.
        """
        return server_side(self._socket)

    def listener(self) -> Optional[int]:
        """Return the pid of the process that listens on a unix socket (SO_PEERCRED)."""
        if self._socket.family != socket.AF_UNIX:
            return None
        raw = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int.from_bytes(raw[:4], sys.byteorder)

    @property
    def arrived(self) -> bytes:
        """What has been read so far."""
        return b"".join(self._read)

    def look(self) -> Optional[bytes]:
        """Return the whole answer, None while there is more to come.

        :raises OSError: when the connection fails.
        """
        if not self.connected():
            return None
        with suppress(BlockingIOError):
            while self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
            for _ in range(CHUNKS):
                chunk = self._socket.recv(min(self._room, 1 << 16))
                self._read.append(chunk)
                self._room -= len(chunk)
                if not chunk or self._room <= 0:
                    return self.arrived
        return None

    def close(self) -> None:
        self._socket.close()


class Side(enum.Enum):
    """Who has accepted a connection of ours."""

    NOBODY = "nobody yet"
    NEW = "a worker of the new generation"
    OLD = "somebody else who listens there"
    HIDDEN = "that cannot be told"


class Endpoint:
    """``ready = http://...``, ``tcp://...``, ``unix:...`` or ``file:...``.

    An address is shared by the generations: an answer counts when a new worker has
    accepted the connection. Where that cannot be told (a proxy stands before them, their
    descriptors are hidden, unix sockets) several good answers in a row have to do.

    :param before: the children that there were before the reload.
    :param apart: ports, as the kernel writes them, from which others than workers accept.
    :param alone: the server has no workers, whoever answers is it.
    :param rights: with whose rights a path is looked at, None for our own.
    """

    def __init__(
        self,
        world: World,
        ready: Ready,
        before: Container[Process] = (),
        apart: Container[str] = (),
        alone: bool = False,
        rights: Optional[Ids] = None,
    ) -> None:
        own = Ids.of_user(os.geteuid(), os.getegid())
        self._rights = own if rights is None else rights
        self._world = world
        self._ready = ready
        self._old = before
        self._apart = apart
        self._alone = alone
        self._exchange: Optional[Exchange] = None
        self._side = Side.NOBODY
        self._missed = False
        self._ended = False
        self._tellable = False
        self._row = 0
        self._url = ready.target
        self._redirects = 0
        self._patience = PATIENCE
        self._asked_at = 0.0
        self._opened_at = 0.0
        self._last = ""
        self._before = self._stamp() if ready.kind == "file" else None

    def __call__(self, master: Process) -> Union[Readiness, Progress]:
        """Return Readiness(1), or what the address has said so far."""
        if self._ready.kind == "file":
            stamp = self._stamp()
            good = stamp is not None and stamp != self._before
            return Readiness(1) if good else Progress(f"{self._ready.target} is not new yet")
        try:
            complaint = self._ask(master)
        except OSError as error:
            complaint = error.strerror or type(error).__name__
        if complaint is not None:
            self._end()
            if self._side is Side.NOBODY and self._tellable:
                return Progress(f"{self._ready.target}: {self._last or 'asked'}")
            if self._side is not Side.OLD and self._suffices(complaint, master):
                return Readiness(1)
        return Progress(f"{self._ready.target}: {self._last or 'asked'}")

    def _suffices(self, complaint: str, master: Process) -> bool:
        """Tell whether the end of an exchange proves that the new generation serves."""
        new = self._side is Side.NEW
        self._last = f"a new worker answers: {complaint}" if new else complaint
        self._row = 0 if complaint else self._row + 1
        if complaint or new or self._alone:
            return not complaint
        needed = REPEATS * max(1, len(self._new(master)))
        self._last = f"{self._row} of {needed} good answers in a row"
        return self._row >= needed

    def _new(self, master: Process) -> list[Process]:
        return [child for child in self._world.children(master) if child not in self._old]

    def _stamp(self) -> Optional[tuple[int, int]]:
        """Return what tells a new file from an old one; a link is not followed."""
        try:
            with rights_of(self._rights):
                seen = os.lstat(self._ready.target.partition(":")[2])
        except OSError:
            return None
        return seen.st_ino, seen.st_mtime_ns

    def _ask(self, master: Process) -> Optional[str]:
        """Go on with an exchange, or begin one.

        :return: what is wrong with its outcome, '' when nothing is, None before its end.
        :raises OSError: when it fails.
        """
        now = self._world.now()
        if self._exchange is None:
            if now - self._asked_at < PAUSE:
                return None
            self._asked_at, self._redirects = now, 0
            self._exchange = self._open(self._ready.target)
        elif now - self._asked_at > self._patience:
            given_up, self._patience = self._patience, self._patience * GROWTH
            raise OSError(0, f"no answer in {given_up:g} s")
        if not self._exchange.connected():
            return None
        if not self._alone and self._side is Side.NOBODY:
            self._side = self._accepted_by(self._exchange, master)
            self._tellable |= self._side in (Side.NEW, Side.OLD)
        if self._side is Side.OLD:
            return ""
        told = self._alone or self._side is not Side.NOBODY
        if self._ready.kind != "http":
            return "" if told else None
        if not self._ended and (told or now - self._opened_at >= WITHHELD):
            self._ended = True
            self._exchange.send(END)
        ended = self._exchange.look() is not None
        if not self._ended and not ended:
            return None  # whoever answers before the end of a request is to be known as well
        outcome = judged(self._exchange.arrived, self._ready.text, ended)
        return self._follow(outcome) if isinstance(outcome, Redirect) else outcome

    def _open(self, url: str) -> Exchange:
        """Begin an exchange, which has to prove by itself who has accepted it."""
        self._end()
        self._url, self._opened_at, self._side = url, self._world.now(), Side.NOBODY
        self._missed = self._ended = False
        with rights_of(self._rights):  # a path may lead to somebody else's socket
            return Exchange(*self._request())

    def _follow(self, redirect: Redirect) -> Optional[str]:
        """Ask where *redirect* leads, which is never another server; return what is wrong."""
        if self._redirects == REDIRECTS:
            return f"status {redirect.status} after {REDIRECTS} redirects"
        try:
            url = redirect.url(self._url)
        except ValueError as error:
            return str(error)
        self._redirects += 1
        self._exchange = self._open(url)
        return None

    def _accepted_by(self, exchange: Exchange, master: Process) -> Side:
        """Return who has accepted: only descriptors of *master*'s new children are looked at."""
        new = self._new(master)
        try:
            if self._ready.kind == "unix" or not self._is_theirs(new):
                return Side.HIDDEN
            inode = exchange.server_side()
            if inode is None and self._ready.kind == "tcp":
                return Side.HIDDEN  # nothing is ever sent
            if not inode:
                return Side.NOBODY
            link = f"socket:[{inode}]"
            if any(link in self._world.descriptors(child).values() for child in new):
                return Side.NEW
        except Unreadable:
            return Side.HIDDEN
        seen_before, self._missed = self._missed, True  # it has its descriptor a moment later
        return Side.OLD if seen_before else Side.NOBODY

    def _is_theirs(self, new: list[Process]) -> bool:
        """Tell whether the *new* workers hold a listening socket of the port that is asked."""
        port = f"{urlsplit(self._ready.target).port or 80:04X}"
        if not new or port in self._apart:
            return False
        known = self._world.listening(new[0])
        mine = {inode for inode, name in known.items() if name.rpartition(":")[2] == port}
        return any(mine & self._world.sockets(child, known).held for child in new)

    def _request(self) -> tuple[Address, bytes]:
        if self._ready.kind == "unix":
            return self._ready.target.partition(":")[2], b""
        there = urlsplit(self._ready.target)
        address = (there.hostname or "", there.port or 80)
        parts = urlsplit(self._url)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        text = f"GET {path} HTTP/1.0\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
        return address, text.encode() if self._ready.kind == "http" else b""

    def _end(self) -> None:
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = None
