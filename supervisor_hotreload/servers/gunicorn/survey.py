"""Finds the master of a gunicorn by the heartbeat files that it shares with its workers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from supervisor_hotreload.servers.generation import Generation, walk
from supervisor_hotreload.servers.gunicorn.heartbeat import shares
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
