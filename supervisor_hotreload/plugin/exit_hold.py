"""Holds back the report of an exit while other processes of the program may hold its port."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import replace
from typing import Callable, Optional

from supervisor_hotreload.plugin.adoption import Adoption
from supervisor_hotreload.plugin.generations import Generations
from supervisor_hotreload.plugin.signals import Ladder, rungs
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World

HOLD_SECONDS = 5.0
"""Seconds that the remaining processes get to end by themselves, before the first signal."""

HOLD_SIGNALS = ((signal.SIGQUIT, HOLD_SECONDS), (signal.SIGKILL, 0.0))
"""What they are sent after that, each with its grace period: the program is down meanwhile."""

FEW = 32
"""Up to so many processes that are left, all orphans are looked at again at each exit. A hostile
program may leave hundreds, which end one after the other."""


class ExitHold:
    """Lets supervisord track what a process of the program has left, one after the other.

    Until all is gone a stop reaches it, and supervisord spawns nothing: a new process could
    not listen.

    :param send: sends a signal to some masters, SIGKILL to their workers too.
    :param warn: logs a line about the program.
    """

    def __init__(
        self,
        world: World,
        generations: Generations,
        adoption: Adoption,
        send: Callable[[Iterable[Process], int], None],
        warn: Callable[[str], None],
    ) -> None:
        self._world = world
        self._generations = generations
        self._adoption = adoption
        self._send = send
        self._warn = warn
        self._status: Optional[int] = None
        self._since = 0.0
        self._ladder: Optional[Ladder] = None

    @property
    def active(self) -> bool:
        """Whether supervisord does not know yet that the program is down."""
        return self._status is not None

    def goes_on(self, pid: int) -> bool:
        """Tell whether very many processes of the program but *pid* are known to be left: then an
        inheritor is not looked for at each exit."""
        return bool(self._many_left(pid))

    def status(self, status: int) -> int:
        """Return the wait status to report: that of the process that ended first.

        :param status: that of the process that ended last.
        """
        return status if self._status is None else self._status

    def hold(self, pid: int, status: int) -> bool:
        """Hold back the exit of the tracked process *pid* while others of the program live."""
        dead = self._generations.lineage
        if dead is None or dead.tracked.pid != pid:
            return False
        known = self._many_left(pid)
        left = known or self._left(pid)
        if not left:
            return False
        if self._status is None:
            self._status, self._since = status, self._world.now()
            names = ", ".join(map(str, left))
            self._warn(
                f"pid {pid} ended, but {names} of the program still run and may hold its port; "
                f"supervisord reports the exit when they are gone, and spawns nothing before"
            )
        if not known:
            # the deadlines stay, but the process that is tracked now may have missed signals
            self._ladder = Ladder(rungs(self._send_rest, HOLD_SIGNALS), self._since + HOLD_SECONDS)
        self._generations.previous = left[1:]
        self._adoption.take(replace(dead, tracked=left[0]))
        return True

    def climb(self) -> None:
        """Send the signals that are due. Called at every turn of supervisord's loop."""
        if self._ladder is not None:
            self._ladder.climb(self._world.now())

    def end(self) -> None:
        """Stop holding: supervisord has reported the exit."""
        self._status = self._ladder = None

    def _many_left(self, pid: int) -> list[Process]:
        """Return what is left but *pid* while that is known and very much: nothing when it has to
        be looked for."""
        held = self.active and len(self._generations.previous) > FEW
        return self._generations.rest_of_previous(pid) if held else []

    def _left(self, pid: int) -> list[Process]:
        """Return all that is left of the program but *pid*; orphans of its master get TERM."""
        orphaned = self._generations.workers_left()
        self._send(orphaned, signal.SIGTERM)
        living = dict.fromkeys([*self._generations.living_previous(), *orphaned])
        return [process for process in living if process.pid != pid]

    def _send_rest(self, sig: int) -> None:
        """Send a signal to every process of the program that is left."""
        lineage = self._generations.lineage
        current = [lineage.tracked] if lineage is not None else []
        self._send([*self._generations.living_previous(), *current], sig)
