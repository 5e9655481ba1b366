"""Follows the generations beside the tracked one: a successor, and previous ones."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from typing import Optional

from supervisor_hotreload.servers.lineage import Inheritor, find_inheritor
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World
from supervisor_hotreload.wrapper.children import Children
from supervisor_hotreload.wrapper.options import RunOptions
from supervisor_hotreload.wrapper.overlap import COPY_DRAIN_SECONDS
from supervisor_hotreload.wrapper.reports import Reports
from supervisor_hotreload.wrapper.tracked import TrackedServer


@dataclass
class OtherGenerations:
    """Knows what else belongs to the server while one generation is tracked.

    :param known: the tracked processes of all generations but the first.
    """

    world: World
    options: RunOptions
    reports: Reports
    tracked: TrackedServer
    children: Children
    known: set[Process] = field(default_factory=set)
    _successor: Optional[Process] = None
    _ended: dict[Process, float] = field(default_factory=dict)

    def expect(self, new: Process) -> None:
        """Let *new*, the successor of a reload, inherit the server should the old master die."""
        self._successor = new
        self.known.add(new)
        self.tracked.record(new)

    def adopt(self, new: Process) -> None:
        """Track *new*; the old generation is a previous one from now on."""
        self.known.add(self.tracked.process)
        self._successor = None
        self.tracked.succeed(new)

    def living(self) -> list[Process]:
        """Return the tracked processes of the generations that live beside the tracked one."""
        living = (process for process in self.known if self.world.alive(process))
        return [process for process in living if process != self.tracked.process]

    def inheritor(self) -> Optional[Inheritor]:
        """Return who follows the tracked process, which has ended: the successor of a reload,
        or one that the old master has forked."""
        return self._follower([] if self._successor is None else [self._successor])

    def late_successor(self) -> Optional[Process]:
        """Return a successor that the tracked master had forked right before it was stopped.

        It handles no signal until its exec, so it was sent none.
        """
        found = self._follower([])
        if found is None:
            return None
        self.known.add(found.process)
        return found.process

    def _follower(self, seen: list[Process]) -> Optional[Inheritor]:
        """Return who follows the tracked process; no other generation, no command of our own.

        :param seen: successors that were seen while it lived.
        """
        others = {process.pid for process in self.known if process not in seen}
        taken = others.union(self.children.reapers)
        return find_inheritor(self.world, self.tracked.lineage, seen, taken.__contains__)

    def end_leftovers(self) -> None:
        """End what a reload that failed by an error has left; called while none is active."""
        living, stop = self.living(), signal.Signals[f"SIG{self.options.stop_signal}"]
        patience = self.options.policy.drain_timeout or COPY_DRAIN_SECONDS
        self._ended = {p: since for p, since in self._ended.items() if p in living}
        for process in living:
            if process not in self._ended:
                self._ended[process] = self.world.now()
                what = f"{process} is left of a reload, and is ended with {stop.name}"
                self.reports.say(f"{what}; {self.tracked}")
                send(self.world, process, stop)
            elif self.world.now() - self._ended[process] > patience:
                self.world.signal(process, "KILL")
        self.known.intersection_update(living)

    @property
    def are_ending(self) -> bool:
        """Tell whether leftovers were asked to end and still live."""
        return bool(self._ended)


def send(world: World, process: Process, number: int) -> None:
    """Send a signal, and let a stopped process handle it."""
    try:
        world.send(process, number)
        world.signal(process, "CONT")
    except OSError:
        # no descriptor is left to look at it: a child's pid is nobody else's
        if not world.is_child(process.pid):
            raise
        os.kill(process.pid, number)
        os.kill(process.pid, signal.SIGCONT)
