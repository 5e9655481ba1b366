"""Servers that reload themselves on a signal and keep their pid: granian, uvicorn with
workers, hypercorn, HAProxy in master-worker mode.

Nothing is believed of them but what the kernel shows: that the master handles
the signal, and that other children than before accept.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Optional

from supervisor_hotreload.core.model import Failure, Fault, Policy
from supervisor_hotreload.servers.base import AcceptingFamily, Strategy
from supervisor_hotreload.servers.generation import AcceptingGeneration, accepting_generation
from supervisor_hotreload.servers.in_place import InPlaceReload
from supervisor_hotreload.servers.program import Program
from supervisor_hotreload.system.credentials import rights_of
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World

ENDING = ("INT", "QUIT", "TERM")
"""Signals on which servers end, whatever they are configured to."""


class GenericFamily(AcceptingFamily[AcceptingGeneration]):
    """Whatever has children that accept; asked only where ``strategy = signal``."""

    name = "signal"
    only_if_asked_for = True
    strategies = {  # noqa: RUF012 - a table, never changed
        "signal": Strategy(True, False, "{signal}, on which it replaces its workers itself")
    }

    def survey(
        self, world: World, tracked: Process, program: Program
    ) -> Optional[AcceptingGeneration]:
        return accepting_generation(world, tracked) or _childless(world, tracked)

    def admit(
        self, world: World, old: AcceptingGeneration, policy: Policy, program: Program
    ) -> None:
        """Refuse what the signal would end, what would load the old code again, and what
        cannot be seen to have been done."""
        moved = _moved(world, old, program)
        if moved and not _finds_anew(world, old, program):
            raise Failure(
                Fault.NOT_RELOADABLE,
                f"{program.name}: {moved}, and would load the old code again: start it once with "
                f'directory = / and environment = PYTHONPATH="{program.directory}"',
            )
        if policy.signal in ENDING or policy.signal == program.stopsignal:
            raise Failure(
                Fault.NOT_RELOADABLE,
                f"{program.name}: signal = {policy.signal} stops {old.master}, it is no reload; "
                f"nothing was sent: set the signal on which it replaces its workers",
            )
        if world.catches(old.master, policy.signal) is False:
            raise Failure(
                Fault.NOT_RELOADABLE,
                f"{program.name}: {old.master} does not handle {policy.signal}, it would be ended "
                f"or nothing would happen; nothing was sent (a server may do so only with workers)",
            )
        if not old.accepting and policy.ready.kind in ("heartbeat", "accepting"):
            raise Failure(
                Fault.STILL_STARTING,
                f"{program.name}: no child of {old.master} has a listening socket in its epoll "
                f"set: it may still start; if it uses no epoll, set another ready",
            )

    def warnings(self, world: World, old: AcceptingGeneration, program: Program) -> Iterable[str]:
        moved = _moved(world, old, program)
        if moved and _finds_anew(world, old, program):
            yield f"warning: {moved}: what it imports from there is the old code again"

    def in_place(
        self, world: World, old: AcceptingGeneration, policy: Policy, program: Program
    ) -> InPlaceReload:
        return InPlaceReload(world, old, policy, lambda: world.signal(old.master, policy.signal))


def _moved(world: World, old: AcceptingGeneration, program: Program) -> str:
    """Return where a server runs whose ``directory`` is elsewhere by now, '' where it is not."""
    cwd = world.directory(old.master)
    try:
        with rights_of(program.rights):
            now = os.path.realpath(program.directory)
    except PermissionError:
        return ""
    if not cwd or cwd == now:
        return ""
    return f"{old.master} runs in {cwd}, not in what {program.directory} is now"


def _finds_anew(world: World, old: AcceptingGeneration, program: Program) -> bool:
    """Tell whether the directory is named where it may be imported from by its name."""
    given = program.started_with
    texts = [value for key, value in given.items() if key not in ("PWD", "OLDPWD")]
    return any(program.directory in text for text in (program.command, *texts))


def _childless(world: World, tracked: Process) -> AcceptingGeneration:
    """Return the generation of a server none of whose children is seen to accept."""
    children = frozenset(world.children(tracked))
    return AcceptingGeneration(tracked, tracked, world.image(tracked), True, children, frozenset())


FAMILY = GenericFamily()
