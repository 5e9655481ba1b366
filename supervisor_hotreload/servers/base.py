"""What a family of servers offers, and what every family may say about a program."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Callable, Optional, TypeVar

from supervisor_hotreload.core.model import Failure, Fault, Policy, Progress, Ready
from supervisor_hotreload.servers.readiness import (
    BLIND,
    STEADY,
    Accepting,
    Bake,
    Lasting,
    Notified,
    Renewed,
    Then,
    Verdict,
    accepting,
    counts,
)
from supervisor_hotreload.system.command import ITSELF, RunAs
from supervisor_hotreload.system.credentials import Ids, ids_of
from supervisor_hotreload.system.endpoint import Endpoint
from supervisor_hotreload.system.process import Process, Unreadable, status_of
from supervisor_hotreload.system.world import World

GUESS = Ready("settle", BLIND)
"""How to tell readiness where nothing better can be seen, and nothing else is set."""

ACCEPTING = Ready("accepting")

ONE_BY_ONE = 5.0
"""Seconds until fewer workers than before are all that come, where one follows the
other: between the end of an old one and the fork of a new one lies a second or more."""

REFUSED = 5.0
"""Seconds in which a master that forks at once has forked no worker: it will not."""

BUSY = 2
"""Looks at which a master was asleep that one outweighs at which it was not: the master
may load the new release itself."""

DEPTH = 8
"""How many processes deep the master is looked for, shells and wrappers before it included."""

BUDGET = 64
"""How many processes are looked at in that, at most: supervisord waits meanwhile."""


@dataclass(frozen=True)
class Program:
    """A program as it is configured in supervisord.

    :param stopsignal: the name of the signal that stops it, such as 'TERM'.
    :param user: the id of the user that it is configured to run as; None: its starter's.
    :param rights: with whose rights the files that it names are read; None: no rights.
    :param pidfile: where its settings say that it writes its pid.
    """

    name: str
    command: str
    directory: str
    environment: Mapping[str, str] = field(default_factory=dict)
    stopsignal: str = "TERM"
    user: Optional[int] = None
    rights: Optional[Ids] = None
    pidfile: Optional[str] = None

    @property
    def started_with(self) -> Mapping[str, str]:
        """Return the environment that it is given. A process's own is not read: that waits for
        an exec of it, which it can draw out (fs/exec.c, exec_update_lock)."""
        return {**os.environ, "PWD": self.directory, **self.environment}

    @property
    def words(self) -> list[str]:
        """Return the command's words, none when they cannot be told."""
        try:
            return shlex.split(self.command)
        except ValueError:
            return []


@dataclass
class Generation:
    """A master with its workers as they were at one moment.

    :param tracked: the supervised process; a shell may stand before the master.
    :param image: tells an exec from a fork, 0 where it cannot be seen.
    :param readable: False where the kernel hides the master's descriptors.
    """

    tracked: Process
    master: Process
    image: int
    readable: bool
    children: frozenset[Process]

    @property
    def workers(self) -> int:
        return len(self.children)


@dataclass(frozen=True)
class Strategy:
    """One way to reload a family.

    :param in_place: the server keeps its pid and replaces its own workers, so
        that there is no way back.
    :param tried: its default ``check_before`` runs without being asked for.
    :param what: what it does, for people.
    """

    in_place: bool
    tried: bool
    what: str


REEXEC = Strategy(in_place=False, tried=False, what="a second master beside the first (USR2)")


@dataclass(frozen=True)
class Trial:
    """A command that tries a release before anything is touched.

    :param words: run without a shell.
    :param title: what it is, for people.
    :param run_as: who runs that code, where the program is root's.
    :param environment: variables that it is told: unlike words they are not seen by all.
    """

    words: tuple[str, ...]
    title: str
    run_as: RunAs = ITSELF
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rung:
    """One rung of a ladder of signals: what to send, then how long to wait."""

    send: Callable[[], None]
    patience: float


def rung(world: World, process: Process, name: str, patience: float) -> Rung:
    """Return the rung that sends *process* the signal *name*, and lets it hear that."""

    def send() -> None:
        world.signal(process, name)
        world.signal(process, "CONT")  # a stopped process hears nothing else

    return Rung(send, patience)


