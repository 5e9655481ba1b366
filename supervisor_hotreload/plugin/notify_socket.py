"""The sockets at which supervisord hears its programs (sd_notify), one for each program.

What others send is hostile. A datagram may carry descriptors, and whoever closes the last
reference to one may have to wait for as long as its sender likes: so supervisord receives
only where the kernel refuses descriptors (SO_PASSRIGHTS, Linux 6.16). Elsewhere a child
receives for it. Only the program's own user can reach its socket, and has a budget of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import struct
import time
import traceback
from collections.abc import Iterable
from typing import Any, Optional

from supervisor_hotreload.plugin.log import Log
from supervisor_hotreload.plugin.notify_place import NoPlace, place
from supervisor_hotreload.system.child import forked
from supervisor_hotreload.system.linux import refuse_descriptors
from supervisor_hotreload.system.process import Process, status_of
from supervisor_hotreload.system.sd_notify import Notices

DATAGRAM = 4096
"""Bytes of one datagram that are read."""

BUDGET = 100
"""Datagrams of one program and one second that are read; whoever sends more has to wait."""

DEPTH = 64
"""Ancestors of a sender that are looked at."""

SENDER = struct.Struct("3i")
"""pid, user and group of a sender, as the kernel tells them (unix(7), struct ucred)."""

SWITCH = "HOTRELOAD_NOTIFY_CHILD"
"""A variable of supervisord's environment: a child receives, whatever the kernel can do."""

PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15


class NotifySockets:
    """The sockets of one supervisord.

    :param options: supervisord's ServerOptions.
    """

    def __init__(self, options: Any, notices: Notices) -> None:
        self._options = options
        self._notices = notices
        self._open: dict[str, NotifySocket] = {}
        self._trouble: dict[str, str] = {}

    def open(self, name: str, process: Any) -> str:
        """Listen to a program, if that is not done already.

        :param name: what the program is called.
        :param process: supervisor's Subprocess of it.
        :return: the path of the socket, '' where there can be none.
        """
        known = self._open.get(name)
        if known is not None and known.is_for(process):
            return known.path
        self.close([name])
        try:
            self._open[name] = NotifySocket(self._options, self._notices, name, process)
        except (OSError, AttributeError, NoPlace) as error:  # no SO_PASSCRED but on Linux
            self._trouble[name] = str(error)
            Log(self._options.logger).error(
                f"hotreload: {name}: ready = notify cannot be used, there is no socket for it: "
                f"{error}"
            )
            return ""
        return self._open[name].path

    def path(self, name: str) -> str:
        """Return where a program is heard, '' where it is not."""
        known = self._open.get(name)
        return known.path if known is not None and known.is_open else ""

    def trouble(self, name: str) -> str:
        """Return why a program cannot be heard, '' when that was not found out."""
        return self._trouble.get(name, "")

    def close(self, names: Optional[Iterable[str]] = None) -> None:
        """Forget the sockets of some programs, None: of all."""
        for name in list(self._open) if names is None else names:
            self._trouble.pop(name, None)
            known = self._open.pop(name, None)
            if known is not None:
                known.close()

    def close_all_but(self, names: Iterable[str]) -> None:
        self.close(self._open.keys() - {*names})


