"""The heartbeat files that a gunicorn master shares with its workers."""

from __future__ import annotations

from collections.abc import Container

from supervisor_hotreload.core.model import Progress, Readiness
from supervisor_hotreload.core.text import counted
from supervisor_hotreload.servers.readiness import FORKING_SECONDS, STEADY_SECONDS, Verdict
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World


def shares(world: World, beats: Container[tuple[int, int]], child: Process) -> bool:
    """Tell whether *child* holds one of the heartbeat files *beats*.

    A child whose descriptors are hidden (``-u nobody``) is taken for a worker of a process
    that has heartbeat files.
    """
    try:
        return any(key in beats for key in world.heartbeats(child))
    except Unreadable:
        return True


def is_master(world: World, process: Process) -> bool:
    """Tell whether *process* shares a heartbeat file with a child of its own."""
    try:
        beats = world.heartbeats(process)
    except Unreadable:
        return False
    return bool(beats) and any(shares(world, beats, child) for child in world.children(process))


class Heartbeat:
    """Ready when every worker has touched its heartbeat file.

    The master's descriptors are read, because a worker's may be hidden (``-u nobody``).

    More workers may still come, so the set of files has to be the same for a while: FORKING_SECONDS
    seconds when they are enough, STEADY_SECONDS seconds when they are fewer.

    :param expected: how many workers the old generation had.
    """

    def __init__(self, world: World, expected: int) -> None:
        self._world = world
        self._expected = expected
        self._files: frozenset[tuple[int, int]] = frozenset()
        self._since = 0.0

    def __call__(self, master: Process) -> Verdict:
        """Return Readiness, or how many workers of *master* are ready."""
        beats = self._world.heartbeats(master)
        now = self._world.now()
        ready = sum(beat.flipped for beat in beats.values())
        if frozenset(beats) != self._files:
            self._files, self._since = frozenset(beats), now
        steady = FORKING_SECONDS if ready >= self._expected else STEADY_SECONDS
        complete = now - self._since >= steady
        all_ready = bool(beats) and ready == len(beats)
        if all_ready and complete:
            return Readiness(ready)
        if all_ready and ready >= self._expected:
            return Progress(f"{counted(ready, 'worker')} ready, more may start", ready, ready)
        total = max(self._expected, len(beats))
        return Progress.of_workers(ready, total)
