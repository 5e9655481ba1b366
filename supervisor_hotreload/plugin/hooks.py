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

    :param inherits: called with the pid and the wait status of a process that has ended. True
        when supervisord tracks another process in its place, and is to report nothing.
    :param holds: called after *inherits*, with the same. True when supervisord is to report
        the exit later.
    :param status: returns the wait status to report, given that of the process that ended last.
    :param ended: called when supervisord has reported that the program is down.
    :param record: records the workers and the sockets of the program.
    :param others: returns the processes that have to get this stop signal too.
    :param stopped: called with these when supervisord has sent the signal.
    :param take_hup: called for a HUP; whether hotreload takes it, and why its reload is refused.
    :param hup_passes: called when a HUP goes to the program.
    :param tend: called at every turn of supervisord's loop.
    :param spawning: called before supervisord spawns the program.
    :param spawned: called after that.
    """

    inherits: Callable[[int, int], bool]
    holds: Callable[[int, int], bool]
    status: Callable[[int], int]
    ended: Callable[[], None]
    record: Callable[[], None]
    others: Callable[[int], list[Process]]
    stopped: Callable[[list[Process], int], None]
    take_hup: Callable[[], tuple[bool, Optional[str]]]
    hup_passes: Callable[[], None]
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
        taken, refusal = log.guarded(on.take_hup, not_taken, name)
        if taken:
            return refusal
        log.guarded(on.hup_passes, None, name)
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
