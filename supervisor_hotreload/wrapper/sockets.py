"""Listening sockets that this process opens and the server inherits."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Mapping, Sequence

BACKLOG = 2048
"""gunicorn's default."""


class BadAddress(ValueError):
    """An address cannot be listened on; the message names it."""


class Listening:
    """The sockets of every --listen, after those that this process was given itself.

    :param addresses: 'HOST:PORT', '[HOST]:PORT' or 'unix:PATH'.
    :param environment: LISTEN_PID and LISTEN_FDS name sockets given to this
        process (sd_listen_fds(3)).
    :param opened: descriptors that an earlier image of this process has opened.
    :raises BadAddress: when one cannot be opened.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        environment: Mapping[str, str],
        opened: Sequence[int] = (),
    ) -> None:
        self.opened = list(opened) or [_open(address) for address in addresses]
        given = environment.get("LISTEN_FDS", "")
        mine = environment.get("LISTEN_PID") == str(os.getpid()) and given.isdigit()
        self.descriptors = [*range(3, 3 + int(given) if mine else 3), *self.opened]
        self._paths = [address[5:] for address in addresses if address.startswith("unix:")]

    def keep_over_exec(self, keep: bool) -> None:
        for descriptor in self.opened:
            os.set_inheritable(descriptor, keep)

    def remove_paths(self) -> None:
        """Unlink the paths of unix sockets, as whoever binds one has to."""
        for path in self._paths:
            _remove_socket(path)


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
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    if os.path.exists(path):
        if made.connect_ex(path) == 0:
            raise ValueError("somebody listens there")
        _remove_socket(path)
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


def _remove_socket(path: str) -> None:
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
    except FileNotFoundError:
        return
