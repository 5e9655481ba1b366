"""A reload by a second master: USR2 starts it beside the first, then the first is ended.

The new master is a child of the old one, inherits its sockets and serves beside it. Several
servers have this protocol (protocol.Server); the subclass of a family says what differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Optional

from supervisor_hotreload.core.model import Failure, Fault, Policy, Progress
from supervisor_hotreload.servers.base import foreign_successor
from supervisor_hotreload.servers.generation import AtWork, Generation, accepting_workers
from supervisor_hotreload.servers.launchers import LauncherEnd
from supervisor_hotreload.servers.lineage import acts_alike, held_together, holds_all
from supervisor_hotreload.servers.readiness import Bake, Probe, Verdict
from supervisor_hotreload.servers.signals import Rung, is_stopped
from supervisor_hotreload.servers.workers import Workers, sockets_of
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World

DRAIN_CEILING_SECONDS = 3600.0
"""Seconds after which old workers that still drain have to end at once."""

DISMISSAL_SECONDS = 30.0
"""Seconds that the workers of a refused successor have to finish their requests."""


class Reexec:
    """One reload of one program, bound to its old generation.

    ``graceful_signal`` lets a master end when its workers have finished their requests,
    ``quick_signal`` at once. ``orphan_signal`` does the former for a worker without a master;
    '': it ends by itself.

    :param probe: judges the workers of a successor.
    :param at_work: tells which children of a master serve.
    """

    graceful_signal = "QUIT"
    quick_signal = "TERM"
    orphan_signal = "QUIT"

    def __init__(
        self,
        world: World,
        old: Generation,
        policy: Policy,
        probe: Probe,
        at_work: AtWork = accepting_workers,
    ) -> None:
        self._world = world
        self._old = old
        self._policy = policy
        self._probe = probe
        self._at_work = at_work
        self._sockets, _ = held_together(world, old.master)
        self._new: Optional[Process] = None
        self.before: Optional[frozenset[Process]] = None
        """The children of the old master when it was asked for a successor; None until then."""
        self._workers_by_master: dict[Process, Workers] = {}
        self._launcher = LauncherEnd(world, old)
        self._bake: Optional[Bake] = None
        self._was_ready = False
        self._workers_of(old.master).look()

    # -- what a family may override

    def is_successor(self, child: Process) -> bool:
        """Tell whether *child*, a child of the old master that is younger than the request, is an
        exec that acts as the same user and holds all of the master's sockets."""
        alike = self._is_exec(child) and acts_alike(self._world, child, self._old.master)
        return alike and holds_all(self._world, child, self._sockets)

    def serving_workers(self, master: Process) -> list[Process]:
        """Return the workers of *master* that serve; all children when the kernel hides that."""
        children = self._world.children(master)
        try:
            return self._at_work(self._world, children)
        except Unreadable:
            return children

    def unready(self, master: Process, workers: list[Process]) -> list[Process]:
        """Return those of *master* and its *workers* that may be killed, because they have never
        been ready and no request is in flight; none when that is not certain."""
        return []

    def patience(self, limit: float) -> float:
        """Return the seconds that workers with requests have to finish them.

        :param limit: where ``drain_timeout`` is not set.
        """
        return self._policy.drain_timeout or limit

    @property
    def grace(self) -> float:
        """The seconds that orphaned workers have to finish their requests."""
        return DISMISSAL_SECONDS

    def is_promoted(self, new: Process) -> bool:
        """Tell whether *new* obeys USR2: its parent is no longer the old master."""
        status = self._world.status(new.pid)
        return status is not None and status.parent != self._old.master.pid

    def reexec(self) -> None:
        """Send USR2. A child that the old master has by then is nobody's successor.

        :raises Failure: FOREIGN_SUCCESSOR when somebody else has sent USR2 meanwhile.
        """
        master = self._old.master
        if self.before is None:
            children = self._world.children(master)
            born = (child for child in children if child not in self._old.children)
            for other in filter(self.is_successor, born):
                raise foreign_successor(str(master), other, master)
            self.before = frozenset(children)
        self._world.signal(master, "USR2")

    def successor(self) -> Optional[Process]:
        """Return the successor, None while there is none.

        :raises Failure: OLD_EXITED when the old master has ended.
        """
        if not self.serving():
            raise Failure(Fault.OLD_EXITED, f"the old master ({self._old.master}) exited")
        self._new = next(filter(self.is_successor, self._born()), None)
        return self._new

    def expect(self, new: Process) -> None:
        """Take *new* for the successor, which was there before this reload."""
        self._new = new

    def ready(self, new: Process) -> Verdict:
        """Return Readiness, or how far the workers of *new* are."""
        self._look(new)
        if is_stopped(self._world, new):
            return Progress("the successor is stopped by a signal")
        verdict = self._probe(new)
        self._was_ready = self._was_ready or bool(verdict)
        return verdict

    def baked(self, new: Process, seconds: float) -> Verdict:
        """Return Readiness when the workers of *new* have stayed ready for *seconds*.

        :raises Failure: BAKE_FAILED when one has died, or is stopped by a signal.
        """
        self._look(new)
        if self._bake is None:
            self._bake = Bake(self._world, new, self.serving_workers(new))
        verdict = self._bake.over(seconds)
        _must_not_be_stopped(self._world, new, self.serving_workers(new))
        return verdict

    def serving(self) -> bool:
        """Tell whether the old master lives, so that the reload can be rolled back."""
        return self._world.alive(self._old.master)

    def recall(self) -> bool:
        """Let a stopped master run, so that it receives USR2; tell whether USR2 was sent."""
        if is_stopped(self._world, self._old.master):
            self._world.signal(self._old.master, "CONT")
        return self.before is not None

    def _born(self) -> list[Process]:
        """Return the children that the old master has had since it was asked."""
        before = self._old.children if self.before is None else self.before
        return [c for c in self._world.children(self._old.master) if c not in before]

    def _is_exec(self, child: Process) -> bool:
        image = self._world.image(child)
        if image and self._old.image:
            return image != self._old.image
        return bool(self._world.children(child))  # the image is hidden: a master has workers

    def _look(self, new: Process) -> None:
        """Record the workers of both masters: whichever dies, they are known."""
        self._must_live(new)
        for master in (self._old.master, new):
            self._workers_of(master).look()

    def _workers_of(self, master: Process) -> Workers:
        if master not in self._workers_by_master:
            self._workers_by_master[master] = Workers(
                self._world, master, self.orphan_signal, self.quick_signal, self.grace
            )
        workers = self._workers_by_master[master]
        workers.successor = self._new if master == self._old.master else None
        return workers

    def _must_live(self, new: Process) -> None:
        if not self._world.alive(new):
            raise Failure(Fault.SUCCESSOR_EXITED, f"the successor ({new}) exited")

    def retirement(self) -> Iterator[Rung]:
        """Return the ladder for the old master."""
        patience = self.patience(DRAIN_CEILING_SECONDS)
        return self._workers_of(self._old.master).retirement(self.graceful_signal, patience)

    def dismissal(self, new: Process) -> Iterator[Rung]:
        """Return the ladder for the successor."""
        patience, unready = self.patience(DISMISSAL_SECONDS), partial(self.unready, new)
        return self._workers_of(new).dismissal(
            self.graceful_signal, patience, unready, self._was_ready
        )

    def retired(self) -> object:
        """Return truthy when the old master, its workers and a shell before it are gone."""
        if self._new is not None:
            self._must_live(self._new)
        workers = self._workers_of(self._old.master)
        if not self._world.alive(self._old.master):
            self._launcher.stop_another(self._new)
        if workers.look() or self._world.alive(self._old.master):
            workers.help_to_end()
            return Progress.of_old_workers(len(workers.forks()))
        return self._launcher.ended()

    def dismissed(self, new: Process) -> bool:
        """Return True when the successor and its workers are gone."""
        workers = self._workers_of(new)
        left = workers.look()
        workers.help_to_end()
        return not self._world.alive(new) and not left

    def promoted(self, new: Process) -> bool:
        """Tell whether *new* is a master like any other: it listens, and obeys USR2."""
        self._must_live(new)
        _must_listen(self._world, new, self._sockets)
        return self._launcher.is_over() and self.is_promoted(new)


def _must_not_be_stopped(world: World, new: Process, workers: list[Process]) -> None:
    """Fail when a signal has stopped the new master or a worker of it."""
    for process in (new, *workers):
        if is_stopped(world, process):
            which = "" if process == new else f"a worker ({process}) of "
            why = f"{which}the successor ({new}) is stopped by a signal"
            raise Failure(Fault.BAKE_FAILED, why)


def _must_listen(world: World, new: Process, sockets: frozenset[int]) -> None:
    """Fail when the new master has closed its *sockets*: somebody has ended it too."""
    links = {f"socket:[{inode}]" for inode in sockets}
    try:
        listens = not links or not links.isdisjoint(sockets_of(world, new))
    except Unreadable:
        return
    if not listens and world.alive(new):
        raise Failure(
            Fault.SUCCESSOR_EXITED,
            f"the successor ({new}) has closed its sockets and ends: it received a signal to "
            f"end when the old master ended, from what stands between supervisord and the "
            f"old master, or from somebody",
        )
