"""Asks the address of the setting ``ready`` whether the new generation serves there.

Each kind of address has its own probe. A probe is called at every step; it never waits.
The generations share an address, so an answer counts when a new worker has accepted the
connection. Where the kernel does not tell who has (a proxy stands before the workers, their
descriptors are hidden, or it is a unix socket), several good answers in a row count.
"""

from __future__ import annotations

import enum
import os
from abc import ABC, abstractmethod
from collections.abc import Container
from typing import Callable, Optional, Union
from urllib.parse import urlsplit

from supervisor_hotreload.core.model import Progress, Readiness, Ready
from supervisor_hotreload.system.credentials import Ids, rights_of
from supervisor_hotreload.system.exchange import Exchange
from supervisor_hotreload.system.http_answer import Redirect, judged
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World

ANSWER_SECONDS = 5.0
"""How long the first question may take; then it is asked again. A worker that is about to end
may have taken the connection with it."""

ANSWER_GROWTH = 3
"""How many times longer each further question may take. A good answer may be slow, and a
worker with one thread first answers the questions that were given up."""

PAUSE_SECONDS = 0.1
"""The time between two questions."""

WITHHELD_SECONDS = 0.5
"""How long the end of an HTTP request is held back until it is known who has accepted it."""

REQUEST_END = b"\r\n"
"""The end of an HTTP request. The rest is sent at once: with TCP_DEFER_ACCEPT (unicorn) a
server accepts no connection before there is something to read."""

REDIRECTS = 3
"""How many redirects are followed for one question."""

REPEATS = 3
"""How many good answers in a row are needed for each worker where it is unknown who answers."""

HTTP_PORT = 80

Probe = Callable[[Process], Union[Readiness, Progress]]
"""Is called with the master of the new generation."""


def endpoint_probe(
    world: World,
    ready: Ready,
    rights: Optional[Ids],
    before: Container[Process] = (),
    apart: Container[str] = (),
    alone: bool = False,
) -> Probe:
    """Return the probe for a ``ready`` of http, tcp, unix or file.

    :param rights: the rights with which a path is looked up; None has none, see rights_of().
    :param before: the children that the master had before the reload.
    :param apart: ports where other processes than workers accept, as the kernel writes them.
    :param alone: the server has no workers: whoever answers is the server.
    """
    if ready.kind == "file":
        return FileProbe(ready.target, rights)
    workers = None if alone else NewWorkers(world, before, apart)
    if ready.kind == "unix":
        return UnixProbe(world, ready.target, workers, rights)
    if ready.kind == "tcp":
        return TcpProbe(world, ready.target, workers)
    return HttpProbe(world, ready.target, workers, ready.text)


class FileProbe:
    """Ready once the file is a new one, or was modified, since the probe was made."""

    def __init__(self, target: str, rights: Optional[Ids]) -> None:
        self._target = target
        self._rights = rights
        self._before = self._stamp()

    def __call__(self, master: Process) -> Union[Readiness, Progress]:
        stamp = self._stamp()
        good = stamp is not None and stamp != self._before
        return Readiness(1) if good else Progress(f"{self._target} is not new yet")

    def _stamp(self) -> Optional[tuple[int, int]]:
        """Return inode and time of modification. A link is not followed."""
        try:
            with rights_of(self._rights):
                seen = os.lstat(path_of(self._target))
        except OSError:
            return None
        return seen.st_ino, seen.st_mtime_ns


class Side(enum.Enum):
    """Who has accepted a connection of ours."""

    NOBODY = "nobody yet"
    NEW = "a worker of the new generation"
    OLD = "another process that listens there"
    HIDDEN = "the kernel does not tell"


