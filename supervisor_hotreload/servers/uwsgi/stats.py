"""Asks the stats server of a uWSGI for its workers."""

from __future__ import annotations

import ipaddress
import json
import os
from dataclasses import dataclass
from typing import Any, Optional

from supervisor_hotreload.system.credentials import rights_of
from supervisor_hotreload.system.exchange import Address, Exchange
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World

ANSWER_BYTES = 1 << 22
"""Limit for one answer of a stats server: 250 threads of 4 workers take 250 KB."""

ANSWER_SECONDS = 3.0
"""How long the stats server has for one answer."""

PAUSE_SECONDS = 0.2
"""Between two questions."""


def stats_address(
    world: World, master: Process, configured: Optional[str], directory: str
) -> Optional[Address]:
    """Return where the stats server listens if the master itself holds that socket, else None.

    :param configured: a path, or HOST:PORT.
    :param directory: the base of a relative path.
    """
    if configured is None:
        return None
    try:
        known = world.listening(master)
        held = {known[inode] for inode in world.sockets(master, known).held}
    except Unreadable:
        return None
    host, colon, port = configured.rpartition(":")
    if colon and port.isdecimal() and len(port) < 6:
        mine = any(name.rpartition(":")[2] == f"{int(port):04X}" for name in held if ":" in name)
        number = loopback(host)
        return (number, int(port)) if mine and number is not None else None
    path = os.path.join(directory, configured)  # the kernel has the name that the master gave
    try:
        with rights_of(world.ids(master)):
            resolved = os.path.realpath(path)
    except PermissionError:
        return None
    return path if {configured, path, resolved} & held and configured[:1] != "@" else None


def loopback(host: str) -> Optional[str]:
    """Return the number of a local address, else None. No name is looked up: that may wait."""
    if host in ("", "0.0.0.0", "localhost"):
        return "127.0.0.1"
    try:
        number = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
    return str(number) if number.is_loopback else None


@dataclass
class Stats:
    """Asks the stats server again and again, and believes no byte of its answers unchecked.

    :param master: the process that has to listen there.
    """

    world: World
    master: Process
    address: Address
    _exchange: Optional[Exchange] = None
    _since: float = 0.0

    def look(self) -> Optional[list[dict[str, Any]]]:
        """Return the workers in a new answer, None while there is none."""
        now = self.world.now()
        try:
            if self._exchange is None:
                if now - self._since < PAUSE_SECONDS:
                    return None
                self._since = now
                self._exchange = Exchange(self.address, limit=ANSWER_BYTES)
                if self._exchange.listener() not in (None, self.master.pid):
                    raise OSError(0, "another process listens there")
            answer = self._exchange.look()
        except OSError:
            self.close()  # it refuses while the master execs itself, or another process listens
            return None
        if answer is None:
            if now - self._since > ANSWER_SECONDS:
                self.close()
            return None
        self.close()
        return workers_of(answer)

    def close(self) -> None:
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = None


def workers_of(answer: bytes) -> Optional[list[dict[str, Any]]]:
    """Return the workers in the answer of a stats server, None when it is no such answer."""
    start = answer.find(b"{")  # stats-http puts headers before it
    try:
        found = json.loads(answer[max(start, 0) :])
    except (ValueError, RecursionError):
        return None
    workers = found.get("workers") if isinstance(found, dict) else None
    if not isinstance(workers, list):
        return None
    return [w for w in workers if isinstance(w, dict) and isinstance(w.get("pid"), int)]
