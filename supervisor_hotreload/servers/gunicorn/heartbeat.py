"""The heartbeat files that a gunicorn master shares with its workers: they tell which process is
the master, and which workers are ready."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Optional

from supervisor_hotreload.core.model import Progress, Readiness
from supervisor_hotreload.core.text import counted
from supervisor_hotreload.servers.generation import Generation, walk
from supervisor_hotreload.servers.readiness import FORKING_SECONDS, STEADY_SECONDS, Verdict
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World


@dataclass
class GunicornGeneration(Generation):
    """A gunicorn master with its workers as they were at one moment.

    :param beats: its heartbeat files, one for each worker, by device and inode.
    """

    beats: frozenset[tuple[int, int]] = field(default_factory=frozenset)

    @property
    def workers(self) -> int:
        return len(self.beats) if self.readable else len(self.children)


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


def survey(world: World, tracked: Process, is_named: bool) -> Optional[GunicornGeneration]:
    """Return the generation under the supervised process *tracked*, None without a gunicorn.

    The master is the topmost process that shares a heartbeat file with a child of its own.

    :param is_named: the configured command names gunicorn. This counts only when the heartbeat
        files are hidden: then the master is the topmost process with children.
    """
    hidden: Optional[GunicornGeneration] = None
    for process, children in walk(world, tracked):
        image, everyone = world.image(process), frozenset(children)
        try:
            beats = world.heartbeats(process)
        except Unreadable:
            if hidden is None and children:
                hidden = GunicornGeneration(tracked, process, image, False, everyone)
            continue
        if beats and any(shares(world, beats, child) for child in children):
            return GunicornGeneration(tracked, process, image, True, everyone, frozenset(beats))
    return hidden if is_named else None


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
