"""Ends processes that nothing waits for: late successors, and generations never retired."""

from __future__ import annotations

import signal
from collections.abc import Container, Iterable
from contextlib import suppress
from functools import partial
from typing import Callable, Optional

from supervisor_hotreload.plugin.signals import Ladder, rungs
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World

LATE_SECONDS = 120.0
"""Seconds during which a late successor is ended. After that it is somebody else's."""

UNWANTED_SIGNALS = ((signal.SIGTERM, 30.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 0.0))
"""What an unwanted process is sent, each with its grace period: it may have requests to finish."""


class Unwanted:
    """Ends the processes of one program that no reload waits for any more.

    :param send: sends a signal to one process, SIGKILL to its workers too.
    """

    def __init__(self, world: World, send: Callable[[Process, int], None]) -> None:
        self._world = world
        self._send = send
        self._before: Optional[Container[Process]] = None
        self._until = 0.0
        self._ladders: dict[Process, Ladder] = {}

    def end(self, processes: Iterable[Process]) -> None:
        """Send each process the first signal now; stronger ones follow until it is gone."""
        now = self._world.now()
        for process in processes:
            if process not in self._ladders:
                self._ladders[process] = Ladder(
                    rungs(partial(self._send, process), UNWANTED_SIGNALS), now
                )
        self._climb(now)

    def refuse_successor(self, before: Container[Process]) -> None:
        """End a successor that comes late: a busy master may honour a USR2 after its reload.

        :param before: children of the old master that lived before that USR2. They are spared.
        """
        self._before, self._until = before, self._world.now() + LATE_SECONDS

    def allow_successor(self) -> None:
        """Let a successor live that comes from now on: a reload waits for it."""
        self._before = None

    def tend(self, successors: Callable[[], list[Process]]) -> list[Process]:
        """Send the signals that are due. Called at every turn of supervisord's loop.

        :param successors: finds the successors of the tracked generation.
        :return: the late successors that were found by this call, and are ended.
        """
        now, before = self._world.now(), self._before
        late: list[Process] = []
        if before is not None:
            with suppress(Unreadable):  # there are too many to look at: perhaps at a later turn
                late = [child for child in successors() if child not in before]
            if late or now >= self._until:
                self._before = None
            self.end(late)
        self._climb(now)
        return late

    def _climb(self, now: float) -> None:
        for process, ladder in list(self._ladders.items()):
            if self._world.alive(process):
                ladder.climb(now)
            else:
                del self._ladders[process]
