"""A second master beside the first (USR2), then QUIT to the first: the protocol that
several servers speak (protocol.Server). What differs from it is said by a family's subclass.

The new master is a child of the old one, inherits its sockets, and serves beside it. QUIT
ends either of them gracefully, so that a rollback is a QUIT to the new one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from supervisor_hotreload.core.model import Failure, Fault, Policy, Progress
from supervisor_hotreload.servers.generation import Generation, accepting
from supervisor_hotreload.servers.lineage import acts_alike, held_together, workers_under
from supervisor_hotreload.servers.readiness import Bake, Probe, Verdict
from supervisor_hotreload.servers.signals import Rung, is_stopped, rung
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World

DRAIN_CEILING = 3600.0
"""Seconds after which old workers that still drain are told to end at once."""

DISMISSAL = 30.0
"""Seconds that the workers of a successor have to finish their requests."""

QUICK = 5.0
"""Seconds between a quick stop and SIGKILL, and after that."""


class Reexec:
    """One reload of one program, bound to its old generation.

    :param probe: judges the workers of a successor.
    """

    def __init__(self, world: World, old: Generation, policy: Policy, probe: Probe) -> None:
        self._world = world
        self._old = old
        self._policy = policy
        self._probe = probe
        self._sockets, _ = held_together(world, old.master)
        self._new: Optional[Process] = None
        self.before: Optional[frozenset[Process]] = None
        """The children of the old master when it was asked for a successor; None until then."""
        self._born: set[Process] = set()
        self._bake: Optional[Bake] = None

    # -- what a family may say otherwise

    def at_work(self, children: list[Process]) -> list[Process]:
        """Return those of a master's children that serve.

        :raises Unreadable: when that cannot be seen.
        """
        return accepting(self._world, children)

    def is_successor(self, child: Process) -> bool:
        """Tell whether a child that the old master has borne since is an exec of its own that
        acts as the master does and holds all of its sockets."""
        image = self._world.image(child)
        if image and self._old.image:
            if image == self._old.image:
                return False
        elif not self._world.children(child):
            return False  # hidden: a master has workers
        return acts_alike(self._world, child, self._old.master) and self._holds(child)

    def _holds(self, child: Process) -> bool:
        try:
            return self._sockets <= self._world.held(child)
        except Unreadable:
            return not self._sockets

    # -- before adoption

    def reexec(self) -> None:
        """Send USR2; what the old master has forked by then is nobody's successor.

        :raises Failure: FOREIGN_SUCCESSOR when it has been asked by somebody else meanwhile.
        """
        master = self._old.master
        if self.before is None:
            children = self._world.children(master)
            other = self._successor_of([c for c in children if c not in self._old.children])
            if other is not None:
                raise Failure(
                    Fault.FOREIGN_SUCCESSOR,
                    f"{master} has a successor already ({other}), somebody sent USR2 to it: end "
                    f"one of them first",
                )
            self.before = frozenset(children)
        self._world.signal(master, "USR2")

    def successor(self) -> Optional[Process]:
        """Return the child of the old master that has exec'd what is to serve next."""
        if not self.serving():
            raise Failure(Fault.OLD_EXITED, f"the old master ({self._old.master}) exited")
        self._new = self._successor_of(self._born_since())
        return self._new

    def _successor_of(self, born: list[Process]) -> Optional[Process]:
        return next((child for child in born if self.is_successor(child)), None)

    def _born_since(self) -> list[Process]:
        before = self._old.children if self.before is None else self.before
        return [c for c in self._world.children(self._old.master) if c not in before]

    def expect(self, new: Process) -> None:
        """Know *new* for the successor, which was there before this reload."""
        self._new = new

    def ready(self, new: Process) -> Verdict:
        self._must_live(new)
        self._born.update(self._under(new))
        return self._probe(new)

    def baked(self, new: Process, seconds: float) -> object:
        self._must_live(new)
        self._born.update(self._under(new))
        if self._bake is None:
            self._bake = Bake(self._world, new, self._workers(new))
        return self._bake.over(seconds)

    def _workers(self, master: Process) -> list[Process]:
        children = self._world.children(master)
        try:
            return self.at_work(children)
        except Unreadable:
            return children

    def serving(self) -> bool:
        return self._world.alive(self._old.master)

    def recall(self) -> bool:
        """A stopped master has the USR2 still before it: let it come, then end what comes."""
        if is_stopped(self._world, self._old.master):
            self._world.signal(self._old.master, "CONT")
        return self.before is not None

    def _under(self, master: Process) -> list[Process]:
        """Return the workers of *master*, and nothing else that it has started."""
        image = self._world.image(master)
        return workers_under(self._world, master, image, self._sockets)

    def _must_live(self, new: Process) -> None:
        if not self._world.alive(new):
            raise Failure(Fault.SUCCESSOR_EXITED, f"the successor ({new}) exited")

    # -- the ladders

    def retirement(self) -> Iterator[Rung]:
        """QUIT: the workers finish what they have, then the master ends."""
        old = self._old.master
        yield rung(self._world, old, "QUIT", self._policy.drain_timeout or DRAIN_CEILING)
        yield rung(self._world, old, "TERM", QUICK)
        yield Rung(lambda: self._kill(old), QUICK)

    def dismissal(self, new: Process) -> Iterator[Rung]:
        """QUIT: its workers have requests; those of the old one have never stopped."""
        yield self._dismiss(new, "QUIT", self._policy.drain_timeout or DISMISSAL)
        yield self._dismiss(new, "TERM", QUICK)
        yield Rung(lambda: self._kill(new), QUICK)

    def _kill(self, master: Process) -> None:
        workers = [child for child in self._under(master) if child != self._new]
        for process in (master, *workers, *self._left_by(master)):
            self._world.signal(process, "KILL")

    # -- after adoption

    def retired(self) -> object:
        """Return truthy when the old master is gone, which waits for its workers."""
        if self._new is not None:
            self._must_live(self._new)
        master = self._old.master
        left = [child for child in self._under(master) if child != self._new]
        return not self._world.alive(master) or Progress(
            f"{len(left)} old worker{'' if len(left) == 1 else 's'} left", 0, len(left)
        )

    def dismissed(self, new: Process) -> bool:
        return not self._world.alive(new) and not self._left_by(new)

    def _left_by(self, new: Process) -> list[Process]:
        """Return the workers that a dead successor has left: what was refused would serve on."""
        if self._world.alive(new):
            return []
        return [worker for worker in self._born if self._world.alive(worker)]

    def _dismiss(self, new: Process, name: str, patience: float) -> Rung:
        to_new = rung(self._world, new, name, patience)

        def send() -> None:
            to_new.send()
            for worker in self._left_by(new):
                self._world.signal(worker, name)

        return Rung(send, patience)

    def promoted(self, new: Process) -> bool:
        """Tell whether *new* would hear a USR2: its parent is no longer the old master."""
        self._must_live(new)
        status = self._world.status(new.pid)
        return status is not None and status.parent != self._old.master.pid
