"""What a family of servers offers: a family is a subclass of Family."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Optional, Protocol, TypeVar

from supervisor_hotreload.core import protocol
from supervisor_hotreload.core.model import Failure, Fault, Policy, Ready
from supervisor_hotreload.core.text import there_are
from supervisor_hotreload.servers.generation import AcceptingGeneration, Generation
from supervisor_hotreload.servers.program import Program, mentions
from supervisor_hotreload.servers.readiness import BLIND_SECONDS, STEADY_SECONDS, Probe, probe
from supervisor_hotreload.servers.trial import Trial
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World

GUESS = Ready("settle", BLIND_SECONDS)
"""The ``ready`` of a server whose workers hide whether they accept."""

ACCEPTING = Ready("accepting")


@dataclass(frozen=True)
class Strategy:
    """One way to reload a family.

    :param in_place: the server keeps its pid and replaces its own workers, so it
        cannot go back to the old release.
    :param tried: its default ``check_before`` runs without being asked for.
    :param what: a description for operators.
    """

    in_place: bool
    tried: bool
    what: str


REEXEC = Strategy(in_place=False, tried=False, what="a second master beside the first (USR2)")


class SuccessorReload(protocol.Server, Protocol):
    """One reload by a second master, bound to its old generation."""

    before: Optional[frozenset[Process]]
    """The children of the old master when it was asked for a successor; None until then."""

    def expect(self, new: Process) -> None:
        """Take *new* for the successor, which was there before this reload."""


class RenewalInPlace(protocol.InPlace, Protocol):
    """One reload in place, bound to its old generation."""

    output: Collection[str]
    """The lines that the program has printed since this reload began."""


G = TypeVar("G", bound=Generation)


class Family(Generic[G]):
    """One family of servers. A subclass overrides what differs in its family.

    Its *G* is what :meth:`survey` returns, a :class:`Generation` or a subclass of it.
    A family with a strategy that is not ``in_place`` overrides :meth:`server`, one with
    a strategy that is overrides :meth:`in_place`.
    """

    name: str = ""

    binaries: frozenset[str] = frozenset()
    """The names of its executables."""

    strategies: Mapping[str, Strategy] = {}
    """Its ways to reload, the default one first."""

    ended_by_hup: bool = True
    """A HUP ends a server of this family that still boots."""

    orphan_signal: str = "TERM"
    """The signal on which an orphaned worker finishes its requests and ends; '': it does so
    by itself."""

    only_if_asked_for: bool = False
    """It is considered for a program only when that sets ``strategy`` to one of its strategies."""

    counts_when: str = ""
    """What proves that a worker is ready where it does not show that it accepts."""

    knows_rivals: bool = False
    """Its survey itself reports several masters under one program."""

    # -- recognition

    def is_named_in(self, program: Program) -> bool:
        """Tell whether the command of *program* names this family; the server may still boot."""
        return mentions(program.command, self.binaries)

    def survey(self, world: World, tracked: Process, program: Program) -> Optional[G]:
        """Return the generation under the supervised process *tracked*, None when no server of
        this family runs there."""
        return None

    def lacks(self, program: Program) -> str:
        """Return what a program of this family lacks while it boots, after the words 'has no'."""
        return "workers yet"

    def why_not_running(self, program: Program) -> str:
        """Return why the command of *program* can never be RUNNING, '' when it can."""
        return ""

    def pidfile(self, program: Program) -> Optional[str]:
        """Return the path to which *program* is configured to write its pid."""
        return None

    def addresses(self, program: Program) -> list[str]:
        """Return the addresses in the command of *program*: absolute paths, and HOST:PORT."""
        return []

    # -- one reload

    def best_strategy(self, world: World, old: G, program: Program) -> str:
        """Return the strategy that the server's configuration allows best."""
        return next(iter(self.strategies))

    def warnings(self, world: World, old: G, program: Program) -> Iterable[str]:
        """Return one line for each thing that is wrong with the configuration or the process."""
        return ()

    def admit(self, world: World, old: G, policy: Policy, program: Program) -> None:
        """Refuse a reload that cannot succeed now.

        :raises Failure: with the cure.
        """

    def readiness(self, old: G, policy: Policy) -> tuple[Ready, str]:
        """Return the ``ready`` of one reload, and a line for the operator that explains it."""
        if policy.ready.kind != "heartbeat":
            return policy.ready, f"ready = {policy.ready}, as it is set"
        if not old.readable:
            return GUESS, (
                f"warning: the descriptors below pid {old.master.pid} cannot be read (permission "
                f"denied, or there are too many); ready = {GUESS} is used instead, a guess"
            )
        if self.counts_when:
            return policy.ready, (
                f"a worker counts from the moment when {self.counts_when}; "
                f"{there_are(old.workers, 'worker')}"
            )
        return ACCEPTING, (
            f"ready = {ACCEPTING}: a worker counts from the moment when the listening socket is in "
            f"its epoll set; {there_are(old.workers, 'worker')}"
        )

    def probe(self, world: World, old: G, ready: Ready, expected: int = 0) -> Probe:
        """Return the probe that judges the workers which replace those of *old*.

        :param expected: how many workers there have to be, at least; *old* had as many or fewer.
        """
        raise NotImplementedError

    def trial(self, world: World, old: G, program: Program) -> Optional[Trial]:
        """Return the default ``check_before``, None when the family has none."""
        return None

    def why_no_trial(self, old: G) -> str:
        """Return why there is no default ``check_before`` although the strategy wants one."""
        return ""

    def server(self, world: World, old: G, policy: Policy, program: Program) -> SuccessorReload:
        """Return one reload with a strategy that starts a second master."""
        raise NotImplementedError

    def in_place(self, world: World, old: G, policy: Policy, program: Program) -> RenewalInPlace:
        """Return one reload with a strategy that keeps the master."""
        raise NotImplementedError

    # -- any process

    def is_master(self, world: World, process: Process) -> bool:
        """Tell whether *process* is a master of this family that has workers."""
        return False

    def may_be_successor(self, world: World, process: Process) -> bool:
        """Tell whether an exec of a master's command may be that master's successor.

        A family that only reloads in place has none; in some families workers are execs too.
        """
        return any(not strategy.in_place for strategy in self.strategies.values())

    def may_be_booting(self, world: World, process: Process) -> bool:
        """Tell whether *process* may be a master that has no workers yet."""
        return True


A = TypeVar("A", bound=AcceptingGeneration)


class AcceptingFamily(Family[A]):
    """A family whose workers are the children that accept connections."""

    def probe(self, world: World, old: A, ready: Ready, expected: int = 0) -> Probe:
        return probe(world, ready, old, STEADY_SECONDS, expected=expected)


AnyFamily = Family[Any]
"""A family whose kind of generation the caller does not know."""


def foreign_successor(name: str, successor: Process, master: Process) -> Failure:
    """Return the refusal of a reload of a program that has a successor already."""
    return Failure(
        Fault.FOREIGN_SUCCESSOR,
        f"{name} has a successor already ({successor}), somebody sent USR2 to {master}: "
        f"end one of them first",
    )
