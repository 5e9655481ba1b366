"""Ways to tell, from outside and without blocking, that a generation is ready."""

from __future__ import annotations

from collections.abc import Container, Iterable
from functools import partial
from typing import Callable, Optional, Union

from supervisor_hotreload.core.model import Failure, Fault, Progress, Readiness, Ready
from supervisor_hotreload.servers.generation import AcceptingGeneration, counts, helpers
from supervisor_hotreload.system.endpoint import endpoint_probe
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.sd_notify import Notice
from supervisor_hotreload.system.world import World

STEADY = 1.0
"""Seconds that a set of touched heartbeats has to stay the same when it is not as
large as the old one: workers are forked up to 0.1 s apart (gunicorn
arbiter.spawn_workers)."""

FORKING = 0.25
"""Seconds without another child after which a master has forked all, if they are enough."""

ONE_BY_ONE = 5.0
"""Seconds until fewer workers than before are all that come, where one follows the
other: between the end of an old one and the fork of a new one lies a second or more."""

BLIND = 10.0
"""Seconds that new workers have to live where it cannot be seen whether they accept."""

FALLS = 3
"""How often a worker may end before it is ready: some servers start another one at once,
for ever."""

Verdict = Union[Readiness, Progress]

Probe = Callable[[Process], Verdict]
"""Judges the workers of a master each time it is called."""


def shares(world: World, beats: Container[tuple[int, int]], child: Process) -> bool:
    """Tell whether *child* holds one of the heartbeat files *beats*.

    A worker's own descriptors may be hidden (``-u nobody``): a child that
    cannot be read is taken for a worker of a process that has heartbeats.
    """
    try:
        return any(key in beats for key in world.heartbeats(child))
    except Unreadable:
        return True


class Falls:
    """Counts the workers that end before they are ready.

    :param expected: how many workers there are to be.
    """

    def __init__(self, expected: int) -> None:
        self._expected = max(expected, 1)
        self._seen: set[Process] = set()
        self._count = 0

    def look(self, master: Process, new: Iterable[Process], ready: Iterable[Process] = ()) -> None:
        """Take note of the *new* workers of *master*, and which of them are *ready*.

        :raises Failure: NOT_READY when they end again and again.
        """
        living = set(new)
        self._count += len(self._seen - living)
        self._seen = living.difference(ready)
        if self._count > FALLS * self._expected:
            raise Failure(
                Fault.NOT_READY,
                f"the new workers of {master} end before they are ready, {self._count} have: the "
                f"program's log tells why",
            )


class Bake:
    """Tells whether the workers that were ready stay so.

    :param workers: none of them may end.
    """

    def __init__(self, world: World, master: Process, workers: list[Process]) -> None:
        self._world = world
        self._master = master
        self._workers = workers
        self._since = world.now()

    def over(self, seconds: float) -> Verdict:
        """Return Readiness after *seconds*, before that how many remain.

        :raises Failure: BAKE_FAILED when one has died.
        """
        dead = [worker for worker in self._workers if not self._world.alive(worker)]
        if dead:
            count = len(self._workers)
            raise Failure(
                Fault.BAKE_FAILED,
                f"{dead[0]}, one of the {count} new workers of {self._master}, died",
            )
        left = self._since + seconds - self._world.now()
        return Progress.of_seconds(left) if left > 0 else Readiness(len(self._workers))


class Heartbeat:
    """Ready when every worker has touched its heartbeat file.

    The master's descriptors are read, not the workers': ``-u nobody`` makes
    the latter unreadable.

    :param expected: how many workers the old generation had.
    """

    def __init__(self, world: World, expected: int) -> None:
        self._world = world
        self._expected = expected
        self._set: frozenset[tuple[int, int]] = frozenset()
        self._since = 0.0

    def __call__(self, master: Process) -> Verdict:
        """Return Readiness, or how far the workers of *master* are."""
        beats = self._world.heartbeats(master)
        now = self._world.now()
        flipped = sum(beat.flipped for beat in beats.values())
        if frozenset(beats) != self._set:
            self._set, self._since = frozenset(beats), now
        complete = flipped >= self._expected or now - self._since >= STEADY
        if beats and flipped == len(beats) and complete:
            return Readiness(flipped)
        total = max(self._expected, len(beats))
        return Progress.of_workers(flipped, total)