def stopped(world: World, process: Process) -> bool:
    """Tell whether *process* is stopped by a signal."""
    status = world.status(process.pid)
    return status is not None and status.state in "Tt"


def walk(world: World, top: Process) -> Iterator[tuple[Process, list[Process]]]:
    """Yield *top* and what is below it, with the children of each, level by level: at most
    DEPTH levels, and BUDGET processes."""
    level = [top]
    left = BUDGET
    for _ in range(DEPTH):
        below: list[Process] = []
        for process in level[:left]:
            children = world.children(process)
            yield process, children
            below.extend(children)
        left -= len(level)
        if left <= 0:
            return
        level = below


INTERPRETERS = re.compile(r"(python|pypy|ruby|perl)[\d.]*$")


def own_name(words: Sequence[str]) -> str:
    """Return the name of what a command line runs, behind its interpreter."""
    names = [os.path.basename(word) for word in words[:1]]
    if names and INTERPRETERS.match(names[0]):
        names = [os.path.basename(word) for word in words[1:] if not word.startswith("-")]
    return names[0].partition(":")[0] if names else ""  # a title: 'gunicorn: master [app]'


def mentions(command: str, names: Iterable[str]) -> bool:
    """Tell whether a word of *command*, or the last part of a path in it, is one of *names*."""
    known = "|".join(map(re.escape, names))
    return bool(known) and re.search(rf"(^|[\s/'\"])({known})($|[\s'\"])", command) is not None


class Family:
    """One family of servers; a family says what differs from this.

    ``binaries`` are the names it is run by, ``ended_by_hup`` those that a HUP would
    end while they boot; on ``farewell`` an orphaned worker finishes what it
    has, and ends ('': it does so by itself);
    ``strategies`` are its ways to reload, the default one first;
    ``only_if_asked_for`` hides it from programs that do not set ``strategy``;
    ``knows_rivals``: it says itself that there are several masters.
    """

    name = ""
    binaries: frozenset[str] = frozenset()
    ended_by_hup = True
    farewell = "TERM"
    only_if_asked_for = False
    knows_rivals = False
    strategies: Mapping[str, Strategy] = {}

    def names(self, program: Program) -> bool:
        """Tell whether a program is of this family by its command: it may still boot."""
        return mentions(program.command, self.binaries)

    def survey(self, world: World, tracked: Process, program: Program) -> Optional[Any]:
        """Return the Generation under the supervised process *tracked*, None when
        there is none of this family."""
        return None

    def lacks(self, program: Program) -> str:
        """Return what a program of this family has not got while it boots."""
        return "workers yet"

    def down(self, program: Program) -> str:
        """Return why a program of this family cannot be RUNNING, as its command tells; else ''."""
        return ""

    def pidfile(self, program: Program) -> Optional[str]:
        """Return where a program writes its pid, as its configuration tells."""
        return None

    def addresses(self, program: Program) -> list[str]:
        """Return where a program listens, as its command tells: paths, and HOST:PORT."""
        return []

    def strategy(self, world: World, old: Any, program: Program) -> str:
        """Return the strategy that its configuration allows best."""
        return next(iter(self.strategies))

    def warnings(self, world: World, old: Any, program: Program) -> Iterable[str]:
        """Return what is wrong with the way a program is configured, or runs."""
        return ()

    def admit(self, world: World, old: Any, policy: Policy, program: Program) -> None:
        """Refuse what cannot be reloaded now.

        :raises Failure: with the cure.
        """

    def readiness(self, old: Any, policy: Policy) -> tuple[Ready, str]:
        """Return how readiness is told, and why so when that is worth a line."""
        if policy.ready.kind != "heartbeat":
            return policy.ready, f"ready = {policy.ready}, as it is set"
        if not old.readable:
            return GUESS, (
                f"warning: the descriptors below pid {old.master.pid} cannot be read (permission "
                f"denied, or there are too many); ready = {GUESS} is used instead, a guess"
            )
        return ACCEPTING, (
            f"ready = {ACCEPTING}: a worker counts from the moment when the listening socket is in "
            f"its epoll set; there are {old.workers}"
        )

    def trial(self, world: World, old: Any, program: Program) -> Optional[Trial]:
        """Return the default ``check_before``, None where the family has none."""
        return None

    def untried(self, old: Any) -> str:
        """Return why there is no default ``check_before`` where there should be one."""
        return ""

    def server(self, world: World, old: Any, policy: Policy, program: Program) -> Any:
        """Return the protocol.Server of one reload, or the protocol.InPlace of one in place."""
        raise NotImplementedError

    # -- of any process, whoever asks

    def leads(self, world: World, process: Process) -> bool:
        """Tell whether *process* is a master with workers of its own."""
        return False

    def may_follow(self, world: World, process: Process) -> bool:
        """Tell whether an exec of a master's command may be its successor: a family that
        renews itself in place has none, and some have workers that are execs."""
        return any(not strategy.in_place for strategy in self.strategies.values())

    def boots(self, world: World, process: Process) -> bool:
        """Tell whether *process* may be a master whose workers are still to come."""
        return True


