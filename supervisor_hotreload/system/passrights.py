"""Keeps descriptors that others send out of this process.

Whoever closes the last reference to one waits for as long as its sender likes: a TCP
connection with SO_LINGER and a peer that reads nothing.
"""

from __future__ import annotations

import socket

SO_PASSRIGHTS = 83
"""Linux 6.16; Python does not name it."""


def refuse_descriptors(sock: socket.socket) -> bool:
    """Let the kernel refuse whatever carries descriptors to a unix socket; its sender is told.

    Call it before anybody can reach the socket.

    :return: False where the kernel cannot.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
    except OSError:
        return False
    return True
