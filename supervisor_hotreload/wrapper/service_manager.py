"""Reports the state of the service to systemd (sd_notify(3))."""

from __future__ import annotations

import socket
from contextlib import suppress


class ServiceManager:
    """Sends notifications to one service manager.

    :param address: the value of NOTIFY_SOCKET: a path, or an abstract name after '@'.
    :raises OSError: when there can be no socket.
    """

    def __init__(self, address: str) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        )

    def send(self, *lines: str) -> None:
        """Send assignments such as 'READY=1', one a line. Never raises."""
        text = "\n".join(line.replace("\n", " ") for line in lines)
        with suppress(OSError, ValueError):  # a manager that does not listen ends no service
            self._socket.sendto(text.encode("utf-8", "replace"), self._address)
