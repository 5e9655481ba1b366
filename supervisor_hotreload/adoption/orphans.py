"""What a supervisord that was killed has left behind, and the next one finds.

A program is recognised by the environment that supervisord itself gave it, its
user, its age and its shape; in doubt it is left alone, and why is said.
"""

from __future__ import annotations

import os
import stat
import time
from typing import Any, Optional

from supervisor_hotreload.adoption.tracked import Tracked
from supervisor_hotreload.identity import Process, Unreadable
from supervisor_hotreload.servers import gunicorn
from supervisor_hotreload.world import World


def find(world: World, tracked: Tracked, pidfile: Optional[str]) -> Optional[Process]:
    """Return the process of *tracked* that an earlier supervisord has left.

    :raises LookupError: when there is one that cannot be told for sure.
    """
    verdicts = [
        (process, _doubt(world, tracked, process))
        for process in world.strays()
        if _was_given_to(world, tracked, process) or _named(world, process, pidfile)
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


def _was_given_to(world: World, tracked: Tracked, process: Process) -> bool:
    """Tell whether supervisord has given *process* the names of the program (Subprocess.spawn)."""
    given = world.environment(process)
    config = tracked.process.config
    expected = {
        "SUPERVISOR_ENABLED": "1",
        "SUPERVISOR_PROCESS_NAME": config.name,
        "SUPERVISOR_GROUP_NAME": tracked.group,
    }
    url = config.serverurl or config.options.serverurl
    if url:
        expected["SUPERVISOR_SERVER_URL"] = url
    return all(given.get(name) == value for name, value in expected.items())


def _named(world: World, process: Process, pidfile: Optional[str]) -> bool:
    """Tell whether the pidfile names *process*: setproctitle overwrites the environment."""
    try:
        return pidfile is not None and world.read_pid(pidfile) == process.pid
    except ValueError:
        return False


def _doubt(world: World, tracked: Tracked, process: Process) -> Optional[str]:
    """Return why *process* is not taken for the program, None when it is."""
    config = tracked.process.config
    user = os.getuid() if config.uid is None else config.uid
    if world.owner(process) != user:
        return f"does not run as user id {user}"
    words = world.arguments(process)
    name = os.path.basename(tracked.process.config.command.split()[0])
    if not any(name in word for word in words):
        return f"does not run {name}"
    if gunicorn.survey(world, process, gunicorn.names_gunicorn(tracked.command)) is not None:
        return None
    try:
        boots = gunicorn.names_gunicorn(tracked.command) and not world.heartbeats(process)
    except Unreadable:
        boots = False
    return None if boots else "is not a gunicorn with workers"


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
