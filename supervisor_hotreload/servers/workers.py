"""The workers of one master, how they are ended, and what it leaves when it has died."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Callable, Optional

from supervisor_hotreload.servers.lineage import held_together, workers_under
from supervisor_hotreload.servers.signals import QUICK_SECONDS, Rung, is_stopped, rung
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World

BOOT_GRACE_SECONDS = 2.0
"""Seconds that a refused successor has to end its workers that never became ready."""


def sockets_of(world: World, process: Process) -> frozenset[str]:
    """Return the sockets that *process* holds, as links.

    :raises Unreadable: when the kernel hides them.
    """
    links = world.descriptors(process).values()
    return frozenset(link for link in links if link.startswith("socket:"))


def handed_over(world: World, master: Process, workers: Iterable[Process]) -> frozenset[str]:
    """Return the sockets, as links, that *master* shares with the first of *workers* that shares
    any: those on which it listens. The kernel's socket tables are not read, they may be long.

    :raises Unreadable: when the kernel hides them.
    """
    own = sockets_of(world, master)
    shared = (own & sockets_of(world, worker) for worker in workers)
    return next(filter(None, shared), frozenset())


class Workers:
    """The workers of *master*.

    :param orphan_signal: ends an orphaned worker gracefully; '': it ends by itself.
    :param quick_signal: ends the master at once.
    :param grace: seconds that orphaned workers have to finish their requests.
    """

    def __init__(
        self, world: World, master: Process, orphan_signal: str, quick_signal: str, grace: float
    ) -> None:
        self.successor: Optional[Process] = None
        """A child of the master that is no worker."""
        self._world = world
        self._master = master
        self._orphan_signal = orphan_signal
        self._quick_signal = quick_signal
        self._grace = grace
        self._seen: set[Process] = set()
        self._orphaned_at: Optional[float] = None
        self._empty_since: Optional[float] = None
        self._image = world.image(master)
        self._sockets, _ = held_together(world, master)

    def look(self) -> list[Process]:
        """Return those that live, oldest first."""
        self._seen.update(workers_under(self._world, self._master, self._image, self._sockets))
        self._seen = {w for w in self._seen if w != self.successor and self._world.alive(w)}
        return sorted(self._seen, key=lambda worker: worker.start)

    def forks(self) -> list[Process]:
        """Return the living ones that are forks of the master, without what it has executed."""
        self._image = self._image or self._world.image(self._master)
        return [w for w in self.look() if self._world.image(w) in (self._image, 0)]

    def kill(self, processes: Iterable[Process]) -> None:
        """Send KILL to *processes*."""
        for process in processes:
            self._world.signal(process, "KILL")

    def kill_all(self) -> None:
        """Send KILL to the master and all its workers."""
        self.kill([self._master, *self.look()])

    def retirement(self, graceful_signal: str, patience: float) -> Iterator[Rung]:
        """Yield the ladder for an old master: graceful, quick, KILL.

        A master without workers has no request in flight, and gets the quick signal at once.

        :param patience: seconds that the workers have to finish their requests.
        """
        first = graceful_signal if self.look() else self._quick_signal
        yield rung(self._world, self._master, first, patience)
        yield from self._quick_end()

    def dismissal(
        self,
        graceful_signal: str,
        patience: float,
        unready: Callable[[list[Process]], list[Process]],
        was_ready: bool,
    ) -> Iterator[Rung]:
        """Yield the ladder for a successor: graceful, KILL for what still boots, quick, KILL.

        A worker that boots does not obey the graceful signal, and has no request in flight.

        :param patience: seconds that the workers have to finish their requests.
        :param unready: returns which of some workers may be killed.
        :param was_ready: the workers have been ready once.
        """
        yield rung(self._world, self._master, graceful_signal, BOOT_GRACE_SECONDS)
        living = self.look()
        boots = unready(living)
        serves = was_ready or not set(boots).issuperset(living)
        yield Rung(lambda: self.kill(boots), patience if serves else QUICK_SECONDS)
        yield from self._quick_end()

    def _quick_end(self) -> Iterator[Rung]:
        yield rung(self._world, self._master, self._quick_signal, QUICK_SECONDS)
        yield Rung(self.kill_all, QUICK_SECONDS)

    def help_to_end(self) -> None:
        """Help a master that was asked to end, and its workers.

        A master that is stopped by a signal is continued. Orphaned workers are asked to end,
        and killed after the grace: no master asks them any more.
        """
        now = self._world.now()
        if self._world.alive(self._master):
            if is_stopped(self._world, self._master):
                self._world.signal(self._master, "CONT")
            self._end_empty_master(now)
            return
        if self._orphaned_at is None:
            self._orphaned_at = now
            for worker in self._seen if self._orphan_signal else ():
                self._world.signal(worker, self._orphan_signal)
        elif now - self._orphaned_at > self._grace:
            self.kill(self._seen)

    def _end_empty_master(self, now: float) -> None:
        """End a master that has no worker left: nothing is in flight, and a thread of its own
        might hold it up for ever."""
        if self.forks():
            self._empty_since = None
        elif self._empty_since is None:
            self._empty_since = now
        elif now - self._empty_since > QUICK_SECONDS:
            late = now - self._empty_since > 2 * QUICK_SECONDS
            self._world.signal(self._master, "KILL" if late else self._quick_signal)
