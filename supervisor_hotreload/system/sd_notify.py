"""Remembers what programs report by sd_notify: that they are ready, and their status.

Every process of the program's user can write to the program's socket. The kernel tells which
process has written (SCM_CREDENTIALS). A report counts by the ancestors of its sender, never
by what it says of itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Optional

from supervisor_hotreload.core.text import printable
from supervisor_hotreload.system.process import Process, is_alive

STATUS_CHARACTERS = 120
"""How long a status may be. The rest is cut off."""

SENDERS = 64
"""How many processes of one program are remembered, the latest ones."""


@dataclass(frozen=True)
class Notice:
    """What one process has reported so far.

    :param line: the process, its parent, and so on up to the process that is supervised.
    :param at: when it last reported something, by the monotonic clock.
    :param ready_at: when it last reported READY=1.
    """

    line: tuple[Process, ...]
    at: float
    ready_at: Optional[float] = None
    status: str = ""

    @property
    def sender(self) -> Process:
        return self.line[0]


class Notices:
    """The notices of every process of every program."""

    def __init__(self) -> None:
        self._known: dict[Process, Notice] = {}

    def take(self, line: tuple[Process, ...], datagram: bytes, now: float) -> None:
        """Remember what the first process of *line* reports; only READY and STATUS matter."""
        before = self._known.pop(line[0], Notice(line, now))
        ready_at, status = before.ready_at, before.status
        for assignment in datagram.decode("utf-8", "replace").splitlines():
            key, _, value = assignment.partition("=")
            if key == "READY" and value == "1":
                ready_at = now
            elif key == "STATUS":
                status = printable(value[:STATUS_CHARACTERS])
        if ready_at is not None or status:
            self._known[line[0]] = Notice(line, now, ready_at, status)
            self._forget(line[-1])

    def _forget(self, supervised: Process) -> None:
        """Drop the notices of dead processes, and the earliest of one program's too many."""
        for sender, notice in list(self._known.items()):
            if not any(is_alive(process) for process in notice.line):
                del self._known[sender]
        senders = [
            sender for sender, notice in self._known.items() if notice.line[-1] == supervised
        ]
        for sender in senders[:-SENDERS]:
            del self._known[sender]

    def __iter__(self) -> Iterator[Notice]:
        """Yield the notice of each process, the latest last."""
        return iter(list(self._known.values()))
