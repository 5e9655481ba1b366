"""Opens the listening sockets of --listen, which the server inherits."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress

from supervisor_hotreload.system.sockets import is_bound_to

BACKLOG = 2048
"""gunicorn's default."""


class BadAddress(ValueError):
    """An address cannot be listened on; the message names it."""


class Listening:
    """Holds the sockets of every --listen, after those that this process was given itself.

    :param addresses: 'HOST:PORT', '[HOST]:PORT' or 'unix:PATH'.
    :param environment: LISTEN_PID and LISTEN_FDS name sockets given to this
        process (sd_listen_fds(3)).
    :param opened: descriptors that an earlier version of this process has opened.
    :raises BadAddress: when one cannot be opened.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        environment: Mapping[str, str],
        opened: Sequence[int] = (),
    ) -> None:
        self.opened = list(opened) or [_open(address) for address in addresses]
        self.descriptors = [*_given(environment), *self.opened]
        self._paths = {
            address[5:]: descriptor
            for address, descriptor in zip(addresses, self.opened)
            if address.startswith("unix:")
        }

    def survive_exec(self, survive: bool) -> None:
        """Let the sockets stay open over an exec of this process, or not."""
        for descriptor in self.opened:
            os.set_inheritable(descriptor, survive)

    def remove_paths(self) -> None:
        """Unlink the paths of our unix sockets. Never raises."""
        for path, descriptor in self._paths.items():
            with suppress(OSError):
                if is_bound_to(os.fstat(descriptor).st_ino, path):
                    os.unlink(path)


def _given(environment: Mapping[str, str]) -> range:
    """Return the descriptors that were given to this process; none if the number is malformed."""
    given = environment.get("LISTEN_FDS", "")
    mine = environment.get("LISTEN_PID") == str(os.getpid())
    if not mine or not re.fullmatch("[0-9]{1,4}", given):
        return range(3, 3)
    found = range(3, 3 + int(given))
    try:
        sockets = all(stat.S_ISSOCK(os.fstat(descriptor).st_mode) for descriptor in found)
    except OSError:  # one is not open
        sockets = False
    return found if sockets else range(3, 3)


def _open(address: str) -> int:
    """Return the descriptor of a socket that listens on *address*."""
    try:
        unix = address.startswith("unix:")
        made = _bind_path(address[5:]) if unix else _bind_port(address)
        made.listen(BACKLOG)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadAddress(f"--listen {address}: {reason}") from None
    return made.detach()


def _bind_path(path: str) -> socket.socket:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)  # its backlog may be full
        code = asking.connect_ex(path)
    if code in (0, errno.EAGAIN):
        raise ValueError("somebody listens there")
    if code == errno.ECONNREFUSED and stat.S_ISSOCK(os.lstat(path).st_mode):
        os.unlink(path)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(path)
    return made


def _bind_port(address: str) -> socket.socket:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise ValueError("neither HOST:PORT nor unix:PATH")
    host = host.strip("[]")
    passive = socket.AI_PASSIVE
    found = socket.getaddrinfo(host or None, int(port), type=socket.SOCK_STREAM, flags=passive)
    family, kind, protocol, _, where = found[0]
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(where)
    return made