class NewWorkers:
    """The workers of the new generation, and what they accept.

    The parameters are those of :func:`endpoint_probe`.
    """

    def __init__(self, world: World, before: Container[Process], apart: Container[str]) -> None:
        self._world = world
        self._before = before
        self._apart = apart

    def of(self, master: Process) -> list[Process]:
        return [child for child in self._world.children(master) if child not in self._before]

    def listen_on(self, port: int, master: Process) -> bool:
        """Tell whether new workers hold a listening socket of *port*."""
        digits = f"{port:04X}"
        new = self.of(master)
        if not new or digits in self._apart:
            return False
        known = self._world.listening(new[0])
        mine = {inode for inode, name in known.items() if name.rpartition(":")[2] == digits}
        return any(mine & self._world.sockets(child, known).held for child in new)

    def hold(self, inode: int, master: Process) -> bool:
        """Tell whether a new worker holds the socket *inode*."""
        link = f"socket:[{inode}]"
        return any(link in self._world.descriptors(w).values() for w in self.of(master))


class AddressProbe(ABC):
    """Ready once an exchange with the address proves that the new generation serves.

    :param target: the address as ``ready`` gives it.
    :param workers: None when the server has no workers.
    """

    def __init__(self, world: World, target: str, workers: Optional[NewWorkers]) -> None:
        self._world = world
        self._target = target
        self._workers = workers
        self._exchange: Optional[Exchange] = None
        self._side = Side.NOBODY
        self._side_was_seen = False
        self._asked_at = 0.0
        self._limit = ANSWER_SECONDS
        self._in_a_row = 0
        self._last = "asked"

    def __call__(self, master: Process) -> Union[Readiness, Progress]:
        """Return Readiness(1), or what the address has answered so far."""
        try:
            complaint = self._go_on(master)
        except OSError as error:
            complaint = error.strerror or type(error).__name__
        if complaint is not None:
            self._close()
            unknown = self._side is Side.NOBODY and self._side_was_seen
            if self._side is not Side.OLD and not unknown and self._proves(complaint, master):
                return Readiness(1)
        return Progress(f"{self._target}: {self._last}")

    @abstractmethod
    def _connect(self) -> Exchange:
        """Begin a connection.

        :raises OSError: when it cannot be made.
        """

    @abstractmethod
    def _accepted_by(self, exchange: Exchange, master: Process) -> Side:
        """Return who has accepted the connection."""

    def _ask(self) -> None:
        """Begin a question."""
        self._open()

    def _answer(self, exchange: Exchange, known: bool) -> Optional[str]:
        """Return what is wrong with the answer, '' for nothing, None before its end.

        :param known: it is known who has accepted the connection, or does not matter.
        """
        return "" if known else None

    def _open(self) -> None:
        """Begin an exchange. It has to prove by itself who has accepted it."""
        self._close()
        self._side = Side.NOBODY
        self._exchange = self._connect()

    def _close(self) -> None:
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = None

    def _go_on(self, master: Process) -> Optional[str]:
        """Go on with the question, or begin one; return as :meth:`_answer` does.

        :raises OSError: when the connection fails, or takes too long.
        """
        now = self._world.now()
        if self._exchange is None:
            if now - self._asked_at < PAUSE_SECONDS:
                return None
            self._asked_at = now
            self._ask()
        elif now - self._asked_at > self._limit:
            given_up, self._limit = self._limit, self._limit * ANSWER_GROWTH
            raise OSError(0, f"no answer in {given_up:g} s")
        exchange = self._exchange
        if exchange is None or not exchange.connected():
            return None
        if self._workers is not None and self._side is Side.NOBODY:
            self._side = self._accepted_by(exchange, master)
            self._side_was_seen |= self._side in (Side.NEW, Side.OLD)
        if self._side is Side.OLD:
            return ""
        return self._answer(exchange, self._workers is None or self._side is not Side.NOBODY)

    def _proves(self, complaint: str, master: Process) -> bool:
        """Tell whether the answer proves that the new generation serves."""
        new = self._side is Side.NEW
        self._last = f"a new worker answers: {complaint}" if new else complaint
        self._in_a_row = 0 if complaint else self._in_a_row + 1
        if complaint or new or self._workers is None:
            return not complaint
        needed = REPEATS * max(1, len(self._workers.of(master)))
        self._last = f"{self._in_a_row} of {needed} good answers in a row"
        return self._in_a_row >= needed


