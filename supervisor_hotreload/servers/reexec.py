"""A reload by a second master: USR2 starts it beside the first, then the first is ended.

The new master is a child of the old one, inherits its sockets and serves beside it. Several
servers have this protocol (protocol.Server); the subclass of a family says what differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from supervisor_hotreload.core.model import Failure, Fault, Policy, Progress
from supervisor_hotreload.servers.base import foreign_successor
from supervisor_hotreload.servers.generation import AtWork, Generation, accepting_workers
from supervisor_hotreload.servers.launchers import LauncherEnd
from supervisor_hotreload.servers.lineage import acts_alike, held_together
from supervisor_hotreload.servers.readiness import Bake, Probe, Verdict
from supervisor_hotreload.servers.signals import QUICK_SECONDS, Rung, is_stopped, rung
from supervisor_hotreload.servers.workers import Workers, sockets_of
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World

DRAIN_CEILING_SECONDS = 3600.0
"""Seconds after which old workers that still drain have to end at once."""

DISMISSAL_SECONDS = 30.0
"""Seconds that the workers of a refused successor have to finish their requests."""

BOOT_GRACE_SECONDS = 2.0
"""Seconds that a refused successor has to end its workers that never became ready."""


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
        image = self._world.image(child)
        if image and self._old.image:
            if image == self._old.image:
                return False
        elif not self._world.children(child):
            return False  # the image is hidden: a master has workers
        return acts_alike(self._world, child, self._old.master) and self._holds_sockets(child)

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

    # -- before adoption

    def reexec(self) -> None:
        """Send USR2. A child that the old master has by then is nobody's successor.

        :raises Failure: FOREIGN_SUCCESSOR when somebody else has sent USR2 meanwhile.
        """
        master = self._old.master
        if self.before is None:
            children = self._world.children(master)
            other = self._successor_among([c for c in children if c not in self._old.children])
            if other is not None:
                raise foreign_successor(str(master), other, master)
            self.before = frozenset(children)
        self._world.signal(master, "USR2")

    def successor(self) -> Optional[Process]:
        """Return the successor, None while there is none.

        :raises Failure: OLD_EXITED when the old master has ended.
        """
        if not self.serving():
            raise Failure(Fault.OLD_EXITED, f"the old master ({self._old.master}) exited")
        self._new = self._successor_among(self._born())
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
        for process in (new, *self.serving_workers(new)):
            if is_stopped(self._world, process):
                which = "" if process == new else f"a worker ({process}) of "
                why = f"{which}the successor ({new}) is stopped by a signal"
                raise Failure(Fault.BAKE_FAILED, why)
        return verdict

    def serving(self) -> bool:
        """Tell whether the old master lives, so that the reload can be rolled back."""
        return self._world.alive(self._old.master)

    def recall(self) -> bool:
        """Let a stopped master run: it has not received USR2 yet, and what it starts has to be
        ended. Return whether USR2 was sent."""
        if is_stopped(self._world, self._old.master):
            self._world.signal(self._old.master, "CONT")
        return self.before is not None

    def _born(self) -> list[Process]:
        """Return the children that the old master has had since it was asked."""
        before = self._old.children if self.before is None else self.before
        return [c for c in self._world.children(self._old.master) if c not in before]

    def _successor_among(self, born: list[Process]) -> Optional[Process]:
        return next((child for child in born if self.is_successor(child)), None)

    def _holds_sockets(self, child: Process) -> bool:
        try:
            return self._sockets <= self._world.held(child)
        except Unreadable:
            return not self._sockets

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

    # -- the ladders

    def retirement(self) -> Iterator[Rung]:
        """Yield the ladder for the old master: graceful, quick, KILL.

        A master without workers has no request in flight, and gets the quick signal at once.
        """
        old = self._old.master
        first = self.graceful_signal if self._workers_of(old).look() else self.quick_signal
        yield rung(self._world, old, first, self.patience(DRAIN_CEILING_SECONDS))
        yield rung(self._world, old, self.quick_signal, QUICK_SECONDS)
        yield Rung(self._workers_of(old).kill_all, QUICK_SECONDS)

    def dismissal(self, new: Process) -> Iterator[Rung]:
        """Yield the ladder for the successor: graceful, KILL for what still boots, quick, KILL.

        A worker that boots does not obey the graceful signal, and has no request in flight.
        """
        workers = self._workers_of(new)
        yield rung(self._world, new, self.graceful_signal, BOOT_GRACE_SECONDS)
        living = workers.look()
        unready = self.unready(new, living)
        serves = self._was_ready or not set(unready).issuperset(living)
        patience = self.patience(DISMISSAL_SECONDS) if serves else QUICK_SECONDS
        yield Rung(lambda: workers.kill(unready), patience)
        yield rung(self._world, new, self.quick_signal, QUICK_SECONDS)
        yield Rung(workers.kill_all, QUICK_SECONDS)

    # -- after adoption

    def retired(self) -> object:
        """Return truthy when the old master, its workers and a shell before it are gone."""
        if self._new is not None:
            self._must_live(self._new)
        workers = self._workers_of(self._old.master)
        if not self._world.alive(self._old.master):
            self._launcher.stop_another(self._new)
        if workers.look() or self._world.alive(self._old.master):
            workers.help_to_end()
            left = len(workers.forks())
            return Progress(f"{left} old worker{'' if left == 1 else 's'} left", 0, left)
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
        self._must_listen(new)
        return self._launcher.is_over() and self.is_promoted(new)

    def _must_listen(self, new: Process) -> None:
        """Fail when the new master has closed its sockets: somebody has ended it too."""
        links = {f"socket:[{inode}]" for inode in self._sockets}
        try:
            listens = not links or not links.isdisjoint(sockets_of(self._world, new))
        except Unreadable:
            return
        if not listens and self._world.alive(new):
            raise Failure(
                Fault.SUCCESSOR_EXITED,
                f"the successor ({new}) has closed its sockets and ends: it received a signal to "
                f"end when the old master ended, from what stands between supervisord and the "
                f"old master, or from somebody",
            )