def must_hear(world: World, name: str, master: Process) -> None:
    """Refuse the reload of a master that is stopped by a signal.

    :param name: what the program is called.
    :raises Failure: STOPPED_BY_SIGNAL.
    """
    if stopped(world, master):
        raise Failure(
            Fault.STOPPED_BY_SIGNAL,
            f"the master of {name} ({master}) is stopped by a signal; "
            f"continue it with: kill -CONT {master.pid}",
        )


def run_as(
    world: World, old: Generation, workers: Iterable[Process], program: Program, named: RunAs
) -> RunAs:
    """Return as whom a release is tried: what is observed may only lower rights.

    :param workers: those that have loaded the release before.
    :param named: whom the program's command names, in supervisord's own configuration.
    :raises Failure: when that cannot be told.
    """
    if program.user:
        return RunAs(program.user)
    if os.geteuid() != 0:
        return ITSELF
    if named.user is not None:
        return named
    users = {_user_of_fork(old, worker) for worker in workers}
    user = users.pop() if len(users) == 1 else None
    if user == 0:
        forks = [child for child in old.children if world.image(child) in (0, old.image)]
        everyone = {_user_of_fork(old, process) for process in (old.master, *forks)}
        return ITSELF if everyone == {0} else _untold(program)
    return RunAs(user) if user is not None else _untold(program)


def _user_of_fork(old: Generation, process: Process) -> Optional[int]:
    """Return whose *process* is in every respect, None unless it is the master or a fork of it:
    one that has executed another file may be anybody's."""
    ids, status = ids_of(process.pid), status_of(process.pid)  # in this order
    if ids is None or status is None or status.process != process:
        return None
    return ids.user if status.image == old.image != 0 else None


def _untold(program: Program) -> RunAs:
    raise Failure(
        Fault.STILL_STARTING,
        f"{program.name}: as whom its release is to be tried cannot be told: it has no worker that "
        f"has loaded, or they are not forks of their master with one and the same user; nothing "
        f"was sent. Try again, name the user in its command or as user = of [program:...], or set "
        f"check_before = none",
    )


def foreign(name: str, successor: Process, master: Process) -> Failure:
    """Return the refusal of a reload of a program that has a successor already."""
    return Failure(
        Fault.FOREIGN_SUCCESSOR,
        f"{name} has a successor already ({successor}), somebody sent USR2 to {master}: "
        f"end one of them first",
    )


Refined = TypeVar("Refined", bound="Crew")


@dataclass
class Crew(Generation):
    """A generation whose workers are told by what they accept from.

    :param accepting: the children that do; all children where that cannot be seen.
    :param apart: ports, as the kernel writes them, from which others than workers accept.
    """

    accepting: frozenset[Process] = frozenset()
    apart: frozenset[str] = frozenset()

    @property
    def workers(self) -> int:
        return len(self.accepting)

    def refined(self, kind: Callable[..., Refined], **more: object) -> Refined:
        """Return this as a *kind* of Crew, with what a family knows *more* of it."""
        return kind(**{one.name: getattr(self, one.name) for one in fields(Crew)}, **more)