class Settle:
    """Ready when the number of workers has not changed for some seconds.

    For where the heartbeat cannot be read: it is a guess, and said to be one.
    """

    def __init__(self, world: World, expected: int, seconds: float) -> None:
        self._world = world
        self._expected = expected
        self._seconds = seconds
        self._workers: tuple[Process, ...] = ()
        self._since: Optional[float] = None

    def __call__(self, master: Process) -> Verdict:
        """Return Readiness, or how many workers of *master* there are."""
        workers = tuple(self._world.children(master))
        now = self._world.now()
        if workers != self._workers or self._since is None:
            self._workers, self._since = workers, now
        if len(workers) >= max(self._expected, 1) and now - self._since >= self._seconds:
            return Readiness(len(workers))
        total = max(self._expected, len(workers))
        return Progress(f"{len(workers)}/{total} workers started", len(workers), total)


class Accepting:
    """Ready when as many new children of a master accept as the old generation had.

    A process that accepts has the listening socket in its epoll set, not a
    moment earlier. More may be on their way: every one that holds the socket has to
    accept, or nothing has to have changed for a while. Fewer are enough when both is
    so: some servers start fewer.

    :param before: the children that there were before the reload.
    :param steady: how many seconds that while is.
    :param apart: ports, as the kernel writes them, from which others than workers accept.
    :param helpers: those of *before* that held the socket and did not accept from it.
    """

    def __init__(
        self,
        world: World,
        expected: int,
        before: Container[Process],
        steady: float,
        apart: frozenset[str] = frozenset(),
        helpers: frozenset[Process] = frozenset(),
    ) -> None:
        self._world = world
        self._steady = steady
        self._helpers = helpers
        self._falls = Falls(expected)
        self._guess = Renewed(world, expected, before, BLIND)
        self._born: list[Process] = []
        self._born_at = 0.0
        self._apart = apart
        self._expected = max(expected, 1)
        self._before = before
        self._set: frozenset[Process] = frozenset()
        self._since = 0.0

    def __call__(self, master: Process) -> Verdict:
        """Return Readiness, or how many new workers of *master* accept.

        :raises Failure: when they end again and again before they do.
        """
        try:
            return self._look(master)
        except Unreadable:  # they have become too many, or are another user's now
            return self._guess(master)

    def _look(self, master: Process) -> Verdict:
        world, apart = self._world, self._apart
        children = world.children(master)
        new = [child for child in children if child not in self._before]
        known = world.listening(master)
        seen = {c: world.sockets(c, known) for c in new if c not in self._set}
        ready = frozenset(
            c for c in new if c in self._set or counts(seen[c].accepted, known, apart)
        )
        self._falls.look(master, new, ready)
        waiting = [c for c in seen if counts(seen[c].held, known, apart) and c not in ready]
        all_accept = len(waiting) <= len(self._helpers.difference(children))
        now = world.now()
        if new != self._born:
            self._born, self._born_at = new, now
        all_accept = all_accept and now - self._born_at >= FORKING
        if ready != self._set:
            self._set, self._since = ready, now
        long = now - self._since >= self._steady
        enough = len(ready) >= self._expected
        if (enough and (all_accept or long)) or (
            ready and all_accept and long and not self._left(children, known)
        ):
            return Readiness(len(ready))
        total = max(self._expected, len(ready) + (len(waiting) if enough else 0))
        return Progress(f"worker {len(ready)} of {total} accepts", len(ready), total)

    def _left(self, children: list[Process], known: dict[int, str]) -> bool:
        """Tell whether an old worker accepts still."""
        old = [child for child in children if child in self._before]
        seen = (self._world.sockets(child, known).accepted for child in old)
        return any(counts(sockets, known, self._apart) for sockets in seen)


class Renewed:
    """Ready when the new children of a master have been the same for some seconds: a guess.

    :param before: the children that there were before the reload.
    """

    def __init__(
        self, world: World, expected: int, before: Container[Process], seconds: float
    ) -> None:
        self._world = world
        self._expected = max(expected, 1)
        self._before = before
        self._seconds = seconds
        self._workers: list[Process] = []
        self._since = world.now()
        self._falls = Falls(expected)

    def __call__(self, master: Process) -> Verdict:
        children = self._world.children(master)
        new = [child for child in children if child not in self._before]
        self._falls.look(master, new)
        now = self._world.now()
        if new != self._workers:
            self._workers, self._since = new, now
        if len(new) >= self._expected and now - self._since >= self._seconds:
            return Readiness(len(new))
        total = max(self._expected, len(new))
        return Progress(f"{len(new)} of {total} new workers started", len(new), total)


