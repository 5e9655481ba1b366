"""Asks an address whether it serves, a little at every look, without ever waiting for it."""

from __future__ import annotations

import errno
import os
import re
import socket
import sys
from contextlib import suppress
from typing import Optional, Union
from urllib.parse import urlsplit

from supervisor_hotreload.identity import Process
from supervisor_hotreload.model import Progress, Readiness, Ready
from supervisor_hotreload.world import World

ANSWER = 1 << 16
"""Bytes of an answer that are read; what is asked for has to be among them."""

PATIENCE = 5.0
"""Seconds until an exchange that has not ended is given up and begun anew."""

PAUSE = 0.1
"""Seconds between two exchanges."""

CHUNKS = 16
"""Reads of one look, at most."""

STATUS = re.compile(rb"[0-9]{3}")

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

    def listener(self) -> Optional[int]:
        """Return the pid of the process that listens on a unix socket (SO_PEERCRED)."""
        if self._socket.family != socket.AF_UNIX:
            return None
        raw = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int.from_bytes(raw[:4], sys.byteorder)

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
                    return b"".join(self._read)
        return None

    def close(self) -> None:
        self._socket.close()


class Endpoint:
    """``ready = http://...``, ``tcp://...``, ``unix:...`` or ``file:...``.

    An address is shared by the generations: whoever asks makes sure first
    that the new one accepts.
    """

    def __init__(self, world: World, ready: Ready) -> None:
        self._world = world
        self._ready = ready
        self._exchange: Optional[Exchange] = None
        self._since = 0.0
        self._last = ""
        self._before = self._stamp() if ready.kind == "file" else None

    def __call__(self, _master: Process) -> Union[Readiness, Progress]:
        """Return Readiness(1), or what the address has said so far."""
        if self._ready.kind == "file":
            stamp = self._stamp()
            good = stamp is not None and stamp != self._before
            return Readiness(1) if good else Progress(f"{self._ready.target} is not new yet")
        try:
            good = self._ask()
        except OSError as error:
            good = False
            self._end(error.strerror or type(error).__name__)
        if good:
            self._end("")
            return Readiness(1)
        return Progress(f"{self._ready.target}: {self._last or 'asked'}")

    def _stamp(self) -> Optional[tuple[int, int]]:
        """Return what tells a new file from an old one; a link is not followed."""
        try:
            seen = os.lstat(self._ready.target.partition(":")[2])
        except OSError:
            return None
        return seen.st_ino, seen.st_mtime_ns

    def _ask(self) -> bool:
        """Go on with an exchange, or begin one.

        :raises OSError: when it fails.
        """
        now = self._world.now()
        if self._exchange is None:
            if now - self._since < PAUSE:
                return False
            self._since = now
            self._exchange = Exchange(*self._request())
        elif now - self._since > PATIENCE:
            raise OSError(0, f"no answer in {PATIENCE:g} s")
        if self._ready.kind != "http":
            return self._exchange.connected()
        answer = self._exchange.look()
        if answer is None:
            return False
        self._end(self._judge(answer))
        return not self._last

    def _request(self) -> tuple[Address, bytes]:
        target = self._ready.target
        if self._ready.kind == "unix":
            return target.partition(":")[2], b""
        parts = urlsplit(target)
        address = (parts.hostname or "", parts.port or 80)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        text = f"GET {path} HTTP/1.0\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
        return address, text.encode() if self._ready.kind == "http" else b""

    def _judge(self, answer: bytes) -> str:
        """Return what is wrong with *answer*, '' when it is good. A redirect is not followed."""
        head, _, body = answer.partition(b"\r\n\r\n")
        words = head.split(maxsplit=2)[:2]
        if len(words) < 2 or not words[0].startswith(b"HTTP/") or not STATUS.fullmatch(words[1]):
            return "no HTTP answer"
        if words[1][:1] != b"2":
            return f"status {words[1].decode()}"
        if self._ready.text.encode() not in body:
            return f"{self._ready.text!r} is not in the body"
        return ""

    def _end(self, last: str) -> None:
        self._last = last
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = None
