"""The generations of one program: the tracked one, its successor, and the previous ones."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Callable, Optional

from supervisor_hotreload.servers import AnyFamily
from supervisor_hotreload.servers.lineage import (
    Inheritor,
    Lineage,
    find_inheritor,
    orphaned_workers,
    workers_of,
)
from supervisor_hotreload.servers.lineage import successors as successors_of
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World

FIRST_LOOK_SECONDS, LAST_LOOK_SECONDS = 0.25, 600.0
"""Seconds between two looks at a program without a listening socket, the shortest and the
longest: most programs never listen."""

RECORDED = 32
"""How many processes of previous generations are recorded at most: there may be thousands."""

LOOK_GROWTH = 1.3
"""The factor by which the pause between two looks grows, after a few of FIRST_LOOK_SECONDS."""


class Looks:
    """Says when to look for the sockets of a program that has none yet, ever more seldom."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._at: Optional[float] = None
        self._pause = 0.0

    def start(self) -> None:
        """Look soon, and then again and again until stop()."""
        self._at, self._pause = self._world.now() + FIRST_LOOK_SECONDS, LOOK_GROWTH / 10

    def stop(self) -> None:
        self._at = None

    def are_due(self) -> bool:
        """Tell whether it is time for a look; sets the time of the next one."""
        if self._at is None or self._world.now() < self._at:
            return False
        self._pause *= LOOK_GROWTH
        again = self._pause <= LAST_LOOK_SECONDS
        self._at = self._world.now() + max(FIRST_LOOK_SECONDS, self._pause) if again else None
        return True


