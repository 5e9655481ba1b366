"""What a supervisord that was killed has left behind, and the next one finds.

A process is the program's when the record of the earlier supervisord says so, or holds
the sockets that it tells of. Without a record all of this has to be true: it acts as the
user that the program is configured to have, runs the program's own command in the
environment that supervisord gives, is older than this supervisord, and has lost its
parent. In doubt it is left alone, and why is said.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable
from typing import Any, NamedTuple, Optional

from supervisor_hotreload import servers
from supervisor_hotreload.plugin.program import SupervisedProgram
from supervisor_hotreload.plugin.record import Proofs
from supervisor_hotreload.servers.lineage import acts_alike, runs
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World

GIVEN = ("SUPERVISOR_ENABLED", "SUPERVISOR_PROCESS_NAME", "SUPERVISOR_GROUP_NAME")
"""The variables that name a program (Subprocess._spawn_as_child)."""

URL = "SUPERVISOR_SERVER_URL"


class Stray(NamedTuple):
    """A process that lost its parent.

    :param user: whom it acts as, in all four ids.
    :param environment: what supervisord gave it.
    """

    process: Process
    user: int
    environment: dict[str, str]


def strays(world: World, users: Iterable[int]) -> list[Stray]:
    """Return every process that may be what an earlier supervisord has left.

    Of a process of another user than *users* nothing is read.
    """
    wanted = frozenset(users)
    seen = {process: world.ids(process) for process in world.strays(wanted)}
    theirs = {p: ids for p, ids in seen.items() if ids is not None and ids.user in wanted}
    given = world.environments(theirs, (*GIVEN, URL))
    return [Stray(p, ids.users[0], given.get(p, {})) for p, ids in theirs.items()]


def user_of(tracked: SupervisedProgram) -> int:
    """Return the user that a program is configured to run as."""
    uid = tracked.process.config.uid
    return os.geteuid() if uid is None else int(uid)


def find(
    world: World,
    tracked: SupervisedProgram,
    recorded: Proofs,
    among: Iterable[Stray],
    strategy: str = servers.AUTO,
) -> Optional[Process]:
    """Return the process of *tracked* that an earlier supervisord has left.

    :param recorded: what the record says of the program.
    :param strategy: the program's setting.
    :raises LookupError: when there is one that cannot be told for sure.
    """
    user = user_of(tracked)
    mine = [stray for stray in among if stray.user == user or user == 0]
    proven = [known for known, sockets in recorded if _is_recorded(world, user, known, sockets)]
    if not proven:
        proven = [stray.process for stray in mine if _inherits(world, recorded, stray.process)]
    if proven:
        return proven[0]
    expected = given_to(tracked)
    likely = [
        s.process for s in mine if s.user == user and expected.items() <= s.environment.items()
    ]
    verdicts = [(process, _doubt(world, tracked, process, strategy)) for process in likely]
    sure = [process for process, doubt in verdicts if doubt is None]
    if len(sure) == 1:
        return sure[0]
    if len(sure) > 1:
        names = ", ".join(map(str, sure))
        raise LookupError(f"{names} may all be the program")
    if verdicts:
        process, doubt = verdicts[0]
        raise LookupError(f"{process} {doubt}")
    return None


def _is_recorded(world: World, user: int, known: Process, sockets: frozenset[int]) -> bool:
    """Tell whether a process that supervisord tracked still lives, acts as the program's user
    and holds what it held then."""
    ids = world.ids(known)
    if ids is None or ids.user is None or user not in (ids.user, 0):
        return False
    return not sockets or not sockets.isdisjoint(_held(world, known))


def before(world: World, recorded: Proofs, process: Process) -> list[Process]:
    """Return what lives of the generations before *process* that supervisord had tracked."""
    return [
        known
        for known, _ in recorded
        if known.start < process.start and acts_alike(world, known, process)
    ]


def _inherits(world: World, recorded: Proofs, process: Process) -> bool:
    """Tell whether *process* is a master that holds the sockets of one that has ended."""
    return any(
        sockets
        and not world.alive(known)
        and process.start >= known.start
        and sockets <= _held(world, process)
        and any(family.is_master(world, process) for family in servers.FAMILIES)
        for known, sockets in recorded
    )


def _held(world: World, process: Process) -> frozenset[int]:
    try:
        return world.held(process)
    except Unreadable:
        return frozenset()


def given_to(tracked: SupervisedProgram) -> dict[str, str]:
    """Return the environment that supervisord gives a program (Subprocess._spawn_as_child)."""
    config = tracked.process.config
    given = dict(zip(GIVEN, ("1", config.name, tracked.group)))
    url = config.serverurl or config.options.serverurl
    return {**given, URL: url} if url else given


def _doubt(
    world: World, tracked: SupervisedProgram, process: Process, strategy: str
) -> Optional[str]:
    """Return why *process* is not taken for the program, None when it is."""
    leave = f"it may hold the program's port: end it by kill {process.pid}"
    if not _runs_the_command(world, tracked, process):
        return f"does not run the program's command as far as can be seen; {leave}"
    try:
        found = servers.family_of(world, process, tracked.program, strategy)
    except servers.Ambiguous as error:
        return f"is in doubt: {error}"
    family = servers.family_by_command(tracked.program)
    if found is None and (family is None or not family.may_be_booting(world, process)):
        return f"is no server with workers that hotreload knows; {leave}"
    if found is not None and found.family.only_if_asked_for and not found.old.workers:
        return f"has no workers; {leave}"
    return None


def _runs_the_command(world: World, tracked: SupervisedProgram, process: Process) -> bool:
    """Tell whether *process* runs the very command of a program: a helper that the program
    has started has the same environment."""
    return runs(world.arguments(process), tracked.program.words)


def started_at(process: Process) -> float:
    """Return when *process* was started, in seconds since the epoch."""
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - process.start / os.sysconf("SC_CLK_TCK")
    return time.time() - age


def reopen_pipes(process: Process, redirect_stderr: bool) -> dict[str, Any]:
    """Open the reading ends of the pipes that *process* logs to.

    :return: pipes as options.make_pipes returns them, None for what is no pipe.
    """
    pipes: dict[str, Any] = dict.fromkeys(
        ("child_stdin", "stdin", "stdout", "child_stdout", "stderr", "child_stderr")
    )
    pipes["stdout"] = _reopen(process.pid, 1)
    if not redirect_stderr:
        pipes["stderr"] = _reopen(process.pid, 2)
    return pipes


def _reopen(pid: int, descriptor: int) -> Optional[int]:
    """Open the other end of an anonymous pipe; nothing else is opened, it may have effects."""
    try:
        held = os.open(f"/proc/{pid}/fd/{descriptor}", os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        own = f"/proc/self/fd/{held}"
        seen = os.fstat(held)
        if not stat.S_ISFIFO(seen.st_mode) or not os.readlink(own).startswith("pipe:"):
            return None
        if seen.st_uid != os.geteuid():
            return None  # a supervisord made its pipes, as the user that we are
        return os.open(own, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    finally:
        os.close(held)
