"""A reload in place: the master keeps its pid and replaces its own workers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Callable, Optional

from supervisor_hotreload.core.model import Failure, Fault, Policy, Progress
from supervisor_hotreload.servers.generation import AcceptingGeneration, accepting, refreshed
from supervisor_hotreload.servers.readiness import ONE_BY_ONE, Bake, Probe, Verdict, probe
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World

REFUSED = 5.0
"""Seconds in which a master that forks at once has forked no worker: it will not."""

BUSY = 2
"""Looks at which a master was asleep that one outweighs at which it was not: the master
may load the new release itself."""


@dataclass(frozen=True)
class Remark:
    """The end of a wait, with what is to be said of it; truthy."""

    text: str


class InPlaceReload:
    """One reload in place (protocol.InPlace): a signal, then other workers.

    ``forks_first`` says that the master, when it has heard, forks a new worker before
    it ends an old one, or lets the old one stop accepting.

    :param ask: asks the master to replace its workers; False when that was not possible.
    """

    forks_first = True

    def __init__(
        self,
        world: World,
        old: AcceptingGeneration,
        policy: Policy,
        ask: Callable[[], object],
        steady: float = ONE_BY_ONE,
    ) -> None:
        self._world = world
        self._old = old
        self._ask = ask
        self._ready = policy.ready
        self._steady = steady
        self._probe: Optional[Probe] = None
        self.output: Collection[str] = ()
        """What the program has printed since this reload began."""
        self._bake: Optional[Bake] = None
        self._alone_since = 0.0
        self._idle = 0

    @property
    def master(self) -> Process:
        return self._old.master

    def renew(self) -> None:
        """Ask, and know for old what lives at that moment: a trial may have taken long."""
        self._must_live()
        expected = self._old.workers
        self._old = refreshed(self._world, self._old)
        self._probe = probe(self._world, self._ready, self._old, self._steady, expected=expected)
        self._alone_since = self._world.now()
        if self._ask() is False:
            raise self._exited()

    def renewed(self) -> Verdict:
        self._must_live()
        assert self._probe is not None, "nobody has asked yet"
        verdict = self._probe(self.master)
        if not verdict and self.forks_first:
            self._must_not_have_refused()
        return verdict

    def baked(self, seconds: float) -> object:
        self._must_live()
        if self._bake is None:
            self._bake = Bake(self._world, self.master, self._newcomers())
        return self._bake.over(seconds)

    def drained(self) -> object:
        self._must_live()
        left = self._left()
        return not left or Progress(f"{left} old worker{'' if left == 1 else 's'} left", 0, left)

    def leftover(self) -> Remark:
        left = self._left()
        noun = "worker still finishes what it has" if left == 1 else "workers still finish what"
        return Remark(f"{left} old {noun}{'' if left == 1 else ' they have'}")

    def _left(self) -> int:
        return sum(self._world.alive(worker) for worker in self._old.accepting)

    def _born(self) -> list[Process]:
        return [c for c in self._world.children(self.master) if c not in self._old.children]

    def _newcomers(self) -> list[Process]:
        """Return the new workers; all new children where it cannot be seen which they are."""
        born = self._born()
        try:
            return accepting(self._world, born) or born
        except Unreadable:
            return born

    def _must_not_have_refused(self) -> None:
        """Fail when the master has nothing to do and everything is as it was.

        nginx keeps its workers when it cannot listen where the new configuration says,
        uvicorn when a new one could not start. A new worker that lives is a sign of life.
        """
        status = self._world.status(self.master.pid)
        if self._born():
            self._alone_since, self._idle = self._world.now(), 0
            return
        self._idle += 1 if status is not None and status.state in "SI" else -BUSY
        over = self._world.now() - self._alone_since >= REFUSED
        if over and self._idle > 0 and self._all_serve():
            raise Failure(
                Fault.NOT_READY,
                f"{self.master} kept its old workers: it has refused the new configuration or "
                f"code, see its log",
            )

    def _all_serve(self) -> bool:
        """Tell whether no old worker has stopped accepting."""
        old = list(self._old.accepting)
        if not old:
            return False
        try:
            return len(accepting(self._world, old)) == len(old)
        except Unreadable:
            return all(self._world.alive(worker) for worker in old)

    def _must_live(self) -> None:
        if not self._world.alive(self.master):
            raise self._exited()

    def _exited(self) -> Failure:
        return Failure(
            Fault.SERVER_EXITED,
            f"the server ({self.master}) exited while it replaced its workers",
        )
