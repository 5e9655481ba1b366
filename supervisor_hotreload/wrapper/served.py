"""What is served: the tracked process, its generation, and who belongs to it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Callable, Optional

from supervisor_hotreload.identity import Process, Status
from supervisor_hotreload.kinship import Heir, Lineage, find_heir, orphans
from supervisor_hotreload.probes import Heartbeat
from supervisor_hotreload.servers import gunicorn
from supervisor_hotreload.servers.family import GUESS
from supervisor_hotreload.servers.gunicorn import Generation
from supervisor_hotreload.world import World
from supervisor_hotreload.wrapper import listeners
from supervisor_hotreload.wrapper.options import Options


class Served:
    """The server as it is now.

    :param process: the tracked process: the wrapper ends when it ends.
    :param generation: its number.
    :param ready: it is known to have been ready.
    """

    def __init__(
        self, world: World, options: Options, process: Process, generation: int, ready: bool
    ) -> None:
        self._world = world
        self._options = options
        self._images: dict[Process, int] = {}
        self._heartbeat: Optional[Heartbeat] = None
        self._began = world.now()
        self.generation = generation
        self.ready = ready
        self.track(process)

    def __str__(self) -> str:
        return f"generation {self.generation} ({self.process}) serves"

    @property
    def age(self) -> float:
        """Return for how many seconds it has been watched."""
        return self._world.now() - self._began

    def track(self, process: Process) -> None:
        self.process = process
        self.know(process)
        status = self._status(process)
        self._group = os.getpgrp() if status is None else status.group

    def _status(self, process: Process) -> Optional[Status]:
        try:
            return self._world.status(process.pid)
        except OSError:  # no descriptor is left, say
            return None

    def succeed(self, process: Process) -> None:
        """Track the master of the next generation."""
        self.generation += 1
        self.track(process)

    def know(self, master: Process) -> None:
        """Remember the exec of a master: its workers are forks of it, an heir is not."""
        status = self._status(master)
        if status is not None and status.process == master:
            self._images[master] = status.image

    # -- what it is

    def survey(self) -> Optional[Generation]:
        """Return the gunicorn generation that it is, None when it is none."""
        found = gunicorn.survey(self._world, self.process, self._options.looks_like_gunicorn)
        if found is not None:
            self.know(found.master)
        return found

    def master(self) -> Process:
        """Return the process that hears signals: a shell may stand before it."""
        found = self.survey()
        if found is not None:
            return found.master
        return listeners.survey(self._world, self.process).master

    def is_up(self) -> bool:
        """Tell whether the first generation is ready; nothing says how many workers it has."""
        found = self.survey()
        if found is None:
            return not self._options.looks_like_gunicorn and self._accepts()
        if not found.readable:
            return self.age > GUESS.seconds
        if self._heartbeat is None:
            self._heartbeat = Heartbeat(self._world, sys.maxsize)
        return bool(self._heartbeat(found.master))

    def _accepts(self) -> bool:
        ready = self._options.policy.ready
        if ready.kind == "settle":
            return self.age >= ready.seconds
        if self.age >= self._options.warmup:
            return True
        return listeners.survey(self._world, self.process).accepting > 0

    # -- who belongs to it

    @property
    def is_child(self) -> bool:
        """Tell whether its end will be told by the kernel."""
        status = self._world.status(self.process.pid)
        mine = os.getpid()
        return status is not None and status.process == self.process and status.parent == mine

    @property
    def vanished(self) -> bool:
        """Tell whether it has ended without being ours to bury."""
        return not self._world.alive(self.process) and not self.is_child

    def heir(self, seen: Iterable[Process], taken: Callable[[int], bool]) -> Optional[Heir]:
        """Return who follows the tracked process, which has ended."""
        lineage = Lineage(self.process, self._group, False, self._images)
        return find_heir(self._world, lineage, seen, taken, lambda: self._options.policy.pidfile)

    def forks(self) -> list[Process]:
        """Return what a master has forked and left to us: workers, a successor not yet executed."""
        images = set(self._images.values()) - {0}
        left = orphans(self._world, Lineage(self.process, self._group, False, self._images))
        seen = {child: self._world.status(child.pid) for child in left}
        return [child for child, status in seen.items() if status and status.image in images]

    def end_forks(self) -> None:
        """Let the workers of a master that was killed finish: they hold the port."""
        for child in self.forks():
            self._world.signal(child, "TERM")