class UnixProbe(AddressProbe):
    """Asks a unix socket to accept a connection. The kernel does not tell who has accepted."""

    def __init__(
        self, world: World, target: str, workers: Optional[NewWorkers], rights: Optional[Ids]
    ) -> None:
        super().__init__(world, target, workers)
        self._rights = rights

    def _connect(self) -> Exchange:
        with rights_of(self._rights):  # the path may lead to the socket of another user
            return Exchange(path_of(self._target))

    def _accepted_by(self, exchange: Exchange, master: Process) -> Side:
        return Side.HIDDEN


class TcpProbe(AddressProbe):
    """Asks a TCP address to accept a connection."""

    deferred = Side.HIDDEN
    """Who counts as the acceptor where the kernel defers the acceptance until the client
    sends something: this probe sends nothing."""

    def __init__(self, world: World, target: str, workers: Optional[NewWorkers]) -> None:
        super().__init__(world, target, workers)
        there = urlsplit(target)
        self._address = (there.hostname or "", there.port or HTTP_PORT)
        self._missed = False

    def _connect(self) -> Exchange:
        self._missed = False
        return Exchange(self._address, self._request())

    def _request(self) -> bytes:
        """Return what is sent at once."""
        return b""

    def _accepted_by(self, exchange: Exchange, master: Process) -> Side:
        assert self._workers is not None
        try:
            if not self._workers.listen_on(self._address[1], master):
                return Side.HIDDEN
            inode = exchange.server_side()
            if inode is None:
                return self.deferred
            if inode == 0:
                return Side.NOBODY
            if self._workers.hold(inode, master):
                return Side.NEW
        except Unreadable:
            return Side.HIDDEN
        seen_before, self._missed = self._missed, True
        return Side.OLD if seen_before else Side.NOBODY  # a descriptor may appear a moment later


class HttpProbe(TcpProbe):
    """Asks an HTTP server, and judges its answer.

    :param text: the body of the answer must contain this.
    """

    deferred = Side.NOBODY

    def __init__(self, world: World, target: str, workers: Optional[NewWorkers], text: str) -> None:
        super().__init__(world, target, workers)
        self._text = text
        self._url = target
        self._redirects = 0
        self._opened_at = 0.0
        self._request_ended = False

    def _ask(self) -> None:
        self._url, self._redirects = self._target, 0
        self._open()

    def _request(self) -> bytes:
        self._opened_at, self._request_ended = self._world.now(), False
        parts = urlsplit(self._url)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        text = f"GET {path} HTTP/1.0\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
        return text.encode()

    def _answer(self, exchange: Exchange, known: bool) -> Optional[str]:
        waited = self._world.now() - self._opened_at >= WITHHELD_SECONDS
        if not self._request_ended and (known or waited):
            self._request_ended = True
            exchange.send(REQUEST_END)
        complete = exchange.look() is not None
        if not self._request_ended and not complete:
            return None  # an answer before the end of the request has to be known as well
        outcome = judged(exchange.arrived, self._text, complete)
        return self._follow(outcome) if isinstance(outcome, Redirect) else outcome

    def _follow(self, redirect: Redirect) -> Optional[str]:
        """Ask where *redirect* leads, which is never another server; return what is wrong."""
        if self._redirects == REDIRECTS:
            return f"status {redirect.status} after {REDIRECTS} redirects"
        try:
            self._url = redirect.url(self._url)
        except ValueError as error:
            return str(error)
        self._redirects += 1
        self._open()
        return None


def path_of(target: str) -> str:
    """Return the path in 'unix:PATH' or 'file:PATH'."""
    return target.partition(":")[2]
