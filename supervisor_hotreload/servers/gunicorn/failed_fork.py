"""The fork of a gunicorn master that was to execute a successor, and has failed.

arbiter.reexec forks, calls the hook pre_exec, changes the directory and execs. When one of
these raises, the fork goes on in the master's own loop: it closes its listening sockets, tells
the *old* workers to quit, waits for graceful_timeout, and removes the pidfile. While it lives
the master ignores every other USR2 ('Child exists').
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Optional

from supervisor_hotreload.servers.workers import handed_over, sockets_of
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World

EXEC_SECONDS = 0.3
"""Seconds that a fork has to exec: it does so within milliseconds, unless its hook is slow."""


class Forks:
    """The forks of *master* that have executed nothing.

    :param image: the master's; 0 when hidden.
    """

    def __init__(self, world: World, master: Process, image: int) -> None:
        self._world = world
        self._master = master
        self._image = image
        self._since: dict[Process, float] = {}
        self._sockets: frozenset[str] = frozenset()

    def look(self) -> None:
        """Record the sockets on which the master listens, before it is asked to re-exec."""
        with suppress(Unreadable):
            children = self._world.children(self._master)
            self._sockets = handed_over(self._world, self._master, children)

    def failed(self, born: Iterable[Process]) -> Optional[Process]:
        """Return the one of *born* that has failed: it has closed sockets that it inherited."""
        now = self._world.now()
        self._since = {child: self._since.get(child, now) for child in born}
        old = (child for child, since in self._since.items() if now - since >= EXEC_SECONDS)
        return next((child for child in self.waiting(old) if self._has_closed(child)), None)

    def waiting(self, born: Iterable[Process]) -> list[Process]:
        """Return those of *born* that are no workers and have executed nothing."""
        return [child for child in born if self._image and self._is_waiting(child)]

    def _is_waiting(self, child: Process) -> bool:
        """Tell a fork that holds the heartbeat files of workers from a worker, which holds only
        its own."""
        world = self._world
        if world.image(child) != self._image or world.children(child):
            return False
        try:
            beats = world.heartbeats(child).keys()
            known = set(world.heartbeats(self._master))
            for sibling in world.children(self._master):
                if sibling != child:
                    known.difference_update(world.heartbeats(sibling))
        except Unreadable:
            return False
        return bool(beats) and beats.isdisjoint(known)

    def _has_closed(self, child: Process) -> bool:
        try:
            return bool(self._sockets - sockets_of(self._world, child))
        except Unreadable:
            return False
