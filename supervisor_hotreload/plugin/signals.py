"""Signals for the processes of a program: each may be in any process group, or has to end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Callable

from supervisor_hotreload.core.protocol import Rung
from supervisor_hotreload.servers.lineage import Lineage
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World


def signal_adopted(
    world: World, lineage: Lineage, pid: int, number: int, kill: Callable[[int, int], None]
) -> None:
    """Send a signal to an adopted process, or to its process group.

    :param lineage: that of the process.
    :param pid: its pid, or ``-pid`` for the group.
    :param kill: supervisord's own ``options.kill``.
    :raises ProcessLookupError: when the process has ended.
    """
    if pid < 0:
        _signal_group(world, lineage, number)
    elif world.is_child(pid):
        kill(pid, number)  # as long as it is a child of ours its pid is not used again
    elif not world.send(lineage.tracked, number):
        raise ProcessLookupError(3, "No such process")


def _signal_group(world: World, lineage: Lineage, number: int) -> None:
    """Send a signal to the process group that an adopted process is in.

    A re-exec'd master keeps the process group of the first master, so ``-pid`` is no group.
    A master that has left the group that supervisord made is signalled with its children only.

    :raises ProcessLookupError: when the process has ended.
    """
    status = world.status(lineage.tracked.pid)
    if status is None or status.process != lineage.tracked:
        raise ProcessLookupError(3, "No such process")
    group = status.group
    if lineage.owns_group and group == lineage.group and group != os.getpgrp():
        os.killpg(group, number)
        return
    for member in [*_children(world, status.process), status.process]:
        world.send(member, number)


def end_masters(world: World, masters: Iterable[Process], number: int, tracked: int) -> None:
    """Send the stop signal *number* to masters. SIGKILL goes to their workers too.

    :param tracked: the pid that supervisord tracks. It is spared where it is a child of one
        of the masters: it is a generation of its own.
    """
    for master in masters:
        workers = _children(world, master) if number == signal.SIGKILL else []
        world.send(master, number)
        world.signal(master, "CONT")  # a stopped process handles no other signal
        for worker in workers:
            if worker.pid != tracked:
                world.send(worker, number)


class Ladder:
    """Climbs a ladder of stop signals as time passes.

    protocol.end climbs the same ladders during a reload, where it may wait. This class is
    for supervisord's loop, which looks at it at every turn.

    :param rungs: each one is sent when the grace period of the rung before it is over.
    :param start: when the first rung is due, in seconds of World.now().
    """

    def __init__(self, rungs: Iterable[Rung], start: float) -> None:
        self._rungs = iter(rungs)
        self._due = start

    def climb(self, now: float) -> None:
        """Send every rung that is due by *now*."""
        while now >= self._due:
            rung = next(self._rungs, None)
            if rung is None:
                return
            self._due += rung.grace_seconds
            rung.send()


def rungs(send: Callable[[int], None], signals: Iterable[tuple[int, float]]) -> Iterator[Rung]:
    """Yield a rung for each signal.

    :param send: sends one signal to everything that is to end.
    :param signals: each with its grace period, in seconds.
    """
    for number, grace_seconds in signals:
        yield Rung(partial(send, number), grace_seconds)


def _children(world: World, process: Process) -> list[Process]:
    """Return the children of *process*, none where it has too many: it gets its signal anyhow."""
    try:
        return world.children(process)
    except Unreadable:
        return []
