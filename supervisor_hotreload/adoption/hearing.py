"""The socket at which supervisord hears its programs (sd_notify), one for all of them."""

from __future__ import annotations

import array
import hashlib
import os
import socket
import struct
import time
import traceback
from typing import Any

from supervisor_hotreload import identity
from supervisor_hotreload.adoption.log import Log
from supervisor_hotreload.identity import Process
from supervisor_hotreload.notices import Notices

DATAGRAM = 4096
"""Bytes of one datagram that are read."""

BUDGET = 100
"""Datagrams of one second that are read; whoever sends more has to wait."""

CREDENTIALS = struct.Struct("3i")
"""pid, user and group of a sender, as the kernel tells them (unix(7), struct ucred)."""


class Hearing:
    """A dispatcher in supervisord's socket map, made once a program with ``ready = notify``
    is to be started.

    The socket's name is the same after a restart of supervisord: what an earlier one has
    left knows no other. It is abstract, so that a program may be anybody's and anywhere.

    :param options: supervisord's ServerOptions.
    """

    def __init__(self, options: Any, notices: Notices) -> None:
        self._options = options
        self._notices = notices
        self._fd = -1
        self._second = 0
        self._heard = 0

    def open(self) -> str:
        """Listen, if that is not done already.

        :return: the name of the socket, '' where there can be none.
        """
        if not self._notices.address:
            try:
                self._notices.address = self._bind()
                self._notices.trouble = ""
            except (OSError, AttributeError) as error:  # no SO_PASSCRED but on Linux
                self._notices.trouble = str(error)
                Log(self._options.logger).error(
                    f"hotreload: ready = notify cannot be used, there is no socket for it: {error}"
                )
        return self._notices.address

    def _bind(self) -> str:
        path = os.path.abspath(self._options.pidfile)
        name = "supervisor-hotreload-" + hashlib.sha256(path.encode()).hexdigest()[:16]
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            sock.setblocking(False)
            try:
                sock.bind(f"\0{name}")
            except OSError:  # somebody has it, who need not be a friend
                name = f"{name}-{os.getpid()}-{time.monotonic_ns():x}"
                sock.bind(f"\0{name}")
            # supervisord's own reload closes the number behind the back of a socket object
            self._fd = sock.detach()
        finally:
            sock.close()
        self._options.get_socket_map()[self._fd] = self
        return f"@{name}"

    # what supervisord's loop asks of a dispatcher

    def readable(self) -> bool:
        return self._heard < BUDGET or int(time.monotonic()) != self._second

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        sock = socket.socket(fileno=self._fd)
        try:
            room = socket.CMSG_SPACE(CREDENTIALS.size)
            datagram, about, _, _ = sock.recvmsg(DATAGRAM, room)
        except BlockingIOError:
            return
        finally:
            sock.detach()
        second = int(time.monotonic())
        self._heard = self._heard + 1 if second == self._second else 1
        self._second = second
        pid = sender(about)
        line = self._line(pid) if pid else ()
        if line:
            self._notices.take(line, datagram, time.monotonic())

    def handle_write_event(self) -> None:
        """Never called: writable() is False."""

    def handle_error(self) -> None:
        Log(self._options.logger).critical(f"hotreload: {traceback.format_exc()}")

    def _line(self, pid: int) -> tuple[Process, ...]:
        """Return a process with its ancestors up to a supervised one, none if there is none."""
        line: list[Process] = []
        for number in (pid, *identity.ancestors(pid)):
            process = identity.lookup(number)
            if process is None:
                return ()
            line.append(process)
            if number in self._options.pidhistory:
                return tuple(line)
        return ()


def sender(about: list[tuple[int, int, bytes]]) -> int:
    """Return the pid of who has sent a datagram, 0 when it is hidden; descriptors that
    came along are closed."""
    pid = 0
    for level, kind, data in about:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            pid = CREDENTIALS.unpack(data[: CREDENTIALS.size])[0]
        elif level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array.array("i", data[: len(data) - len(data) % 4])
            for number in numbers:
                os.close(number)
    return pid
