"""The five methods that hotreload replaces on a supervisor.process.Subprocess.

They are replaced on the instance: the class stays as it is, for neighbours that patch it.
An exception of hotreload is logged; supervisord then does what it does without hotreload.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Any, Callable, Optional

from supervisor.states import ProcessStates

from supervisor_hotreload.plugin.log import Log
from supervisor_hotreload.system.process import Process


@dataclass(frozen=True)
class Reactions:
    """What hotreload does at each hook.

    :param inherits: called with the pid and the wait status of a process that has ended;
        True when another process is tracked in its place, and supervisord is to report nothing.
    :param holds: as *inherits*, asked second: True when the exit is reported later.
    :param status: returns the wait status to report, given that of the process that ended last.
    :param ended: the program is down, and supervisord has reported it.
    :param record: records the workers and sockets of the program.
    :param others: returns the generations that are to get the stop signal too.
    :param stopped: supervisord has sent the stop signal; these others are to get it.
    :param hang_up: called for a HUP; whether hotreload has taken it, and why it is refused.
    :param hung_up: the HUP goes to the program.
    :param tend: called at every turn of supervisord's loop.
    :param spawning: supervisord is about to spawn the program.
    :param spawned: it has.
    """

    inherits: Callable[[int, int], bool]
    holds: Callable[[int, int], bool]
    status: Callable[[int], int]
    ended: Callable[[], None]
    record: Callable[[], None]
    others: Callable[[int], list[Process]]
    stopped: Callable[[list[Process], int], None]
    hang_up: Callable[[], tuple[bool, Optional[str]]]
    hung_up: Callable[[], None]
    tend: Callable[[], None]
    spawning: Callable[[], None]
    spawned: Callable[[], None]


def hook(process: Any, name: str, log: Log, on: Reactions) -> None:
    """Replace the five methods of *process*, a Subprocess, whose program is called *name*."""
    finish, kill, send = process.finish, process.kill, process.signal
    transition, spawn = process.transition, process.spawn

    def hooked_finish(pid: int, sts: int) -> None:
        if log.guarded(lambda: on.inherits(pid, sts), False, name):
            return
        if log.guarded(lambda: on.holds(pid, sts), False, name):
            return
        finish(pid, on.status(sts))
        log.guarded(on.ended, None, name)

    def hooked_kill(sig: int) -> Any:
        log.guarded(on.record, None, name)
        none: list[Process] = []
        others = log.guarded(lambda: on.others(sig), none, name)
        result = kill(sig)
        if process.state == ProcessStates.STOPPING:
            log.guarded(lambda: on.stopped(others, sig), None, name)
        return result

    def hooked_signal(sig: int) -> Any:
        if sig != signal.SIGHUP:
            return send(sig)
        not_taken: tuple[bool, Optional[str]] = (False, None)
        taken, refusal = log.guarded(on.hang_up, not_taken, name)
        if taken:
            return refusal
        log.guarded(on.hung_up, None, name)
        return send(sig)

    def hooked_transition() -> None:
        log.guarded(on.tend, None, name)
        transition()

    def hooked_spawn() -> Any:
        log.guarded(on.spawning, None, name)
        pid = spawn()
        log.guarded(on.spawned, None, name)
        return pid

    process.finish, process.kill, process.spawn = hooked_finish, hooked_kill, hooked_spawn
    process.signal, process.transition = hooked_signal, hooked_transition
