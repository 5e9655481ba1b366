"""What is served: the tracked process, its generation, and who belongs to it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Callable, Optional

from supervisor_hotreload.servers.base import GUESS
from supervisor_hotreload.servers.gunicorn import family as gunicorn
from supervisor_hotreload.servers.gunicorn.heartbeat import Heartbeat
from supervisor_hotreload.servers.gunicorn.survey import GunicornGeneration
from supervisor_hotreload.servers.lineage import (
    Inheritor,
    Lineage,
    find_inheritor,
    orphaned_workers,
    successors,
)
from supervisor_hotreload.servers.program import Program
from supervisor_hotreload.servers.recognition import Ambiguous, find_server
from supervisor_hotreload.system.credentials import ids_of
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World
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
        self._heartbeat: Optional[Heartbeat] = None
        self._began = world.now()
        self._since = process.start
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
        self._lineage = Lineage(process, self._since, family=gunicorn.FAMILY)
        self.know(process)

    def succeed(self, process: Process) -> None:
        """Track the master of the next generation."""
        self.generation += 1
        self.track(process)

    def know(self, master: Process) -> None:
        """Remember a master that was proven to be one, and what it holds."""
        with suppress(OSError):  # no descriptor is left, say
            self._lineage.add_master(self._world, master)
            self._lineage.refresh(self._world)

    # -- what it is

    def survey(self) -> Optional[GunicornGeneration]:
        """Return the gunicorn generation that it is, None when it is none."""
        with suppress(Ambiguous):
            return self.told_apart()
        return None

    @property
    def program(self) -> Program:
        """Return the command as the families of servers know it."""
        options = self._options
        return Program(
            options.name,
            options.line,
            options.chdir or _here(),
            environment=os.environ,
            rights=ids_of(os.getpid()),
            pidfile=options.policy.pidfile,
        )

    def told_apart(self) -> Optional[GunicornGeneration]:
        """Return the same.

        :raises Ambiguous: when the command has started several of them.
        """
        found = find_server(self._world, self.process, self.program, [gunicorn.FAMILY])
        if found is None:
            return None
        self.know(found.old.master)
        assert isinstance(found.old, GunicornGeneration)
        return found.old

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

    def inheritor(
        self, seen: Iterable[Process], taken: Callable[[int], bool]
    ) -> Optional[Inheritor]:
        """Return who follows the tracked process, which has ended."""
        return find_inheritor(self._world, self._lineage, seen, taken)

    def successors(self) -> list[Process]:
        """Return the successors that it has forked."""
        return successors(self._world, self._lineage)

    def forks(self) -> list[Process]:
        """Return what a master has left to us: workers, a successor not yet executed."""
        return orphaned_workers(self._world, self._lineage, lambda _: False)

    def end_forks(self) -> None:
        """Let the workers of a master that was killed finish: they hold the port."""
        for child in self.forks():
            self._world.signal(child, "TERM")


def _here() -> str:
    """Return the working directory, the root where that is gone."""
    try:
        return os.getcwd()
    except OSError:
        return "/"
