"""Tracks the generation that serves: its process, its number, and who belongs to it."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import replace
from typing import Optional

from supervisor_hotreload.core.model import Outcome, Ready
from supervisor_hotreload.core.reload import Reload
from supervisor_hotreload.servers import booting_family, family_of
from supervisor_hotreload.servers.base import GUESS, AnyFamily
from supervisor_hotreload.servers.lineage import Lineage, orphaned_workers
from supervisor_hotreload.servers.readiness import Probe
from supervisor_hotreload.servers.recognition import Ambiguous, Found
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World
from supervisor_hotreload.wrapper import copy_survey
from supervisor_hotreload.wrapper.launch import Launch
from supervisor_hotreload.wrapper.options import RunOptions, makes_successors


class TrackedServer:
    """Knows the server as it is now.

    :param launch: the tracked process, as it was started: hotreload-run ends when it ends.
    :param generation: its number.
    :param ready: it is known to have been ready.
    """

    def __init__(
        self, world: World, options: RunOptions, launch: Launch, generation: int, ready: bool
    ) -> None:
        self._world = world
        self._options = options
        self._launch = launch
        self._probe: Optional[Probe] = None
        self._began = world.now()
        self._since = launch.process.start
        self._is_recorded = False
        self.generation = generation
        self.ready = ready
        self._track(launch.process)

    def __str__(self) -> str:
        return f"generation {self.generation} ({self.process}) serves"

    @property
    def age(self) -> float:
        """Return the seconds since hotreload-run began to watch it."""
        return self._world.now() - self._began

    def _track(self, process: Process) -> None:
        self.process = process
        self.lineage = Lineage(process, self._since, is_ours=True)

    def succeed(self, process: Process) -> None:
        """Track the master of the next generation."""
        family = self.lineage.family
        self.generation += 1
        self._track(process)
        self.lineage.family = family
        self.record(process)

    def renewed(self, reload: Reload) -> None:
        """Count a generation that has replaced its own workers."""
        if reload.outcome is Outcome.SUCCEEDED:
            self.generation += 1

    def record(self, master: Process) -> None:
        """Remember a master that was proven to be one, and its sockets and workers."""
        with suppress(OSError):  # no descriptor is left
            self.lineage.add_master(self._world, master)
            self.lineage.refresh(self._world)

    def is_executed(self) -> bool:
        """Tell whether the command was executed; the process is recorded once it was."""
        if not self._is_recorded and self._launch.is_executed():
            self._is_recorded = True
            self.record(self.process)
        return self._is_recorded

    def trouble(self) -> str:
        """Return why the command could not be executed, '' when it was or may still be."""
        return self._launch.trouble() if self.process == self._launch.process else ""

    # -- which server it is

    def find(self) -> Optional[Found]:
        """Return its family and its generation, None when no family knows it.

        :raises Ambiguous: when the command has started several servers.
        """
        found = family_of(self._world, self.process, self._options.program)
        if found is not None:
            self.lineage.family = found.family
            self.record(found.old.master)
        return found

    def booting_family(self) -> Optional[AnyFamily]:
        """Return the family of a server that will be able to start a successor, but has no
        workers yet."""
        family = booting_family(self._world, self.process)
        return family if family is not None and makes_successors(family) else None

    def _find_quietly(self) -> Optional[Found]:
        with suppress(Ambiguous):
            return self.find()
        return None

    def master(self) -> Process:
        """Return the process that gets the signals: a shell may stand before it."""
        found = self._find_quietly()
        if found is not None:
            master: Process = found.old.master
            return master
        return copy_survey.survey(self._world, self.process).master

    def is_up(self) -> bool:
        """Tell whether the first generation is ready; how many workers it will have is unknown."""
        if not self.is_executed():
            return False
        found = self._find_quietly()
        if found is None or not makes_successors(found.family):
            return self.booting_family() is None and self._accepts()
        if not found.old.readable:
            return self.age > GUESS.seconds
        if self._probe is None:
            all_are_new = replace(found.old, children=frozenset())
            self._probe = found.family.probe(self._world, all_are_new, Ready(), sys.maxsize)
        return bool(self._probe(found.old.master))

    def _accepts(self) -> bool:
        ready = self._options.policy.ready
        if ready.kind == "settle":
            return self.age >= ready.seconds
        if self.age >= self._options.warmup:
            return True
        return copy_survey.survey(self._world, self.process).accepting > 0

    # -- who belongs to it

    @property
    def is_child(self) -> bool:
        """Tell whether the kernel will report its end to us."""
        status = self._world.status(self.process.pid)
        mine = os.getpid()
        return status is not None and status.process == self.process and status.parent == mine

    @property
    def has_vanished(self) -> bool:
        """Tell whether it has ended as another process's child, which we cannot reap."""
        return not self._world.alive(self.process) and not self.is_child

    def orphans(self) -> list[Process]:
        """Return what a master has left to us: workers, and a successor before its exec."""
        return orphaned_workers(self._world, self.lineage, lambda _: False)

    def end_orphans(self) -> None:
        """Let the workers of a master that was killed finish: they hold its address."""
        for child in self.orphans():
            self._world.signal(child, "TERM")
