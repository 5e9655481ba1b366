"""What a supervisord that was killed has left behind, and the next one finds.

A program is recognised by the environment that supervisord itself gave it, its
user, its age and its shape; in doubt it is left alone, and why is said.
"""

from __future__ import annotations

import os
import shlex
import stat
import time
from collections.abc import Iterable
from typing import Any, NamedTuple, Optional

from supervisor_hotreload import servers
from supervisor_hotreload.adoption.tracked import Tracked
from supervisor_hotreload.identity import Process
from supervisor_hotreload.world import World


class Stray(NamedTuple):
    """A process that lost its parent, and the environment that it was given."""

    process: Process
    environment: dict[str, str]


def strays(world: World) -> list[Stray]:
    """Return every process that may be what an earlier supervisord has left."""
    return [Stray(process, world.environment(process)) for process in world.strays()]


def find(
    world: World,
    tracked: Tracked,
    pidfile: Optional[str],
    among: Iterable[Stray],
    strategy: str = servers.AUTO,
) -> Optional[Process]:
    """Return the process of *tracked* that an earlier supervisord has left.

    :param strategy: the program's setting.
    :raises LookupError: when there is one that cannot be told for sure.
    """
    expected = given_to(tracked)
    named = _named(world, pidfile)
    verdicts = [
        (process, _doubt(world, tracked, process, strategy))
        for process, given in among
        if process.pid == named or expected.items() <= given.items()
    ]
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


def given_to(tracked: Tracked) -> dict[str, str]:
    """Return the environment that supervisord gives a program (Subprocess._spawn_as_child)."""
    config = tracked.process.config
    given = {
        "SUPERVISOR_ENABLED": "1",
        "SUPERVISOR_PROCESS_NAME": config.name,
        "SUPERVISOR_GROUP_NAME": tracked.group,
    }
    url = config.serverurl or config.options.serverurl
    return {**given, "SUPERVISOR_SERVER_URL": url} if url else given


def _named(world: World, pidfile: Optional[str]) -> Optional[int]:
    """Return the pid that the pidfile names: setproctitle overwrites the environment."""
    try:
        return None if pidfile is None else world.read_pid(pidfile)
    except ValueError:
        return None


def _doubt(world: World, tracked: Tracked, process: Process, strategy: str) -> Optional[str]:
    """Return why *process* is not taken for the program, None when it is."""
    config = tracked.process.config
    user = os.getuid() if config.uid is None else config.uid
    if world.owner(process) != user:
        return f"does not run as user id {user}"
    found = servers.family_of(world, process, tracked.program, strategy)
    same = _runs_the_command(world, tracked, process)
    if found is not None and not found.family.only_if_asked_for:
        return None
    if found is not None and found.old.workers and same:
        return None  # its family believes what it is told: the command has to be the very one
    family = servers.named(tracked.program)
    if family is not None and same and family.boots(world, process):
        return None  # a master that has no workers yet, or none any more
    return (
        f"is no server with workers that hotreload knows; it may hold the program's port: "
        f"end it by kill {process.pid}"
    )


def _runs_the_command(world: World, tracked: Tracked, process: Process) -> bool:
    """Tell whether *process* runs the very command of a program: a helper that the program
    has started has the same environment."""
    given = shlex.split(tracked.process.config.command)
    words = world.arguments(process)[-len(given) :]
    return (
        len(words) == len(given)
        and words[1:] == given[1:]
        and os.path.basename(words[0]) == os.path.basename(given[0])
    )


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
        if not stat.S_ISFIFO(os.fstat(held).st_mode) or not os.readlink(own).startswith("pipe:"):
            return None
        return os.open(own, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    finally:
        os.close(held)
