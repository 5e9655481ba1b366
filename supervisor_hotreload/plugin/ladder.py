"""Ends processes by ever stronger signals, in the middle of supervisord's loop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Callable

from supervisor_hotreload.core.protocol import Rung


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