def crew(
    world: World,
    tracked: Process,
    fits: Callable[[Process], bool] = lambda process: True,
    at_work: Callable[[World, list[Process]], list[Process]] = accepting,
) -> Optional[Crew]:
    """Return the generation of the topmost process under *tracked* that *fits* and has
    children that accept connections.

    Where nothing can be seen, the topmost one that fits and has children.

    :param at_work: returns those of some processes that accept, or raises Unreadable.
    """
    hidden: Optional[Crew] = None
    for process, children in walk(world, tracked):
        if not children or not fits(process):
            continue
        image = world.image(process)
        try:
            ready = frozenset(at_work(world, children))
        except Unreadable:
            everyone = frozenset(children)
            hidden = hidden or Crew(tracked, process, image, False, everyone, everyone)
            continue
        if ready:
            return Crew(tracked, process, image, True, frozenset(children), ready)
    return hidden


def refreshed(world: World, old: Crew) -> Crew:
    """Return *old* as it is now: a worker may have been replaced for its age since."""
    children = frozenset(world.children(old.master))
    ended = old.accepting - children
    born = sorted(children - old.children, key=lambda child: child.start)
    try:
        known = world.listening(old.master)
        born = [c for c in born if counts(world.sockets(c, known).held, known, old.apart)]
    except Unreadable:
        pass  # then every child counts as before
    heirs = born if not old.readable else born[: len(ended)]
    workers = (old.accepting & children).union(heirs)
    return replace(old, children=children, accepting=workers)


def helpers(world: World, old: Crew) -> frozenset[Process]:
    """Return the children that hold the workers' socket and do not accept from it."""
    others = old.children - old.accepting
    if not others or not old.readable:
        return frozenset()
    try:
        known = world.listening(old.master)
        held = {child: world.sockets(child, known).held for child in others}
    except Unreadable:
        return frozenset()
    return frozenset(child for child in others if counts(held[child], known, old.apart))


def probe(
    world: World,
    ready: Ready,
    old: Crew,
    steady: float = ONE_BY_ONE,
    own: Optional[Callable[[Process], Verdict]] = None,
    expected: int = 0,
) -> Callable[[Process], Verdict]:
    """Return what tells when the workers that replace those of *old* are ready.

    :param steady: seconds after which fewer than before are all that come.
    :param own: the family's own proof, where it has a better one than what they accept from.
    :param expected: how many workers there are to be, at least.
    """
    expected = max(expected, old.workers)
    has_workers = bool(old.children) or expected > 0
    endpoint = partial(Endpoint, world, ready, rights=world.ids(old.master))
    if not has_workers and ready.kind != "notify":  # it reloads in its own process
        alone = ready.kind == "settle"
        return Lasting(world, ready.seconds) if alone else endpoint(alone=True)
    if ready.kind == "settle":
        return Renewed(world, expected, old.children, ready.seconds)
    told: Callable[[Process], Verdict] = Accepting(
        world, expected, old.children, steady, old.apart, helpers(world, old)
    )
    if own is not None and ready.kind != "accepting":
        told = own
    if not old.readable or not expected:
        told = Renewed(world, max(expected, len(old.children)), old.children, STEADY)
    if ready.kind in ("heartbeat", "accepting"):
        return told
    if ready.kind == "notify":
        return Notified(world, told if has_workers else None, old.children, world.now())
    return Then(told, endpoint(before=old.children, apart=old.apart))


@dataclass(frozen=True)
class Remark:
    """The end of a wait, with what is to be said of it; truthy."""

    text: str


class Renewal:
    """One reload in place (protocol.InPlace): a signal, then other workers.

    ``forks_first`` says that the master, when it has heard, forks a new worker before
    it ends an old one, or lets the old one stop accepting.

    :param ask: asks the master to replace its workers; False when that was not possible.
    """

    forks_first = True

    def __init__(
        self,
        world: World,
        old: Crew,
        policy: Policy,
        ask: Callable[[], object],
        steady: float = ONE_BY_ONE,
    ) -> None:
        self._world = world
        self._old = old
        self._ask = ask
        self._ready = policy.ready
        self._steady = steady
        self._probe: Optional[Callable[[Process], Verdict]] = None
        self.heard: Collection[str] = ()
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
