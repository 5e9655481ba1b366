"""A reload in place: the master keeps its pid and replaces its own workers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Callable, Optional

from supervisor_hotreload.core.model import Failure, Fault, Policy, Progress
from supervisor_hotreload.servers.generation import AcceptingGeneration, refreshed
from supervisor_hotreload.servers.readiness import ONE_BY_ONE_SECONDS, Bake, Probe, Verdict, probe
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World

REFUSAL_SECONDS = 5.0
"""Seconds without a new worker after which an idle master has refused the reload: a master
that forks first forks within a moment."""

BUSY_LOOKS = 2
"""Looks at an idle master that one look at a busy master outweighs: a busy master may be
loading the new release itself."""


@dataclass(frozen=True)
class Leftover:
    """The end of a wait, with a text about it; truthy."""

    text: str


class InPlaceReload:
    """One reload in place (protocol.InPlace): a signal, then other workers.

    ``forks_first``: when the master has received the signal, it forks a new worker before it
    ends an old one, or lets the old one stop accepting.

    :param ask: asks the master to replace its workers; False when that was not possible.
    :param steady: seconds after which fewer workers than before are all that come.
    """

    forks_first = True

    def __init__(
        self,
        world: World,
        old: AcceptingGeneration,
        policy: Policy,
        ask: Callable[[], object],
        steady: float = ONE_BY_ONE_SECONDS,
    ) -> None:
        self._world = world
        self._old = old
        self._ask = ask
        self._ready = policy.ready
        self._steady = steady
        self._probe: Optional[Probe] = None
        self.output: Collection[str] = ()
        """The lines that the program has printed since this reload began."""
        self._bake: Optional[Bake] = None
        self._unchanged_since = 0.0
        self._idle_looks = 0

    @property
    def master(self) -> Process:
        return self._old.master

    def renew(self) -> None:
        """Ask the master to replace its workers.

        The workers that live now are the old ones: a trial may have taken long.
        """
        self._must_live()
        expected = self._old.workers
        self._old = refreshed(self._world, self._old)
        self._probe = probe(self._world, self._ready, self._old, self._steady, expected)
        self._unchanged_since = self._world.now()
        if self._ask() is False:
            raise self._exited()

    def renewed(self) -> Verdict:
        self._must_live()
        assert self._probe is not None, "renew() comes first"
        verdict = self._probe(self.master)
        if not verdict and self.forks_first:
            self._must_not_have_refused()
        return verdict

    def baked(self, seconds: float) -> Verdict:
        self._must_live()
        if self._bake is None:
            self._bake = Bake(self._world, self.master, self._new_workers())
        return self._bake.over(seconds)

    def drained(self) -> object:
        """Return truthy when no old worker is left, else how many are."""
        self._must_live()
        left = self._left()
        return not left or Progress.of_old_workers(left)

    def leftover(self) -> Leftover:
        """Return a remark about the old workers that are left to finish."""
        left = self._left()
        if left == 1:
            return Leftover("1 old worker still finishes its requests")
        return Leftover(f"{left} old workers still finish their requests")

    def _left(self) -> int:
        return sum(self._world.alive(worker) for worker in self._old.accepting)

    def _born(self) -> list[Process]:
        return [c for c in self._world.children(self.master) if c not in self._old.children]

    def _new_workers(self) -> list[Process]:
        """Return the new workers; all new children when the kernel hides which they are."""
        born = self._born()
        try:
            return self._old.at_work(self._world, born) or born
        except Unreadable:
            return born

    def _must_not_have_refused(self) -> None:
        """Fail when the master is idle and all its workers are the old ones.

        nginx does that when it cannot listen where the new configuration says, uvicorn when a
        new worker could not start. A new worker that lives proves the contrary.
        """
        if self._born():
            self._unchanged_since, self._idle_looks = self._world.now(), 0
            return
        status = self._world.status(self.master.pid)
        self._idle_looks += 1 if status is not None and status.state in "SI" else -BUSY_LOOKS
        over = self._world.now() - self._unchanged_since >= REFUSAL_SECONDS
        if over and self._idle_looks > 0 and self._all_serve():
            raise Failure(
                Fault.NOT_READY,
                f"{self.master} has refused the new configuration or code and its old workers "
                f"serve; the server's log has the reason",
            )

    def _all_serve(self) -> bool:
        """Tell whether every old worker still accepts."""
        old = list(self._old.accepting)
        if not old:
            return False
        try:
            return len(self._old.at_work(self._world, old)) == len(old)
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
