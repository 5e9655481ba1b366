"""The families of servers, one file each, in the order in which they are recognised.

A new family is one new file and one entry here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Optional

from supervisor_hotreload.identity import Process, Unreadable
from supervisor_hotreload.servers import generic, gunicorn, nginx, unicorn, uwsgi
from supervisor_hotreload.servers.family import (
    Family,
    Program,
    Strategy,
    foreign,
    must_hear,
    own_name,
    walk,
)
from supervisor_hotreload.servers.gunicorn import Gunicorn
from supervisor_hotreload.world import World

FAMILIES: tuple[Family, ...] = (
    gunicorn.FAMILY,
    uwsgi.FAMILY,
    nginx.FAMILY,
    unicorn.FAMILY,
    generic.FAMILY,
)
"""A family that is recognised by proof comes before one that believes what it is told."""

STRATEGIES = frozenset(name for family in FAMILIES for name in family.strategies)

AUTO = "auto"
"""The strategy that lets the family choose."""

__all__ = [
    "AUTO",
    "FAMILIES",
    "STRATEGIES",
    "Family",
    "Found",
    "Gunicorn",
    "Program",
    "Strategy",
    "booting",
    "family_of",
    "farewell",
    "foreign",
    "leads",
    "listens",
    "must_hear",
    "named",
    "reexeced",
    "works",
]


@dataclass(frozen=True)
class Found:
    """A running program whose family is known.

    :param old: the family's Generation.
    """

    family: Family
    old: Any


def family_of(
    world: World, tracked: Process, program: Program, strategy: str = AUTO
) -> Optional[Found]:
    """Return the family of a running program, with what runs now.

    :param strategy: only families that have it are asked.
    :return: None when no family knows it.
    """
    for family in FAMILIES:
        if strategy in family.strategies or (strategy == AUTO and not family.only_if_asked_for):
            old = family.survey(world, tracked, program)
            if old is not None:
                return Found(family, old)
    return None


def named(program: Program) -> Optional[Family]:
    """Return the family that a program's command names."""
    return next((family for family in FAMILIES if family.names(program)), None)


def booting(world: World, tracked: Process) -> Optional[Family]:
    """Return the family whose server runs under *tracked*, ready or not, by its name."""
    for process, _ in walk(world, tracked):
        name = own_name(world.arguments(process))
        for family in FAMILIES:
            if name in family.binaries:
                return family
    return None


def leads(world: World, process: Process) -> bool:
    """Tell whether *process* is a master with workers of its own."""
    return any(family.leads(world, process) for family in FAMILIES)


def reexeced(world: World, process: Process, masters: Iterable[Process]) -> bool:
    """Tell whether *process*, which still boots, was re-exec'd by one of *masters*."""
    known = list(masters)
    return any(family.reexeced(world, process, known) for family in FAMILIES)


def listens(world: World, process: Process) -> bool:
    """Tell whether *process* holds a listening socket."""
    try:
        return bool(world.sockets(process, world.listening(process)).held)
    except Unreadable:
        return False


def farewell(world: World, worker: Process) -> str:
    """Return the signal on which an orphaned worker finishes what it has, and ends; '' for
    one that does so by itself."""
    return next((f.farewell for f in FAMILIES if f.works(world, worker)), "TERM")


def works(world: World, process: Process) -> bool:
    """Tell whether *process* is a worker of any family."""
    return any(family.works(world, process) for family in FAMILIES)
