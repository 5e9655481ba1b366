"""Finds the processes of a program that an earlier, killed supervisord has left.

A process is proven to be the program's when the record of the earlier supervisord names it,
or names the sockets that it holds. Without a record all of these have to be true:

- it acts as the user that the program is configured to have;
- it runs the program's own command, in the environment that supervisord gives;
- it is older than this supervisord;
- it has lost its parent.

In doubt it is neither adopted nor signalled, and the log says why.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Optional

from supervisor_hotreload import servers
from supervisor_hotreload.plugin.process_view import GIVEN, URL
from supervisor_hotreload.plugin.program import SupervisedProgram
from supervisor_hotreload.plugin.record import Proofs
from supervisor_hotreload.servers.lineage import acts_alike, holds_all, holds_some, runs
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World


class Stray(NamedTuple):
    """A process that has lost its parent, and may be of any program.

    :param user: its user id, the same in all four ids.
    :param environment: those of supervisord's variables that it was started with.
    """

    process: Process
    user: int
    environment: dict[str, str]


def strays(world: World, users: Iterable[int]) -> list[Stray]:
    """Return every process that an earlier supervisord may have left.

    :param users: the users of the programs. Nothing is read of processes of other users.
    """
    wanted = frozenset(users)
    seen = {process: world.ids(process) for process in world.strays(wanted)}
    theirs = {p: ids for p, ids in seen.items() if ids is not None and ids.user in wanted}
    given = world.environments(theirs, (*GIVEN, URL))
    return [Stray(p, ids.users[0], given.get(p, {})) for p, ids in theirs.items()]


def find(
    world: World,
    program: SupervisedProgram,
    recorded: Proofs,
    among: Iterable[Stray],
    strategy: str = servers.AUTO,
) -> Optional[Process]:
    """Return the process of *program* that an earlier supervisord has left, None without one.

    :param recorded: what the record of the earlier supervisord says of the program.
    :param strategy: the setting of the program.
    :raises LookupError: when a process may be the program, but that cannot be proven. The
        text says why.
    """
    user = program.user
    mine = [stray for stray in among if stray.user == user or user == 0]
    proven = [known for known, sockets in recorded if _is_recorded(world, user, known, sockets)]
    if not proven:
        proven = [stray.process for stray in mine if _inherits(world, recorded, stray.process)]
    if proven:
        return proven[0]
    expected = program.given
    likely = [
        s.process for s in mine if s.user == user and expected.items() <= s.environment.items()
    ]
    verdicts = [(process, _doubt(world, program, process, strategy)) for process in likely]
    sure = [process for process, doubt in verdicts if doubt is None]
    if len(sure) == 1:
        return sure[0]
    if len(sure) > 1:
        names = ", ".join(map(str, sure))
        raise LookupError(f"{names} may each be the program; end all but one of them")
    if verdicts:
        process, doubt = verdicts[0]
        raise LookupError(f"{process} {doubt}")
    return None


def _is_recorded(world: World, user: int, known: Process, sockets: frozenset[int]) -> bool:
    """Tell whether a recorded process still lives, acts as the program's user, and holds one
    of its recorded sockets."""
    ids = world.ids(known)
    if ids is None or ids.user is None or user not in (ids.user, 0):
        return False
    return not sockets or holds_some(world, known, sockets)


def before(world: World, recorded: Proofs, process: Process) -> list[Process]:
    """Return the recorded processes of the generations before *process* that live."""
    return [
        known
        for known, _ in recorded
        if known.start < process.start and acts_alike(world, known, process)
    ]


def _inherits(world: World, recorded: Proofs, process: Process) -> bool:
    """Tell whether *process* is a master that holds all sockets of a recorded one that ended."""
    return any(
        sockets
        and not world.alive(known)
        and process.start >= known.start
        and holds_all(world, process, sockets)
        and any(family.is_master(world, process) for family in servers.FAMILIES)
        for known, sockets in recorded
    )


def _doubt(
    world: World, program: SupervisedProgram, process: Process, strategy: str
) -> Optional[str]:
    """Return why *process* is not taken for the program, None when it is the program."""
    advice = f"if it holds the program's port, end it: kill {process.pid}"
    # a helper that the program has started has the same environment, but another command
    if not runs(world.arguments(process), program.program.words):
        return f"does not run the program's command, as far as hotreload can see; {advice}"
    try:
        found = servers.family_of(world, process, program.program, strategy)
    except servers.Ambiguous as error:
        return f"cannot be identified: {error}"
    family = servers.family_by_command(program.program)
    if found is None and (family is None or not family.may_be_booting(world, process)):
        return f"is not a server with workers that hotreload knows; {advice}"
    if found is not None and found.family.only_if_asked_for and not found.old.workers:
        return f"has no workers; {advice}"
    return None
