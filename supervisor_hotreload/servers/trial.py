"""The trial of a release before anything is touched, and the user that runs it."""

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
    """A command that tries a release.

    :param words: the command; no shell runs it.
    :param title: its description for operators.
    :param run_as: the user that runs it, when the program is root's.
    :param environment: variables for it; other users can see its words, but not these.
    """

    words: tuple[str, ...]
    title: str
    run_as: RunAs = ITSELF
    environment: Mapping[str, str] = field(default_factory=dict)


def run_as(
    world: World, old: Generation, workers: Iterable[Process], program: Program, named: RunAs
) -> RunAs:
    """Return the user that runs the trial. What processes show may only lower its rights.

    :param workers: those that have loaded the running release.
    :param named: the user in the program's command, which is supervisord's own configuration.
    :raises Failure: STILL_STARTING when the user is not certain.
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
        if everyone == {0}:
            return ITSELF
    elif user is not None:
        return RunAs(user)
    raise Failure(
        Fault.STILL_STARTING,
        f"the user that is to try the release of {program.name} is not certain: no worker has "
        f"loaded the application, or the workers are not forks of their master with one and the "
        f"same user; nothing was sent. Try again, name the user in the command or as user = of "
        f"[program:...], or set check_before = none",
    )


def _user_of_fork(old: Generation, process: Process) -> Optional[int]:
    """Return the user of *process*, the master or a fork of it; None for any other process.

    A process that has executed another file may be anybody's.
    """
    ids, status = ids_of(process.pid), status_of(process.pid)  # in this order
    if ids is None or status is None or status.process != process:
        return None
    return ids.user if status.image == old.image != 0 else None
