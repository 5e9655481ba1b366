"""What a family of servers offers, and what every family may say about a program."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

from supervisor_hotreload.identity import Process
from supervisor_hotreload.model import Policy, Ready
from supervisor_hotreload.world import World

GUESS = Ready("settle", 10.0)
"""How to tell readiness where nothing better can be seen, and nothing else is set."""

DEPTH = 3
"""How many shells or wrappers deep the master may sit under the supervised pid."""


@dataclass(frozen=True)
class Program:
    """A program as it is configured in supervisord.

    :param stopsignal: the name of the signal that stops it, such as 'TERM'.
    """

    name: str
    command: str
    directory: str
    environment: Mapping[str, str] = field(default_factory=dict)
    stopsignal: str = "TERM"

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


@dataclass(frozen=True)
class Trial:
    """A command that tries a release before anything is touched.

    :param words: run without a shell.
    :param title: what it is, for people.
    :param user: the id of the user who would run that code, None for the program's own.
    """

    words: tuple[str, ...]
    title: str
    user: Optional[int] = None


@dataclass(frozen=True)
class Rung:
    """One rung of a ladder of signals: what to send, then how long to wait."""

    send: Callable[[], None]
    patience: float


class Family:
    """One family of servers; a family says what differs from this.

    ``strategies`` are its ways to reload, the default one first;
    ``only_if_asked_for`` hides it from programs that do not set ``strategy``.
    """

    name = ""
    only_if_asked_for = False
    strategies: Mapping[str, Strategy] = {}

    def names(self, program: Program) -> bool:
        """Tell whether a program is of this family by its command: it may still boot."""
        return False

    def survey(self, world: World, tracked: Process, program: Program) -> Optional[Any]:
        """Return the Generation under the supervised process *tracked*, None when
        there is none of this family."""
        return None

    def lacks(self, program: Program) -> str:
        """Return what a program of this family has not got while it boots."""
        return "workers yet"

    def pidfile(self, program: Program) -> Optional[str]:
        """Return where a program writes its pid, as its configuration tells."""
        return None

    def strategy(self, world: World, old: Any, program: Program) -> str:
        """Return the strategy that its configuration allows best."""
        return next(iter(self.strategies))

    def warnings(self, program: Program) -> Iterable[str]:
        """Return what is wrong with the way a program is configured."""
        return ()

    def admit(self, world: World, old: Any, program: Program, strategy: str) -> None:
        """Refuse what cannot be reloaded now.

        :raises Failure: with the cure.
        """

    def readiness(self, old: Any, policy: Policy) -> tuple[Ready, str]:
        """Return how readiness is told, and why so when that is worth a line."""
        return policy.ready, ""

    def trial(self, world: World, old: Any, program: Program) -> Optional[Trial]:
        """Return the default ``check_before``, None where the family has none."""
        return None

    def server(self, world: World, old: Any, policy: Policy, program: Program) -> Any:
        """Return the protocol.Server of one reload, or the protocol.InPlace of one in place."""
        raise NotImplementedError

    # -- kinship: proofs that hold for any process, whoever asks

    def leads(self, world: World, process: Process) -> bool:
        """Tell whether *process* is a master with workers of its own."""
        return False

    def reexeced(self, world: World, process: Process, masters: Iterable[Process]) -> bool:
        """Tell whether *process*, which still boots, was re-exec'd by one of *masters*."""
        return False

    def works(self, world: World, process: Process) -> bool:
        """Tell whether *process* is a worker: without its master it would hold the port."""
        return False

    def boots(self, world: World, process: Process) -> bool:
        """Tell whether *process* may be a master whose workers are still to come."""
        return True


def topmost(
    world: World, tracked: Process, fits: Callable[[Process, list[Process]], bool]
) -> Optional[Generation]:
    """Return the generation of the topmost process under *tracked* that *fits*.

    :param fits: called with a process and its children.
    """
    level = [tracked]
    for _ in range(DEPTH):
        below: list[Process] = []
        for process in level:
            children = world.children(process)
            if children and fits(process, children):
                return generation(world, tracked, process, children)
            below.extend(children)
        level = below
    return None


def generation(
    world: World, tracked: Process, master: Process, children: Iterable[Process]
) -> Generation:
    """Return the generation of *master* with *children*, of those that can be read."""
    status = world.status(master.pid)
    image = status.image if status is not None else 0
    return Generation(tracked, master, image, True, frozenset(children))
