"""What the stats server of a uWSGI tells."""

from __future__ import annotations

import ipaddress
import json
import os
from typing import Any, Optional

from supervisor_hotreload.system.credentials import rights_of
from supervisor_hotreload.system.exchange import Address, Exchange
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World

STATS = 1 << 22
"""Bytes of one answer of a stats server, at most."""

STATS_PATIENCE = 3.0
"""Seconds until an answer of the stats server is given up."""

STATS_PAUSE = 0.2
"""Seconds between two questions."""


def stats_address(
    world: World, master: Process, told: Optional[str], directory: str
) -> Optional[Address]:
    """Return where the stats server listens, if the master itself holds that socket.

    :param told: the configured address, a path or HOST:PORT.
    :param directory: what a path is relative to.
    """
    if told is None:
        return None
    try:
        known = world.listening(master)
        held = {known[inode] for inode in world.sockets(master, known).held}
    except Unreadable:
        return None
    host, colon, port = told.rpartition(":")
    if colon and port.isdecimal() and len(port) < 6:
        mine = any(name.rpartition(":")[2] == f"{int(port):04X}" for name in held if ":" in name)
        number = loopback(host)
        return (number, int(port)) if mine and number is not None else None
    path = os.path.join(directory, told)  # the kernel knows it as the master has named it
    try:
        with rights_of(world.ids(master)):
            resolved = os.path.realpath(path)
    except PermissionError:
        return None
    return path if {told, path, resolved} & held and told[:1] != "@" else None


def loopback(host: str) -> Optional[str]:
    """Return the number of a local address; a name is never looked up, for that blocks."""
    if host in ("", "0.0.0.0", "localhost"):
        return "127.0.0.1"
    try:
        number = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
    return str(number) if number.is_loopback else None


class Stats:
    """Asks the stats server again and again; every byte of its answers is distrusted.

    :param master: who has to listen there.
    """

    def __init__(self, world: World, master: Process, address: Address) -> None:
        self._world = world
        self._master = master
        self._address = address
        self._exchange: Optional[Exchange] = None
        self._since = 0.0

    def look(self) -> Optional[list[dict[str, Any]]]:
        """Return the workers of a new answer, None while there is none."""
        now = self._world.now()
        try:
            if self._exchange is None:
                if now - self._since < STATS_PAUSE:
                    return None
                self._since = now
                self._exchange = Exchange(self._address, limit=STATS)
                if self._exchange.listener() not in (None, self._master.pid):
                    raise OSError(0, "somebody else's")
            answer = self._exchange.look()
        except OSError:
            self.close()  # it refuses while the master execs itself, or it is another's
            return None
        if answer is None:
            if now - self._since > STATS_PATIENCE:
                self.close()
            return None
        self.close()
        return workers_of(answer)

    def close(self) -> None:
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = None


def workers_of(answer: bytes) -> Optional[list[dict[str, Any]]]:
    """Return the workers that a stats server tells of, None when it is no such answer."""
    start = answer.find(b"{")  # stats-http puts headers before it
    try:
        told = json.loads(answer[max(start, 0) :])
    except (ValueError, RecursionError):
        return None
    workers = told.get("workers") if isinstance(told, dict) else None
    if not isinstance(workers, list):
        return None
    return [w for w in workers if isinstance(w, dict) and isinstance(w.get("pid"), int)]
