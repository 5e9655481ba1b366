"""Ends hotreload-run with its server, which ends by a signal or by itself."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from functools import partial
from typing import Optional

from supervisor_hotreload.system.world import World
from supervisor_hotreload.wrapper.children import Children
from supervisor_hotreload.wrapper.errors import ErrorBoundary
from supervisor_hotreload.wrapper.others import OtherGenerations, send
from supervisor_hotreload.wrapper.tracked import TrackedServer

STOPS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})
"""Signals that end the server, and hotreload-run with it."""

LAST_CHILDREN_SECONDS = 2.0
"""How long processes that the server has left behind have to end by themselves. Python's
multiprocessing has a resource tracker, which ends a moment after all others."""

UNSEEN_SECONDS = 5.0
"""How long hotreload-run waits for what it cannot look at, once the server has ended."""


@dataclass
class Ending:
    """Knows whether the server is being stopped or has ended, and waits for what ends with it.

    :param signal: the signal that stops the server; None while nobody stops it.
    :param status: the wait status of the server; None while it serves.
    :param is_left: hotreload-run ends and leaves the server serving.
    """

    world: World
    tracked: TrackedServer
    others: OtherGenerations
    children: Children
    errors: ErrorBoundary
    signal: Optional[int] = None
    status: Optional[int] = None
    is_left: bool = False
    _unseen_since: Optional[float] = None
    _ended_at: Optional[float] = None

    @property
    def has_begun(self) -> bool:
        return self.signal is not None or self.status is not None

    def leave(self) -> None:
        """End hotreload-run alone."""
        self.is_left = True
        self.status = 0

    def stop(self, number: int) -> None:
        """Pass on a signal that ends the server to every generation of it."""
        self.signal = number
        run = self.errors.run
        master = run(self.tracked.master) or self.tracked.process
        others = run(self.others.living) or self.others.known
        for process in dict.fromkeys([master, *others]):
            run(partial(send, self.world, process, number))

    def is_over(self) -> bool:
        """Tell whether hotreload-run may end. It waits for every generation; for what else the
        server has started only a moment, for that may be meant to outlive it."""
        if self.status is None or self._waits_for_generations():
            return False
        if self.is_left or not self.children.are_left:
            return True
        now = time.monotonic()
        self._ended_at = self._ended_at or now
        return now - self._ended_at >= LAST_CHILDREN_SECONDS

    def _waits_for_generations(self) -> bool:
        found = self.errors.run(self._something_lives)
        if found is not None:
            self._unseen_since = None
            return found
        now = time.monotonic()
        self._unseen_since = self._unseen_since or now
        return now - self._unseen_since < UNSEEN_SECONDS

    def _something_lives(self) -> bool:
        """Tell whether a generation, or a part of one, still has to end."""
        if self.signal is not None:
            late = self.others.late_successor()
            if late is not None:
                send(self.world, late, self.signal)
            elif self.tracked.orphans():
                return True
        return bool(self.others.living())