class NotifySocket:
    """A dispatcher in supervisord's socket map: what one program says.

    The path is the same after a restart of supervisord: what an earlier one has left knows
    no other.

    :param process: supervisor's Subprocess of the program.
    :raises OSError, NoPlace: when there can be none.
    """

    def __init__(self, options: Any, notices: Notices, name: str, process: Any) -> None:
        self._options = options
        self._notices = notices
        self._name = name
        self._process = process
        self._user = os.geteuid() if process.config.uid is None else process.config.uid
        self._second = 0
        self._heard = 0
        self._receiver = 0
        self._fd = -1
        self.path = place(os.path.abspath(options.pidfile), name, self._user)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            self._by_child = SWITCH in os.environ or not refuse_descriptors(sock)
            self._bind(sock)
            if self._by_child:
                sock = self._received_by_child(sock)
            os.chown(self.path, self._user, -1)
            sock.setblocking(False)
            # supervisord's own reload closes the number behind the back of a socket object
            self._fd = sock.detach()
        finally:
            sock.close()
        self._options.get_socket_map()[self._fd] = self

    def _bind(self, sock: socket.socket) -> None:
        """Take the path; nobody else may write to the folder that it is in."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        before = os.umask(0o177)
        try:
            sock.bind(self.path)
        finally:
            os.umask(before)
        seen = os.lstat(self.path)
        self._file = (seen.st_dev, seen.st_ino)

    def _received_by_child(self, sock: socket.socket) -> socket.socket:
        """Let a child receive from *sock*, and close it here; return what the child sends to."""
        own, others = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        with sock, others:
            self._receiver = forked(lambda: _receive(parent), (sock.fileno(), others.fileno()))
        self._options.pidhistory[self._receiver] = self
        return own

    @property
    def is_open(self) -> bool:
        return self._fd >= 0

    def is_for(self, process: Any) -> bool:
        """Tell whether *process* is heard here as it is configured now."""
        return self.is_open and self._process is process and os.path.exists(self.path)

    def close(self) -> None:
        """Listen no more, and leave nothing behind."""
        if not self.is_open:
            return
        if self._options.get_socket_map().get(self._fd) is self:
            del self._options.get_socket_map()[self._fd]
        with contextlib.suppress(OSError):
            os.close(self._fd)
        self._fd = -1
        if self._receiver:
            with contextlib.suppress(OSError):
                os.kill(self._receiver, signal.SIGKILL)
        with contextlib.suppress(OSError):
            seen = os.lstat(self.path)
            if (seen.st_dev, seen.st_ino) == self._file:
                os.unlink(self.path)
                os.rmdir(os.path.dirname(self.path))

    def finish(self, pid: int, sts: int) -> None:
        """Take note of the end of the child; supervisord.reap calls this."""
        self._receiver = 0
        self._lose()

    def _lose(self) -> None:
        """Know that the child has ended."""
        if self.is_open:
            Log(self._options.logger).warn(
                f"hotreload: {self._name}: the child that received what it says has ended; "
                f"ready = notify can be used again once the program is restarted"
            )
            self.close()

    # what supervisord's loop asks of a dispatcher

    def readable(self) -> bool:
        return self._heard < BUDGET or int(time.monotonic()) != self._second

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        sock = socket.socket(fileno=self._fd)
        try:
            if self._by_child:
                said = sock.recv(SENDER.size + DATAGRAM)
                about, datagram = said[: SENDER.size], said[SENDER.size :]
            else:
                datagram, about = received(sock)
        except BlockingIOError:
            return
        except ConnectionError:
            about = datagram = b""
        finally:
            sock.detach()
        if len(about) < SENDER.size:
            if self._by_child:
                self._lose()
            return
        second = int(time.monotonic())
        self._heard = self._heard + 1 if second == self._second else 1
        self._second = second
        pid, user, _ = SENDER.unpack(about)
        line = self._line(pid) if pid > 0 and user == self._user else ()
        if line:
            self._notices.take(line, datagram, time.monotonic())

    def handle_write_event(self) -> None:
        """Never called: writable() is False."""

    def handle_error(self) -> None:
        Log(self._options.logger).critical(f"hotreload: {traceback.format_exc()}")

    def _line(self, pid: int) -> tuple[Process, ...]:
        """Return a process with its ancestors up to the program's own, none if it has no such."""
        line: list[Process] = []
        for _ in range(DEPTH):
            status = status_of(pid)
            if status is None or status.state in "ZX":
                break
            line.append(status.process)
            if self._options.pidhistory.get(pid) is self._process:
                return tuple(line)
            pid = status.parent
        return ()


def received(sock: socket.socket) -> tuple[bytes, bytes]:
    """Receive one datagram; return it, and who has sent it (b'' where that is hidden)."""
    datagram, about, _, _ = sock.recvmsg(DATAGRAM, socket.CMSG_SPACE(SENDER.size))
    for level, kind, data in about:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            return datagram, data[: SENDER.size]
    return datagram, b""


def _receive(parent: int) -> None:
    """Hand on what comes at descriptor 0 to descriptor 1, for as long as there is a *parent*.

    Runs in a child. There is no room for descriptors: the kernel closes those that come
    along, and only this child waits for that.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(PR_SET_NAME, b"notify-receiver", 0, 0, 0)
    source, target = socket.socket(fileno=0), socket.socket(fileno=1)
    while os.getppid() == parent:
        datagram, about = received(source)
        if about:
            target.send(about + datagram)
