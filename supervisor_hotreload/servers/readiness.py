"""Probes: they judge from outside, without blocking, whether new workers are ready."""

from __future__ import annotations

from collections.abc import Container, Iterable
from functools import partial
from typing import Union

from supervisor_hotreload.core.model import Failure, Fault, Progress, Readiness, Ready
from supervisor_hotreload.servers.generation import (
    AcceptingGeneration,
    AtWork,
    accepting_workers,
    counts,
    helpers,
)
from supervisor_hotreload.system.endpoint import Probe as Probe
from supervisor_hotreload.system.endpoint import endpoint_probe
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.sd_notify import Notice
from supervisor_hotreload.system.world import World

STEADY_SECONDS = 1.0
"""Seconds without a change after which fewer workers than before are all that come: a master
forks its workers up to 0.1 s apart (gunicorn arbiter.spawn_workers)."""

ONE_BY_ONE_SECONDS = 5.0
"""The same in seconds where a master ends one worker, and forks the next one a second or more
later."""

FORKING_SECONDS = 0.25
"""Seconds without another child after which a master has forked all its workers, if they are
as many as before."""

BLIND_SECONDS = 10.0
"""Seconds that new workers have to live where the kernel hides whether they serve."""

FALLS = 3
"""Ends of each worker before it is ready that are tolerated: some masters start another one at
once, for ever."""

STATUS_SECONDS = 1.0
"""Seconds between two texts of STATUS= that are reported, at least."""

Verdict = Union[Readiness, Progress]


class Falls:
    """Counts the workers that end before they are ready.

    :param expected: how many workers there are to be.
    """

    def __init__(self, expected: int) -> None:
        self._expected = max(expected, 1)
        self._seen: set[Process] = set()
        self._count = 0

    def look(self, master: Process, new: Iterable[Process], ready: Iterable[Process] = ()) -> None:
        """Note the *new* workers of *master*, and which of them are *ready*.

        :raises Failure: NOT_READY when they end again and again.
        """
        living = set(new)
        self._count += len(self._seen - living)
        self._seen = living.difference(ready)
        if self._count > FALLS * self._expected:
            raise Failure(
                Fault.NOT_READY,
                f"the new workers of {master} end before they are ready: {self._count} have ended; "
                f"the program's log has the reason",
            )


class Bake:
    """Tells whether the workers that were ready stay alive.

    :param workers: none of them may end.
    """

    def __init__(self, world: World, master: Process, workers: list[Process]) -> None:
        self._world = world
        self._master = master
        self._workers = workers
        self._since = world.now()

    def over(self, seconds: float) -> Verdict:
        """Return Readiness after *seconds*, Progress with the seconds that remain before.

        :raises Failure: BAKE_FAILED when a worker has died.
        """
        count = len(self._workers)
        dead = [worker for worker in self._workers if not self._world.alive(worker)]
        if dead:
            raise Failure(
                Fault.BAKE_FAILED,
                f"{dead[0]}, one of the {count} new workers of {self._master}, died",
            )
        left = seconds - (self._world.now() - self._since)
        return Progress.of_seconds(left) if left > 0 else Readiness(count)


class Settled:
    """Ready when the new children of a master have been the same for some seconds: a guess.

    :param expected: how many children there are to be; 0 for a server without workers, whose
        master has to live for the seconds.
    :param before: the children before the reload.
    """

    def __init__(
        self, world: World, expected: int, before: Container[Process], seconds: float
    ) -> None:
        self._world = world
        self._expected = expected
        self._before = before
        self._seconds = seconds
        self._workers: list[Process] = []
        self._since = world.now()
        self._falls = Falls(expected)

    def __call__(self, master: Process) -> Verdict:
        """Return Readiness, or how many new children of *master* there are.

        :raises Failure: NOT_READY when they end again and again.
        """
        children = self._world.children(master)
        new = [child for child in children if child not in self._before]
        self._falls.look(master, new)
        now = self._world.now()
        if new != self._workers:
            self._workers, self._since = new, now
        if len(new) >= self._expected and now - self._since >= self._seconds:
            return Readiness(max(len(new), 1))
        total = max(self._expected, len(new))
        if not total:
            return Progress(f"{master} has to live for {self._seconds:g} s")
        return Progress(f"{len(new)}/{total} new workers started", len(new), total)


