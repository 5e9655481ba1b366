"""Ways to tell, from outside and without blocking, that a generation is ready."""

from __future__ import annotations

from collections.abc import Container
from typing import Optional, Union

from supervisor_hotreload.identity import Beat, Process, Unreadable
from supervisor_hotreload.model import Progress, Readiness
from supervisor_hotreload.world import World

STEADY = 1.0
"""Seconds that a set of touched heartbeats has to stay the same when it is not as
large as the old one: workers are forked up to 0.1 s apart (gunicorn
arbiter.spawn_workers)."""

Verdict = Union[Readiness, Progress]
Beats = dict[tuple[int, int], Beat]


def shares(world: World, beats: Container[tuple[int, int]], child: Process) -> bool:
    """Tell whether *child* holds one of the heartbeat files *beats*.

    A worker's own descriptors may be hidden (``-u nobody``): a child that
    cannot be read is taken for a worker of a process that has heartbeats.
    """
    try:
        return any(key in beats for key in world.heartbeats(child))
    except Unreadable:
        return True


class Heartbeat:
    """Ready when every worker has touched its heartbeat file.

    The master's descriptors are read, not the workers': ``-u nobody`` makes
    the latter unreadable.

    :param expected: how many workers the old generation had.
    """

    def __init__(self, world: World, expected: int) -> None:
        self._world = world
        self._expected = expected
        self._set: frozenset[tuple[int, int]] = frozenset()
        self._since = 0.0

    def __call__(self, master: Process) -> Verdict:
        """Return Readiness, or how far the workers of *master* are."""
        beats = self._world.heartbeats(master)
        now = self._world.now()
        flipped = sum(beat.flipped for beat in beats.values())
        if frozenset(beats) != self._set:
            self._set, self._since = frozenset(beats), now
        complete = flipped >= self._expected or now - self._since >= STEADY
        if beats and flipped == len(beats) and complete:
            return Readiness(flipped)
        total = max(self._expected, len(beats))
        return Progress(f"{flipped}/{total} workers ready", flipped, total)


class Settle:
    """Ready when the number of workers has not changed for some seconds.

    For where the heartbeat cannot be read: it is a guess, and said to be one.
    """

    def __init__(self, world: World, expected: int, seconds: float) -> None:
        self._world = world
        self._expected = expected
        self._seconds = seconds
        self._workers: tuple[Process, ...] = ()
        self._since: Optional[float] = None

    def __call__(self, master: Process) -> Verdict:
        """Return Readiness, or how many workers of *master* there are."""
        workers = tuple(self._world.children(master))
        now = self._world.now()
        if workers != self._workers or self._since is None:
            self._workers, self._since = workers, now
        if len(workers) >= max(self._expected, 1) and now - self._since >= self._seconds:
            return Readiness(len(workers))
        total = max(self._expected, len(workers))
        return Progress(f"{len(workers)}/{total} workers started", len(workers), total)


class Watch:
    """Tells whether a generation that was ready has stayed ready.

    Workers are told by their processes: the heartbeat file of one that died
    may have had its inode used again for its successor's.

    :param patience: seconds within which a worker touches its heartbeat twice.
    """

    def __init__(self, world: World, master: Process, patience: float) -> None:
        self._world = world
        self._master = master
        self._patience = patience
        since = world.now()
        beats = world.heartbeats(master)
        self._seen = {key: (beat, since) for key, beat in beats.items()}
        self._workers = [w for w in world.children(master) if shares(world, beats, w)]

    def complaint(self) -> Optional[str]:
        """Return what is wrong with the generation, or None."""
        dead = [worker for worker in self._workers if not self._world.alive(worker)]
        if dead:
            return f"{dead[0]}, one of its {len(self._workers)} workers, died"
        now = self._world.now()
        for key, beat in self._world.heartbeats(self._master).items():
            before, at = self._seen.get(key, (None, now))
            if before != beat:
                at = now
            elif now - at > self._patience:
                return f"a worker missed two heartbeats in {self._patience:g} s"
            self._seen[key] = (beat, at)
        return None
