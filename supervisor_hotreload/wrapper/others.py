"""The generations that live beside the tracked one: a successor, and previous ones."""

from __future__ import annotations

import os
import signal
from typing import Optional

from supervisor_hotreload.servers.lineage import Inheritor
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World
from supervisor_hotreload.wrapper.children import Children
from supervisor_hotreload.wrapper.options import RunOptions
from supervisor_hotreload.wrapper.overlap import COPY_DRAIN_SECONDS
from supervisor_hotreload.wrapper.reports import Reports
from supervisor_hotreload.wrapper.tracked import TrackedServer


class OtherGenerations:
    """What else belongs to the server while one generation is tracked."""

    def __init__(
        self,
        world: World,
        options: RunOptions,
        reports: Reports,
        tracked: TrackedServer,
        children: Children,
    ) -> None:
        self._world = world
        self._policy = options.policy
        self._stop_signal = signal.Signals[f"SIG{options.stop_signal}"]
        self._reports = reports
        self._tracked = tracked
        self._children = children
        self._known: set[Process] = set()
        self._successor: Optional[Process] = None
        self._ended: dict[Process, float] = {}

    def expect(self, new: Process) -> None:
        """Let *new*, the successor of a reload, inherit the server should the old master die."""
        self._successor = new
        self._known.add(new)
        self._tracked.record(new)

    def adopt(self, new: Process) -> None:
        """Track *new*; the old generation is a previous one from now on."""
        self._known.add(self._tracked.process)
        self._successor = None
        self._tracked.succeed(new)

    def living(self) -> list[Process]:
        """Return the tracked processes of the generations that live beside the tracked one."""
        living = (process for process in self._known if self._world.alive(process))
        return [process for process in living if process != self._tracked.process]

    def recorded(self) -> list[Process]:
        """Return the same, and those that have ended; nothing is looked at."""
        return list(self._known)

    def inheritor(self) -> Optional[Inheritor]:
        """Return who follows the tracked process, which has ended: the successor of a reload,
        or one that the old master has forked."""
        previous = {process.pid for process in self._known if process != self._successor}
        seen = [] if self._successor is None else [self._successor]
        return self._tracked.inheritor(
            seen, lambda pid: self._children.is_ours(pid) or pid in previous
        )

    def late_successor(self) -> Optional[Process]:
        """Return a successor that the tracked master had forked right before it was stopped.

        It handles no signal until its exec, so it was sent none.
        """
        known = {process.pid for process in self._known}
        found = self._tracked.inheritor([], lambda pid: self._children.is_ours(pid) or pid in known)
        if found is None:
            return None
        self._known.add(found.process)
        return found.process

    def end_leftovers(self) -> None:
        """End what a reload that failed by an error has left; called while none is active."""
        living = self.living()
        self._ended = {p: since for p, since in self._ended.items() if p in living}
        for process in living:
            if process not in self._ended:
                self._ended[process] = self._world.now()
                self._reports.say(
                    f"{process} is left of a reload, and is ended with "
                    f"{self._stop_signal.name}; {self._tracked}"
                )
                send(self._world, process, self._stop_signal)
            elif self._world.now() - self._ended[process] > (
                self._policy.drain_timeout or COPY_DRAIN_SECONDS
            ):
                self._world.signal(process, "KILL")
        self._known.intersection_update(living)

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