class WorkersAtWork:
    """Ready when as many new children of a master are at work as the old generation had.

    More workers may still come. So either every new child that holds the socket has to be at
    work, or nothing may have changed for a while. A generation with fewer workers is ready
    when both hold, because the new release may be configured for fewer.

    :param expected: how many workers the old generation had.
    :param before: the children before the reload.
    :param steady: the seconds of that while.
    :param apart: see :func:`~supervisor_hotreload.servers.generation.counts`.
    :param helpers: those of *before* that held the socket and were not at work.
    :param at_work: tells which children are at work.
    """

    def __init__(
        self,
        world: World,
        expected: int,
        before: Container[Process] = (),
        steady: float = STEADY_SECONDS,
        apart: frozenset[str] = frozenset(),
        helpers: frozenset[Process] = frozenset(),
        at_work: AtWork = accepting_workers,
    ) -> None:
        self._world = world
        self._expected = max(expected, 1)
        self._before = before
        self._steady = steady
        self._apart = apart
        self._helpers = helpers
        self._at_work = at_work
        self._falls = Falls(expected)
        self._guess = Settled(world, self._expected, before, BLIND_SECONDS)
        self._new: list[Process] = []
        self._new_at = 0.0
        self._ready: frozenset[Process] = frozenset()
        self._ready_at = 0.0

    def __call__(self, master: Process) -> Verdict:
        """Return Readiness, or how many new workers of *master* are at work.

        :raises Failure: NOT_READY when they end again and again before that.
        """
        try:
            return self._look(master)
        except Unreadable:  # there are too many now, or they belong to another user
            return self._guess(master)

    def _look(self, master: Process) -> Verdict:
        now = self._world.now()
        children = self._world.children(master)
        new = [child for child in children if child not in self._before]
        unknown = [child for child in new if child not in self._ready]
        ready = self._ready.intersection(new).union(self._serving(unknown))
        self._falls.look(master, new, ready)
        if new != self._new:
            self._new, self._new_at = new, now
        if ready != self._ready:
            self._ready, self._ready_at = ready, now
        waiting = self._waiting([child for child in unknown if child not in ready])
        no_more = len(waiting) <= len(self._helpers.difference(children))
        no_more = no_more and now - self._new_at >= FORKING_SECONDS
        steady = now - self._ready_at >= self._steady
        enough = len(ready) >= self._expected
        if (enough and (no_more or steady)) or (
            ready and no_more and steady and not self._old_serve(children)
        ):
            return Readiness(len(ready))
        total = max(self._expected, len(ready) + (len(waiting) if enough else 0))
        return Progress.of_workers(len(ready), total)

    def _serving(self, processes: list[Process]) -> list[Process]:
        """Return those of *processes* that are workers at work."""
        found = self._at_work(self._world, processes)
        if not self._apart:
            return found
        known = self._world.listening(found[0]) if found else {}
        seen = ((p, self._world.sockets(p, known).accepted) for p in found)
        return [process for process, sockets in seen if counts(sockets, known, self._apart)]

    def _waiting(self, processes: list[Process]) -> list[Process]:
        """Return those of *processes* that may still become workers at work."""
        if self._at_work is not accepting_workers or not processes:
            return processes
        known = self._world.listening(processes[0])
        seen = ((p, self._world.sockets(p, known).held) for p in processes)
        return [process for process, sockets in seen if counts(sockets, known, self._apart)]

    def _old_serve(self, children: list[Process]) -> bool:
        """Tell whether a child from before the reload is still at work."""
        return bool(self._serving([child for child in children if child in self._before]))


class Then:
    """Ready when *first* has been ready once and *second* is ready: the generations share an
    address, so an answer from it alone proves nothing."""

    def __init__(self, first: Probe, second: Probe) -> None:
        self._first = first
        self._second = second
        self._verdict: Verdict = Progress("")

    def __call__(self, master: Process) -> Verdict:
        if not self._verdict:
            self._verdict = self._first(master)
            if not self._verdict:
                return self._verdict
        second = self._second(master)
        return self._verdict if second else second


class Notified:
    """Ready when the new generation has sent READY=1 (sd_notify).

    When workers of the old generation have sent it, READY=1 of the master alone is not enough:
    gunicorn's master sends it before its workers have loaded the application (gunicorn
    arbiter.start).

    :param before: the children before the reload.
    :param since: what was sent before this time of the world's clock is old.
    """

    def __init__(self, world: World, before: frozenset[Process], since: float = 0.0) -> None:
        self._world = world
        self._before = before
        self._since = since
        self._workers_notify = any(
            notice.ready_at is not None and not before.isdisjoint(notice.line)
            for notice in world.notices
        )
        self._status = ""
        self._status_at = 0.0

    def __call__(self, master: Process) -> Verdict:
        new = [notice for notice in self._world.notices if self._is_new(master, notice)]
        if any(self._is_ready(master, notice) for notice in new):
            return Readiness(1)
        return Progress("; ".join(filter(None, ("READY=1 is awaited", self._latest(new)))))

    def _is_new(self, master: Process, notice: Notice) -> bool:
        new = master in notice.line and self._before.isdisjoint(notice.line)
        return new and notice.at >= self._since

    def _is_ready(self, master: Process, notice: Notice) -> bool:
        ready = notice.ready_at is not None and notice.ready_at >= self._since
        return ready and not (self._workers_notify and notice.sender == master)

    def _latest(self, new: list[Notice]) -> str:
        """Return the last STATUS; it changes every STATUS_SECONDS seconds at most."""
        now = self._world.now()
        found = next((notice.status for notice in reversed(new) if notice.status), "")
        if found != self._status and now - self._status_at >= STATUS_SECONDS:
            self._status, self._status_at = found, now
        return self._status


def probe(
    world: World,
    ready: Ready,
    old: AcceptingGeneration,
    steady: float = ONE_BY_ONE_SECONDS,
    expected: int = 0,
) -> Probe:
    """Return the probe for the workers that replace those of *old*.

    :param ready: the setting.
    :param steady: seconds after which fewer workers than before are all that come.
    :param expected: how many workers there are to be, at least.
    """
    expected = max(expected, old.workers)
    has_workers = bool(old.children) or expected > 0
    endpoint = partial(endpoint_probe, world, ready, world.ids(old.master))
    notified = partial(Notified, world, old.children, world.now())
    if not has_workers:  # it reloads in its own process
        if ready.kind == "notify":
            return notified()
        alone = ready.kind == "settle"
        return Settled(world, 0, (), ready.seconds) if alone else endpoint(alone=True)
    if ready.kind == "settle":
        return Settled(world, max(expected, 1), old.children, ready.seconds)
    workers: Probe = WorkersAtWork(
        world,
        expected,
        old.children,
        steady,
        old.apart,
        helpers(world, old),
        accepting_workers if ready.kind == "accepting" else old.at_work,
    )
    if not old.readable or not expected:
        workers = Settled(world, max(expected, len(old.children)), old.children, STEADY_SECONDS)
    if ready.kind in ("heartbeat", "accepting"):
        return workers
    if ready.kind == "notify":
        return Then(workers, notified())
    return Then(workers, endpoint(before=old.children, apart=old.apart))
