"""Receives the sd_notify messages of programs, at one socket for each program.

A datagram may carry descriptors. The process that closes the last reference to one may have
to wait for as long as its sender likes. So supervisord receives by itself only where the
kernel refuses descriptors (SO_PASSRIGHTS, Linux 6.16). Elsewhere a child of it receives.
Only the user of a program can reach its socket, and each program has a budget of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import stat
import struct
import time
from collections.abc import Iterable
from typing import Any, Optional

from supervisor_hotreload.core.text import printable
from supervisor_hotreload.plugin.log import Log
from supervisor_hotreload.plugin.loop import Dispatcher
from supervisor_hotreload.system.child import forked
from supervisor_hotreload.system.credentials import Ids, rights_of
from supervisor_hotreload.system.linux import libc, refuse_descriptors
from supervisor_hotreload.system.process import ANCESTORS, Process, status_of
from supervisor_hotreload.system.sd_notify import Notices

DATAGRAM_BYTES = 4096
"""Bytes of one datagram that are read."""

DATAGRAMS_A_SECOND = 100
"""Datagrams of one program that are read in one second; a faster sender has to wait."""

SENDER = struct.Struct("3i")
"""pid, user and group of a sender, as the kernel reports them (unix(7), struct ucred)."""

SWITCH = "HOTRELOAD_NOTIFY_CHILD"
"""A variable of supervisord's environment: a child receives, whatever the kernel can do."""

PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15
"""prctl(2)."""

LONGEST_BYTES = 107
"""Bytes of the path of a unix socket (unix(7))."""

ELSEWHERE = ("/run", "/tmp")
"""Where the folder may be, if it cannot be beside supervisord's pidfile."""


class NoPlace(Exception):
    """There is no folder that only supervisord can change and that the program's user can reach."""


