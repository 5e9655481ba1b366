"""Servers that reload themselves on a signal and keep their pid: granian, uvicorn with
workers, hypercorn, HAProxy in master-worker mode.

Only the kernel proves their reload: the master handles the signal, and then other children than
before accept.
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

ENDING_SIGNALS = ("INT", "QUIT", "TERM")
"""Signals on which servers end, whatever their configuration is."""


class SignalFamily(AcceptingFamily[AcceptingGeneration]):
    """Any server with children that accept; considered only for ``strategy = signal``."""

    name = "signal"
    only_if_asked_for = True
    strategies = {  # noqa: RUF012 - a table, never changed
        "signal": Strategy(True, False, "{signal}, on which it replaces its workers itself")
    }

    def survey(
        self, world: World, tracked: Process, program: Program
    ) -> Optional[AcceptingGeneration]:
        return accepting_generation(world, tracked) or _without_workers(world, tracked)

    def admit(
        self, world: World, old: AcceptingGeneration, policy: Policy, program: Program
    ) -> None:
        """Refuse a reload that would end the server, load the old code again, or prove
        nothing."""
        moved = _moved(world, old, program)
        if moved and not _is_importable_by_name(program):
            raise Failure(
                Fault.NOT_RELOADABLE,
                f"{program.name}: {moved}, and would load the old code again; nothing was sent. "
                f"Start it once with directory = / and environment = "
                f'PYTHONPATH="{program.directory}"',
            )
        if policy.signal in ENDING_SIGNALS or policy.signal == program.stopsignal:
            raise Failure(
                Fault.NOT_RELOADABLE,
                f"{program.name}: signal = {policy.signal} stops {old.master} and does not reload "
                f"it; nothing was sent: set the signal on which it replaces its workers",
            )
        if world.catches(old.master, policy.signal) is False:
            raise Failure(
                Fault.NOT_RELOADABLE,
                f"{program.name}: {old.master} does not handle {policy.signal}, which would end "
                f"it or do nothing; nothing was sent (some servers handle it only with workers)",
            )
        if not old.accepting and policy.ready.kind in ("heartbeat", "accepting"):
            raise Failure(
                Fault.STILL_STARTING,
                f"{program.name}: no child of {old.master} has a listening socket in its epoll "
                f"set: it may still start; if it uses no epoll, set another ready",
            )

    def warnings(self, world: World, old: AcceptingGeneration, program: Program) -> Iterable[str]:
        moved = _moved(world, old, program)
        if moved and _is_importable_by_name(program):
            yield f"warning: {moved}: what it imports from there is the old code again"

    def in_place(
        self, world: World, old: AcceptingGeneration, policy: Policy, program: Program
    ) -> InPlaceReload:
        return InPlaceReload(world, old, policy, lambda: world.signal(old.master, policy.signal))


def _moved(world: World, old: AcceptingGeneration, program: Program) -> str:
    """Return, as a sentence, that a server no longer runs in its ``directory``; '' when it does."""
    cwd = world.directory(old.master)
    try:
        with rights_of(program.rights):
            now = os.path.realpath(program.directory)
    except PermissionError:
        return ""
    if not cwd or cwd == now:
        return ""
    return f"{old.master} runs in {cwd}, not in what {program.directory} is now"


def _is_importable_by_name(program: Program) -> bool:
    """Tell whether the command or the environment names the directory, so that the server may
    import from it by its name."""
    given = program.started_with
    texts = [value for key, value in given.items() if key not in ("PWD", "OLDPWD")]
    return any(program.directory in text for text in (program.command, *texts))


def _without_workers(world: World, tracked: Process) -> AcceptingGeneration:
    """Return the generation of a server none of whose children accepts visibly."""
    children = frozenset(world.children(tracked))
    return AcceptingGeneration(tracked, tracked, world.image(tracked), True, children)


FAMILY = SignalFamily()