class Generations:
    """Knows which processes are of one program, by what it has recorded while they lived.

    :param is_tracked: tells whether supervisord waits for a pid, for any program.
    """

    def __init__(self, world: World, is_tracked: Callable[[int], bool]) -> None:
        self.number = 1
        self.lineage: Optional[Lineage] = None
        """The lineage of the process that supervisord tracks, None while it is not known."""
        self.successor: Optional[Process] = None
        self.previous: list[Process] = []
        """Processes of earlier generations, some of which may have ended."""
        self.looks = Looks(world)
        self._world = world
        self._is_tracked = is_tracked
        self._lineages: dict[Process, Lineage] = {}
        """The lineages of the masters of previous generations."""

    # -- the tracked generation

    def _begin(self, process: Process, group: int) -> None:
        """Start with generation 1: supervisord has spawned *process*, in that process group."""
        self.number = 1
        own = group == process.pid
        self.lineage = Lineage(process, process.start, group, own, is_ours=True)
        self._lineages.clear()
        self.looks.start()

    def take(self, taken: Lineage) -> None:
        """Know that supervisord tracks the process of *taken* now."""
        self.lineage = taken
        taken.add_master(self._world, taken.tracked)
        self.looks.start()

    def forget(self) -> None:
        """Know nothing any more: the program has ended."""
        self.lineage = None
        self._lineages.clear()
        self.looks.stop()

    def note_spawn(self, pid: int) -> None:
        """Remember a process that supervisord has just forked. It may not have exec'd yet."""
        process = self._world.lookup(pid) if pid else None
        if process is not None:
            self._begin(process, process.pid)

    def note(self, pid: int) -> None:
        """Remember the tracked process *pid* as a master, with what tells it from an exec."""
        status = self._world.status(pid) if pid else None
        if status is None:
            return
        process = status.process
        if self.lineage is None or self.lineage.tracked != process:
            self._begin(process, status.group)
        known = self.lineage
        assert known is not None
        if process not in known.masters or not known.masters[process].image:
            own = self._world.lookup(self._world.own_pid())
            known.add_master(self._world, process)
            seen = known.masters[process]
            if own is not None and seen.image == self._world.image(own):
                known.masters[process] = seen._replace(image=0)  # a fork that is yet to exec

    def note_master(self, master: Process, family: Optional[AnyFamily]) -> None:
        """Remember the master of the tracked generation. A shell may be its parent."""
        if self.lineage is not None:
            self.lineage.add_master(self._world, master)
            self.lineage.family = family or self.lineage.family

    def record(self) -> bool:
        """Record the sockets and the workers of the tracked generation while they live.

        :return: True when the sockets have changed: the record file has to follow.
        """
        return self.lineage is not None and self.lineage.refresh(self._world)

    @property
    def sockets(self) -> frozenset[int]:
        """The listening sockets of the tracked generation, by inode."""
        return self.lineage.sockets if self.lineage is not None else frozenset()

    def may_adopt(self, new: Process) -> bool:
        """Tell whether *new* acts as the tracked master does, in all four user ids."""
        return self.lineage is None or self.lineage.acts_as_master(self._world, new)

    def follow(self, new: Process) -> Lineage:
        """Count the tracked generation among the previous ones; return the lineage of *new*."""
        old = self.lineage
        if old is None:
            self._advance()
            return Lineage(new, new.start)
        masters = dict.fromkeys((old.tracked, *old.masters), old)
        self.previous = [p for p in dict.fromkeys((*self.previous, *masters)) if p != new]
        self._lineages.update(masters)
        if new in old.masters:  # only the shell before it has ended: the generation is the same
            return replace(old, tracked=new)
        self._advance()
        return Lineage(
            new,
            old.since,
            old.group,
            old.owns_group,
            sockets=old.sockets,
            family=old.family,
            is_ours=old.is_ours,
        )

    def _advance(self) -> None:
        self.successor = None
        self.number += 1

    # -- the others

    def successors(self) -> list[Process]:
        """Return the successors that the tracked generation has forked."""
        return successors_of(self._world, self.lineage) if self.lineage is not None else []

    def living_previous(self) -> list[Process]:
        """Return the processes of previous generations that live."""
        self.previous = [process for process in self.previous if self._world.alive(process)]
        return list(self.previous)

    def rest_of_previous(self, pid: int) -> list[Process]:
        """Return the processes of previous generations from the first one on that lives and is not
        *pid*. Whether the others live is not looked at: there may be thousands."""
        for number, process in enumerate(self.previous):
            if process.pid != pid and self._world.alive(process):
                return self.previous[number:]
        return []

    def add_previous(self, processes: Iterable[Process]) -> None:
        """Count *processes* among the previous generations."""
        self.previous = list(dict.fromkeys((*self.previous, *processes)))

    def others(self, sig: int) -> list[Process]:
        """Return every living process that has to get the stop signal *sig* by itself.

        These are the masters of the other generations. A master that gets SIGKILL cannot
        pass it on: then these are its workers too. Those that cannot be seen are left out.
        """
        others = self.living_previous()
        with suppress(Unreadable):
            others += self.successors()
        if self.successor is not None and self.successor not in others:
            others.append(self.successor)
        if sig == signal.SIGKILL and self.lineage is not None:
            with suppress(Unreadable):
                others += workers_of(self._world, self.lineage)
        return others

    def proven(self, current: Optional[Process]) -> list[Process]:
        """Return the processes that the next supervisord may take: *current*, the successor,
        and RECORDED of the previous generations that drain."""
        first = [process for process in (current, self.successor) if process is not None]
        draining = (p for p in self.previous if p not in first and self._world.alive(p))
        return [*first, *islice(draining, RECORDED)]

    # -- after an exit

    def inheritor(self, status: int, stopping: bool) -> Optional[Inheritor]:
        """Return the process that follows the tracked one, which has ended.

        :param status: the wait status of the tracked process.
        :param stopping: an operator stops the program: previous generations may follow too,
            because supervisord must not report STOPPED while one lives.
        """
        if self.lineage is None:
            return None
        seen = [self.successor] if self.successor is not None else []
        if stopping:
            seen += self.living_previous()
        exited = os.WIFEXITED(status)
        return find_inheritor(self._world, self.lineage, seen, self._is_tracked, exited)

    def workers_left(self) -> list[Process]:
        """Return what the tracked generation, whose master has ended, has left: its workers,
        and every other process that holds its sockets."""
        if self.lineage is None:
            return []
        return orphaned_workers(self._world, self.lineage, self._is_tracked)

    def on_retired_exit(self, pid: int, killed: bool) -> None:
        """End the workers of a previous master if a signal has killed it."""
        master = next((process for process in self.previous if process.pid == pid), None)
        dead = self._lineages.pop(master, None) if master is not None else None
        if killed and dead is not None:
            self.retire_workers(dead)

    def retire_workers(self, dead: Lineage) -> None:
        """Ask the workers that a dead master has left to finish their requests and end.

        They would serve the old release for ever. They are a previous generation until then.
        """
        known = {*self.previous, self.successor}
        asked = dead.family.orphan_signal if dead.family is not None else "TERM"
        for worker in orphaned_workers(self._world, dead, self._is_tracked, by_sockets=False):
            if asked and worker not in known:
                self._world.signal(worker, asked)
                self.previous.append(worker)
