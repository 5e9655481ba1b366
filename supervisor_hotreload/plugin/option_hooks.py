"""The four methods that hotreload replaces on supervisord's ServerOptions instance."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any, Callable, Optional

from supervisor_hotreload.plugin.listener_pools import channel
from supervisor_hotreload.plugin.log import Log
from supervisor_hotreload.plugin.program import SupervisedProgram

ORPHANS_AT_ONCE = 100
"""Orphans that one turn of supervisord's loop reaps: any program may make as many as it likes."""

ORPHAN_LINE_SECONDS = 60.0
"""Seconds between two log lines about reaped orphans."""


def hook_kill(options: Any, tracking: Callable[[Any], Optional[SupervisedProgram]]) -> None:
    """Let signals reach adopted processes.

    ``stopasgroup`` and ``killasgroup`` signal ``-pid``, which is no process group after an
    adoption. And a process that supervisord does not reap may have ended.

    :param tracking: returns the program of what ``pidhistory`` has, None for what is no program.
    """
    kill = options.kill

    def hooked_kill(pid: int, signal: int) -> None:
        program = tracking(options.pidhistory.get(abs(pid)))
        if program is None:
            kill(pid, signal)
        else:
            program.signal(pid, signal, kill)

    options.kill = hooked_kill


def hook_waitpid(options: Any, is_subreaper: Callable[[], bool], log: Log) -> None:
    """Reap the orphans that a subreaper gets, without a log line for each (supervisord.reap)."""
    waitpid = options.waitpid
    count, logged_at = 0, -ORPHAN_LINE_SECONDS

    def hooked_waitpid() -> tuple[Any, Any]:
        nonlocal count, logged_at
        for _ in range(ORPHANS_AT_ONCE):
            pid, status = waitpid()
            if not pid or pid in options.pidhistory or not is_subreaper():
                return pid, status
            count += 1
            now = time.monotonic()
            # a single one may be a child of hotreload's own: nothing to act on
            if count > 1 and now - logged_at >= ORPHAN_LINE_SECONDS:
                log.info(f"hotreload: reaped orphaned processes of programs: {count}")
                count, logged_at = 0, now
        return None, None  # supervisord reaps the others at its next turn

    options.waitpid = hooked_waitpid


def hook_execve(options: Any, named: Callable[[str, str], SupervisedProgram]) -> None:
    """Add variables to the environment of a program, in the child that is to become it.

    :param named: returns the program of a group and a name; raises KeyError for what is none.
    """
    execve = options.execve

    def hooked_execve(filename: str, argv: list[str], env: dict[str, str]) -> None:
        with contextlib.suppress(Exception):  # without the variables the program starts as well
            program = named(env["SUPERVISOR_GROUP_NAME"], env["SUPERVISOR_PROCESS_NAME"])
            env.update(working_directory(program.process.config))
            env.update(channel(program.process.config))
            if program.notify_socket:
                env["NOTIFY_SOCKET"] = program.notify_socket
        execve(filename, argv, env)

    options.execve = hooked_execve


def hook_cleanup(options: Any, close: Callable[[], None]) -> None:
    """Call *close* when supervisord ends or reloads itself."""
    cleanup = options.cleanup

    def hooked_cleanup() -> None:
        with contextlib.suppress(Exception):  # supervisord has to end in any case
            close()
        cleanup()

    options.cleanup = hooked_cleanup


def working_directory(config: Any) -> dict[str, str]:
    """Return PWD for a program that has a ``directory`` and is in it now.

    supervisord changes to ``directory`` and leaves its own PWD in the environment. gunicorn
    then re-execs in the directory that a symlink named at its start (gunicorn util.getcwd).
    """
    if config.directory is None or "PWD" in (config.environment or {}):
        return {}
    directory = os.path.abspath(config.directory)
    return {"PWD": directory} if os.path.samefile(directory, os.curdir) else {}
