"""The workers of one gunicorn master, on their way out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional

from supervisor_hotreload.servers.lineage import held_together, workers_under
from supervisor_hotreload.servers.reexec import QUICK
from supervisor_hotreload.servers.signals import is_stopped
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World


def handed_over(world: World, master: Process, workers: Iterable[Process]) -> frozenset[str]:
    """Return the sockets, as links, that *master* shares with the first of *workers* that has
    any of it: those on which it listens. The kernel's tables are not read, they may be long.

    :raises Unreadable: when the kernel hides them.
    """
    own = sockets_of(world, master)
    shared = (own & sockets_of(world, worker) for worker in workers)
    return next(filter(None, shared), frozenset())


def sockets_of(world: World, process: Process) -> frozenset[str]:
    """Return the sockets that *process* holds, as links.

    :raises Unreadable: when the kernel hides them.
    """
    links = world.descriptors(process).values()
    return frozenset(link for link in links if link.startswith("socket:"))


class Workers:
    """The workers of one master, also after it has died and left them orphaned.

    :param grace: seconds that orphaned workers have to finish their requests.
    """

    def __init__(self, world: World, master: Process, grace: float) -> None:
        self.outsider: Optional[Process] = None
        self._world = world
        self._master = master
        self._grace = grace
        self._seen: set[Process] = set()
        self._orphaned_at: Optional[float] = None
        self._bare_since: Optional[float] = None
        self._image = world.image(master)
        self._sockets, _ = held_together(world, master)

    def look(self) -> list[Process]:
        """Return those that live, oldest first."""
        self._seen.update(workers_under(self._world, self._master, self._image, self._sockets))
        self._seen = {w for w in self._seen if w != self.outsider and self._world.alive(w)}
        return sorted(self._seen, key=lambda worker: worker.start)

    def workers(self) -> list[Process]:
        """Return the living ones without what the master has executed: a worker is a fork."""
        self._image = self._image or self._world.image(self._master)
        return [w for w in self.look() if self._world.image(w) in (self._image, 0)]

    def unready(self) -> list[Process]:
        """Return those that have never been ready, as far as that is seen."""
        return [worker for worker in self.look() if self._is_unready(worker)]

    def _is_unready(self, worker: Process) -> bool:
        try:
            beats = self._world.heartbeats(worker)
        except Unreadable:
            return False
        return not any(beat.flipped for beat in beats.values())

    def kill(self, processes: Iterable[Process]) -> None:
        for process in processes:
            self._world.signal(process, "KILL")

    def urge(self) -> None:
        """See to it that it ends: what is stopped by a signal hears no other.

        Without a master nobody tells workers to stop: TERM at once, KILL after the grace.
        """
        now = self._world.now()
        if self._world.alive(self._master):
            if is_stopped(self._world, self._master):
                self._world.signal(self._master, "CONT")
            self._urge_bare(now)
            return
        if self._orphaned_at is None:
            self._orphaned_at = now
            for worker in self._seen:
                self._world.signal(worker, "TERM")
        elif now - self._orphaned_at > self._grace:
            self.kill(self._seen)

    def _urge_bare(self, now: float) -> None:
        """End a master that was told to end and has no worker left: nothing is in flight, and
        what keeps it (a thread that it has started, say) might keep it for ever."""
        if self.workers():
            self._bare_since = None
        elif self._bare_since is None:
            self._bare_since = now
        elif now - self._bare_since > QUICK:
            late = now - self._bare_since > 2 * QUICK
            self._world.signal(self._master, "KILL" if late else "QUIT")