class Lasting:
    """Ready when the master has lived for some seconds: of a server without workers, a guess."""

    def __init__(self, world: World, seconds: float) -> None:
        self._world = world
        self._seconds = seconds
        self._since = world.now()

    def __call__(self, master: Process) -> Verdict:
        lasted = self._world.now() - self._since >= self._seconds
        return Readiness(1) if lasted else Progress(f"{master} has to live for {self._seconds:g} s")


class Then:
    """Ready when *first* has been and *second* is: an address is shared by generations."""

    def __init__(self, first: Probe, second: Probe):
        self._first = first
        self._second = second
        self._verdict: Verdict = Progress("")

    def __call__(self, master: Process) -> Verdict:
        if not self._verdict:
            self._verdict = self._first(master)
            if not self._verdict:
                return self._verdict
        return self._verdict if (asked := self._second(master)) else asked


class Notified:
    """Ready when *first* has been, and the new generation has said READY=1 (sd_notify).

    Where workers of the old generation have said so, the word of the master alone is
    not enough: gunicorn's says it before its workers have loaded the application
    (gunicorn arbiter.start).

    :param before: the children that there were before the reload.
    :param since: what was said before that is old, by the world's clock.
    """

    def __init__(
        self,
        world: World,
        first: Optional[Probe],
        before: frozenset[Process],
        since: float = 0.0,
    ) -> None:
        self._world = world
        self._first = first
        self._before = before
        self._since = since
        self._verdict: Verdict = Progress("") if first is not None else Readiness(1)
        self._workers_speak = any(
            notice.ready_at is not None and not before.isdisjoint(notice.line)
            for notice in world.notices
        )
        self._status = ""
        self._status_at = 0.0

    def __call__(self, master: Process) -> Verdict:
        if not self._verdict and self._first is not None:
            self._verdict = self._first(master)
        said = [notice for notice in self._world.notices if self._is_new(master, notice)]
        if self._verdict and any(self._counts(master, notice) for notice in said):
            return self._verdict
        told = "READY=1 is awaited" if self._verdict else self._verdict.text
        return Progress("; ".join(filter(None, (told, self._latest(said)))))

    def _is_new(self, master: Process, notice: Notice) -> bool:
        new = master in notice.line and self._before.isdisjoint(notice.line)
        return new and notice.at >= self._since

    def _counts(self, master: Process, notice: Notice) -> bool:
        ready = notice.ready_at is not None and notice.ready_at >= self._since
        return ready and not (self._workers_speak and notice.sender == master)

    def _latest(self, said: list[Notice]) -> str:
        """Return the last STATUS; a new one at most once a second."""
        now = self._world.now()
        found = next((notice.status for notice in reversed(said) if notice.status), "")
        if found != self._status and now - self._status_at >= 1.0:
            self._status, self._status_at = found, now
        return self._status


def probe(
    world: World,
    ready: Ready,
    old: AcceptingGeneration,
    steady: float = ONE_BY_ONE,
    own: Optional[Probe] = None,
    expected: int = 0,
) -> Probe:
    """Return what tells when the workers that replace those of *old* are ready.

    :param steady: seconds after which fewer than before are all that come.
    :param own: the family's own proof, where it has a better one than what they accept from.
    :param expected: how many workers there are to be, at least.
    """
    expected = max(expected, old.workers)
    has_workers = bool(old.children) or expected > 0
    endpoint = partial(endpoint_probe, world, ready, world.ids(old.master))
    if not has_workers and ready.kind != "notify":  # it reloads in its own process
        alone = ready.kind == "settle"
        return Lasting(world, ready.seconds) if alone else endpoint(alone=True)
    if ready.kind == "settle":
        return Renewed(world, expected, old.children, ready.seconds)
    told: Probe = Accepting(world, expected, old.children, steady, old.apart, helpers(world, old))
    if own is not None and ready.kind != "accepting":
        told = own
    if not old.readable or not expected:
        told = Renewed(world, max(expected, len(old.children)), old.children, STEADY)
    if ready.kind in ("heartbeat", "accepting"):
        return told
    if ready.kind == "notify":
        return Notified(world, told if has_workers else None, old.children, world.now())
    return Then(told, endpoint(before=old.children, apart=old.apart))
