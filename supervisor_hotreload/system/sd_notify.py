"""What programs say of themselves by sd_notify: that they are ready, and how far they are.

The program's user may write to its socket. The kernel tells which process has
(SCM_CREDENTIALS), and a process counts by its kinship, never by what it says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Optional

from supervisor_hotreload.core.text import printable
from supervisor_hotreload.system.process import Process, is_alive

STATUS = 120
"""Characters of a status that are kept."""

SENDERS = 64
"""Processes of one program whose word is kept, the latest ones."""


@dataclass(frozen=True)
class Notice:
    """What one process has said so far.

    :param line: the process itself, its parent, and so on up to the supervised one.
    :param at: when it said something last, by the monotonic clock.
    :param ready_at: when it said READY=1 last.
    """

    line: tuple[Process, ...]
    at: float
    ready_at: Optional[float] = None
    status: str = ""

    @property
    def sender(self) -> Process:
        return self.line[0]


class Notices:
    """The latest word of every process of every program."""

    def __init__(self) -> None:
        self._known: dict[Process, Notice] = {}

    def take(self, line: tuple[Process, ...], datagram: bytes, now: float) -> None:
        """Keep what the first process of *line* says, but for what is of no use here."""
        before = self._known.pop(line[0], Notice(line, now))
        ready_at, status = before.ready_at, before.status
        for assignment in datagram.decode("utf-8", "replace").splitlines():
            key, _, value = assignment.partition("=")
            if key == "READY" and value == "1":
                ready_at = now
            elif key == "STATUS":
                status = printable(value[:STATUS])
        if ready_at is not None or status:
            self._known[line[0]] = Notice(line, now, ready_at, status)
            self._forget(line[-1])

    def _forget(self, supervised: Process) -> None:
        """Drop what is said by the dead, and by the earliest of too many of one program."""
        for sender, notice in list(self._known.items()):
            if not any(is_alive(process) for process in notice.line):
                del self._known[sender]
        kin = [sender for sender, notice in self._known.items() if notice.line[-1] == supervised]
        for sender in kin[:-SENDERS]:
            del self._known[sender]

    def __iter__(self) -> Iterator[Notice]:
        """Return what everybody has said, the latest word last."""
        return iter(list(self._known.values()))
