"""The families of servers, one file each, in the order in which they are recognised.

A new family is one new file and one entry here.
"""

from __future__ import annotations

from typing import Optional

from supervisor_hotreload.servers import nginx, unicorn
from supervisor_hotreload.servers import signal as generic
from supervisor_hotreload.servers.base import (
    Family,
    Program,
    Strategy,
    foreign,
    must_hear,
    own_name,
    walk,
)
from supervisor_hotreload.servers.gunicorn import family as gunicorn
from supervisor_hotreload.servers.gunicorn.family import Gunicorn
from supervisor_hotreload.servers.roles import Ambiguous, Found, own
from supervisor_hotreload.servers.uwsgi import family as uwsgi
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World

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
    "Ambiguous",
    "Family",
    "Found",
    "Gunicorn",
    "Program",
    "Strategy",
    "booting",
    "family_of",
    "foreign",
    "must_hear",
    "named",
]


def family_of(
    world: World, tracked: Process, program: Program, strategy: str = AUTO
) -> Optional[Found]:
    """Return the family of a running program, with what runs now.

    :param strategy: only families that have it are asked.
    :return: None when no family knows it.
    :raises Ambiguous: when several servers run under it.
    """
    auto = strategy == AUTO
    families = [
        family
        for family in FAMILIES
        if strategy in family.strategies or (auto and not family.only_if_asked_for)
    ]
    return own(world, tracked, program, families)


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
