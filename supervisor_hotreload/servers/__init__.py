"""The registry of the families of servers.

A family is one file: ``gunicorn``, ``uwsgi``, ``nginx``, ``unicorn``, ``puma`` and ``signal``.
A new one is a subclass of :class:`~supervisor_hotreload.servers.base.Family` in a new file,
and an entry in FAMILIES. What the families share, each module using only those before it:

- ``program``: a program as it is configured. ``generation``: a master with its workers.
- ``signals``: the ladder of stop signals. ``trial``: trying a release before it is loaded.
- ``readiness``: the probes that judge new workers.
- ``base``: what a family says about a program, and the strategies.
- ``command_line``: the server in a command. ``launchers``: what stands before a master.
- ``lineage``: which processes belong to a program, and what proves it.
- ``workers``: the workers of one master, also after its death.
- ``reexec``: a reload by a second master. ``in_place``: a reload that keeps the master.
- ``release_guard``: refuses a successor whose release has moved.
- ``recognition``: which of several servers a program is. ``settings``: its settings.
"""

from __future__ import annotations

from typing import Optional

from supervisor_hotreload.servers import nginx, puma, unicorn
from supervisor_hotreload.servers import signal as generic
from supervisor_hotreload.servers.base import AnyFamily, foreign_successor
from supervisor_hotreload.servers.command_line import own_name
from supervisor_hotreload.servers.generation import walk
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
    "Found",
    "Program",
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