class NotifySockets:
    """The notify sockets of one supervisord.

    :param options: supervisord's ServerOptions.
    """

    def __init__(self, options: Any, notices: Notices) -> None:
        self._options = options
        self._notices = notices
        self._open: dict[str, NotifySocket] = {}
        self._trouble: dict[str, str] = {}

    def open(self, name: str, process: Any) -> str:
        """Open the socket of a program, unless it is open.

        :param name: the name of the program.
        :param process: its supervisor.process.Subprocess.
        :return: the path of the socket, '' where there can be none; then the log says why.
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
                f"hotreload: {name}: ready = notify cannot be used, because no socket can be "
                f"opened for the program: {error}"
            )
            return ""
        return self._open[name].path

    def path(self, name: str) -> str:
        """Return the path of the socket of a program, '' when it has none."""
        known = self._open.get(name)
        return known.path if known is not None and known.is_open else ""

    def trouble(self, name: str) -> str:
        """Return why the socket of a program could not be opened, '' when it could."""
        return self._trouble.get(name, "")

    def close(self, names: Optional[Iterable[str]] = None) -> None:
        """Close the sockets of the programs *names*, or of all programs."""
        for name in list(self._open) if names is None else names:
            self._trouble.pop(name, None)
            known = self._open.pop(name, None)
            if known is not None:
                known.close()

    def close_all_but(self, names: Iterable[str]) -> None:
        self.close(self._open.keys() - {*names})


class NotifySocket(Dispatcher):
    """Receives the messages of one program.

    The path depends on the name of the program alone: a process that an earlier supervisord
    has left knows only that path.

    :param notices: gets the messages.
    :param name: the name of the program.
    :param process: its supervisor.process.Subprocess.
    :raises OSError, NoPlace: when the socket cannot be opened.
    """

    def __init__(self, options: Any, notices: Notices, name: str, process: Any) -> None:
        super().__init__(Log(options.logger))
        self._options = options
        self._notices = notices
        self._name = name
        self._process = process
        self._user = os.geteuid() if process.config.uid is None else process.config.uid
        self._second = 0
        self._received = 0
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
            # supervisord closes the descriptor itself when it reloads itself: no object owns it
            self._fd = sock.detach()
        finally:
            sock.close()
        self._options.get_socket_map()[self._fd] = self

    def _bind(self, sock: socket.socket) -> None:
        """Bind to the path. Nobody else may write to its folder."""
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
        """Let a child receive from *sock*, which is closed here.

        :return: the socket to which the child sends what it receives.
        """
        own, others = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        with sock, others:
            self._receiver = forked(lambda: _pass_on(parent), (sock.fileno(), others.fileno()))
        self._options.pidhistory[self._receiver] = self
        return own

    @property
    def is_open(self) -> bool:
        return self._fd >= 0

    def is_for(self, process: Any) -> bool:
        """Tell whether the socket serves the Subprocess *process*, and its path still exists."""
        return self.is_open and self._process is process and os.path.exists(self.path)

    def close(self) -> None:
        """Close the socket, end the child that receives, and remove the path."""
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
        """Note that the child that receives has ended. supervisord.reap calls this."""
        self._receiver = 0
        self._lose()

    def _lose(self) -> None:
        if self.is_open:
            self._log.warn(
                f"hotreload: {self._name}: the child of supervisord that received its messages "
                f"has ended; restart the program to use ready = notify again"
            )
            self.close()

    def readable(self) -> bool:
        return self._received < DATAGRAMS_A_SECOND or int(time.monotonic()) != self._second

    def handle_read_event(self) -> None:
        sock = socket.socket(fileno=self._fd)
        try:
            if self._by_child:
                message = sock.recv(SENDER.size + DATAGRAM_BYTES)
                sender, datagram = message[: SENDER.size], message[SENDER.size :]
            else:
                datagram, sender = receive(sock)
        except BlockingIOError:
            return
        except ConnectionError:
            sender = datagram = b""
        finally:
            sock.detach()
        if len(sender) < SENDER.size:
            if self._by_child:
                self._lose()
            return
        second = int(time.monotonic())
        self._received = self._received + 1 if second == self._second else 1
        self._second = second
        pid, user, _ = SENDER.unpack(sender)
        line = self._line_of(pid) if pid > 0 and user == self._user else ()
        if line:
            self._notices.take(line, datagram, time.monotonic())

    def _line_of(self, pid: int) -> tuple[Process, ...]:
        """Return a process and its ancestors up to the one that supervisord tracks for the
        program, nothing where that is no ancestor of it."""
        line: list[Process] = []
        for _ in range(ANCESTORS):
            status = status_of(pid)
            if status is None or status.state in "ZX":
                break
            line.append(status.process)
            if self._options.pidhistory.get(pid) is self._process:
                return tuple(line)
            pid = status.parent
        return ()


def receive(sock: socket.socket) -> tuple[bytes, bytes]:
    """Receive one datagram.

    :return: the datagram, and its sender as SENDER has it (b'' where the kernel hides it).
    """
    room = socket.CMSG_SPACE(SENDER.size)
    datagram, ancillary, _, _ = sock.recvmsg(DATAGRAM_BYTES, room)
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            return datagram, data[: SENDER.size]
    return datagram, b""


def _pass_on(parent: int) -> None:
    """Pass what arrives at descriptor 0 on to descriptor 1, while *parent* is the parent.

    This runs in a child. It gives the kernel no room for descriptors: the kernel closes those
    that arrive, and only this child waits for that.
    """
    prctl = libc().prctl
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    prctl(PR_SET_NAME, b"notify-receiver", 0, 0, 0)
    source, target = socket.socket(fileno=0), socket.socket(fileno=1)
    while os.getppid() == parent:
        datagram, sender = receive(source)
        if sender:
            target.send(sender + datagram)


def place(pidfile: str, name: str, user: int) -> str:
    """Return the path of a program's socket. It depends on the arguments alone.

    :param pidfile: the path of supervisord's pidfile.
    :param name: the name of the program.
    :param user: the user id that has to reach the socket.
    :raises NoPlace: with the reason against each folder.
    """
    file = f"{_digest(name)}.sock"
    beside = f"{os.path.splitext(pidfile)[0]}.hotreload"
    others = (f"{folder}/supervisor-hotreload-{_digest(pidfile)}" for folder in ELSEWHERE)
    refused = []
    for folder in (beside, *others):
        path = os.path.join(folder, file)
        try:
            if len(os.fsencode(path)) > LONGEST_BYTES:
                raise OSError(0, "the path would be too long for a unix socket")
            _make_own(folder)
            with rights_of(Ids.of_user(user)):
                os.stat(os.path.join(folder, "."))
        except OSError as error:
            refused.append(f"{printable(folder)}: {error.strerror}")
        else:
            return path
    raise NoPlace("; ".join(refused))


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:16]


def _make_own(folder: str) -> None:
    """Make *folder*, or use the one that an earlier supervisord has made.

    :raises OSError: when it belongs to another user, or another user could replace it.
    """
    parent = os.path.realpath(os.path.dirname(folder))
    while True:
        seen = os.stat(parent)
        sticky = seen.st_mode & stat.S_ISVTX
        if seen.st_uid not in (0, os.geteuid()) or (seen.st_mode & 0o022 and not sticky):
            raise OSError(0, f"other users than supervisord's may change {printable(parent)}")
        if parent == os.path.dirname(parent):
            break
        parent = os.path.dirname(parent)
    try:
        os.mkdir(folder, 0o711)
    except FileExistsError:
        pass
    else:
        os.chmod(folder, 0o711)  # mkdir has applied the umask
    seen = os.lstat(folder)
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid() or seen.st_mode & 0o022:
        raise OSError(0, "it belongs to another user, or other users may change it")
