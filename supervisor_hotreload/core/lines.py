"""Keeps the latest lines of one reload's log."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from supervisor_hotreload.core.model import Phase
from supervisor_hotreload.core.text import LONGEST

LINES = 500
"""How many lines of one reload are remembered, the latest ones."""


@dataclass(frozen=True)
class Line:
    """One line of a reload's log.

    :param seconds: since the reload began.
    """

    seconds: float
    phase: Phase
    text: str


class Lines:
    """The lines of one reload's log, numbered from 1 in the order of writing.

    ``written`` is how many there were, also those that were dropped.
    """

    def __init__(self) -> None:
        self.written = 0
        self._latest: deque[Line] = deque(maxlen=LINES)

    def __iter__(self) -> Iterator[Line]:
        return iter(self._latest)

    def __len__(self) -> int:
        return len(self._latest)

    def write(self, seconds: float, phase: Phase, text: str) -> None:
        self._latest.append(Line(seconds, phase, text[:LONGEST]))
        self.written += 1

    def since(self, number: int) -> list[Line]:
        """Return the lines after line *number*, as far as they are remembered."""
        count = max(0, self.written - max(0, number))
        return list(self._latest)[-count:] if count else []
