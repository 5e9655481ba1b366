"""The registry of the families of servers.

What is in this room, from what everything needs to what nothing else needs:

- ``generation``: a master with its workers. ``signals``: the ladder of stop signals.
- ``readiness``: the probes that judge new workers. ``trial``: trying a release before.
- ``program``: a program as it is configured. ``base``: what a family says of one.
- ``command_line``: the server behind the wrappers of a command.
- ``lineage``: which processes belong to a program, and what proves it.
- ``launchers``: what stands between supervisord and a master.
- ``reexec``: a reload by a second master. ``in_place``: a reload that keeps the master.
- ``recognition``: which of several servers under one process the program is.
- ``settings``: ``[hotreload:NAME]`` sections.
- the families: ``gunicorn``, ``uwsgi``, ``nginx``, ``unicorn``, ``puma`` and ``signal``.

A new family is one new file, and one entry in FAMILIES.
"""

from __future__ import annotations

from typing import Optional

from supervisor_hotreload.servers import nginx, puma, unicorn
from supervisor_hotreload.servers import signal as generic
from supervisor_hotreload.servers.base import (
    AnyFamily,
    Family,
    Strategy,
    foreign_successor,
)
from supervisor_hotreload.servers.command_line import own_name
from supervisor_hotreload.servers.generation import Generation, walk
from supervisor_hotreload.servers.gunicorn import family as gunicorn
from supervisor_hotreload.servers.program import Program
from supervisor_hotreload.servers.recognition import Ambiguous, Found, find_server
from supervisor_hotreload.servers.signals import must_not_be_stopped
from supervisor_hotreload.servers.uwsgi import family as uwsgi
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World

FAMILIES: tuple[AnyFamily, ...] = (
    gunicorn.FAMILY,
    uwsgi.FAMILY,
    nginx.FAMILY,
    unicorn.FAMILY,
    puma.FAMILY,
    generic.FAMILY,
)
"""The families in the order in which they are asked; one that needs no proof comes last."""

STRATEGIES = frozenset(name for family in FAMILIES for name in family.strategies)

AUTO = "auto"
"""The strategy that lets the family choose."""

__all__ = [
    "AUTO",
    "FAMILIES",
    "STRATEGIES",
    "Ambiguous",
    "AnyFamily",
    "Family",
    "Found",
    "Generation",
    "Program",
    "Strategy",
    "booting_family",
    "family_by_command",
    "family_of",
    "foreign_successor",
    "must_not_be_stopped",
]


def family_of(
    world: World, tracked: Process, program: Program, strategy: str = AUTO
) -> Optional[Found]:
    """Return the family of a running program, and its generation.

    :param tracked: the supervised process.
    :param strategy: only the families that have this strategy are asked.
    :return: None when no family recognises the program.
    :raises Ambiguous: when several servers run under the supervised process.
    """
    auto = strategy == AUTO
    families = [
        family
        for family in FAMILIES
        if strategy in family.strategies or (auto and not family.only_if_asked_for)
    ]
    return find_server(world, tracked, program, families)


def family_by_command(program: Program) -> Optional[AnyFamily]:
    """Return the family that the command of *program* names, running or not."""
    return next((family for family in FAMILIES if family.is_named_in(program)), None)


def booting_family(world: World, tracked: Process) -> Optional[AnyFamily]:
    """Return the family whose executable runs under *tracked*, with workers or without."""
    for process, _ in walk(world, tracked):
        name = own_name(world.arguments(process))
        for family in FAMILIES:
            if name in family.binaries:
                return family
    return None
