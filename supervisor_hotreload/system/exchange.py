"""One non-blocking connection: sends a request, and reads until the other side closes."""

from __future__ import annotations

import errno
import os
import socket
import sys
from contextlib import suppress
from typing import Optional, Union

from supervisor_hotreload.system.linux import refuse_descriptors
from supervisor_hotreload.system.sockets import server_side

ANSWER_BYTES = 1 << 16
"""How much of an answer is read. A text that ``ready`` asks for has to be in it."""

CHUNKS = 16
"""How many reads one look makes at most."""

CHUNK_BYTES = 1 << 16

Address = Union[str, tuple[str, int]]
"""The path of a unix socket, or a numerical address and a port."""


class Exchange:
    """One connection. Nothing here waits: call :meth:`look` again and again.

    :param request: is sent as soon as the connection is there.
    :param limit: bytes; the answer ends when so many have been read.
    :raises OSError: when the connection cannot be made. :meth:`connected` and :meth:`look`
        raise it when that is known later.
    """

    def __init__(self, address: Address, request: bytes = b"", limit: int = ANSWER_BYTES) -> None:
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
        """Tell whether the kernel has made the connection.

        :raises OSError: when the other side has refused it.
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
        """Send *more* at the next look."""
        self._unsent += more

    def server_side(self) -> Optional[int]:
        """Return the inode of the other end of a TCP connection; see :func:`server_side`."""
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
        """Send and read what is possible now.

        :return: the whole answer, None while it has not ended.
        :raises OSError: when the connection fails.
        """
        if not self.connected():
            return None
        with suppress(BlockingIOError):
            while self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
            for _ in range(CHUNKS):
                chunk = self._socket.recv(min(self._room, CHUNK_BYTES))
                self._read.append(chunk)
                self._room -= len(chunk)
                if not chunk or self._room <= 0:
                    return self.arrived
        return None

    def close(self) -> None:
        self._socket.close()
