"""A trial of a release before anything is touched, and the user that runs it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Optional

from supervisor_hotreload.core.model import Failure, Fault
from supervisor_hotreload.servers.generation import Generation
from supervisor_hotreload.servers.program import Program
from supervisor_hotreload.system.command import ITSELF, RunAs
from supervisor_hotreload.system.credentials import ids_of
from supervisor_hotreload.system.process import Process, status_of
from supervisor_hotreload.system.world import World


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
