"""Phases, outcomes, faults and settings of a reload, and what a wait reports."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Optional

from supervisor_hotreload.core.text import counted


class Phase(enum.Enum):
    """The step that a reload is in. Operators read the value."""

    QUEUED = "queued"
    SPAWNING = "spawning"
    BOOTING = "booting"
    REPLACING = "replacing"
    CHECKING = "checking"
    BAKING = "baking"
    DRAINING = "draining"
    PROMOTING = "promoting"
    UNDOING = "rolling back"
    DONE = "done"


class Outcome(enum.Enum):
    """How a reload ended. PENDING means that it has not ended."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    ROLLED_BACK = "rolled back"
    FAILED = "failed"


class Fault(enum.IntEnum):
    """Why a reload was refused or failed. Each kind has one XML-RPC fault code.

    The first three are supervisor's own codes with supervisor's meaning
    (supervisor.xmlrpc.Faults). Supervisor uses none of the others.
    """

    SHUTDOWN_STATE = 6
    BAD_NAME = 10
    NOT_RUNNING = 70

    STILL_STARTING = 701
    ALREADY_RELOADING = 702
    NOT_RELOADABLE = 703
    BAD_SETTING = 704
    NOT_RELOADING = 705
    TOO_LATE = 706
    STOPPED_BY_SIGNAL = 707
    FOREIGN_SUCCESSOR = 708
    RELEASE_MOVED = 709

    NO_SUCCESSOR = 710
    SUCCESSOR_EXITED = 711
    NOT_READY = 712
    CHECK_FAILED = 713
    BAKE_FAILED = 714
    CANCELLED = 715
    STOPPED = 716
    OLD_EXITED = 717
    NOT_ATTEMPTED = 718
    INTERNAL = 719
    TRIAL_FAILED = 720
    SERVER_EXITED = 721

    NO_LISTENER = 730


ROLLBACKS = frozenset({Fault.CANCELLED, Fault.CHECK_FAILED, Fault.BAKE_FAILED})
"""Faults before adoption that end a reload as ROLLED_BACK. All others end it as FAILED."""


class Failure(Exception):
    """A reload was refused, or it failed.

    :param fault: the kind of failure, and the XML-RPC fault code.
    :param reason: a sentence for the operator.
    """

    def __init__(self, fault: Fault, reason: str) -> None:
        super().__init__(reason)
        self.fault = fault
        self.reason = reason


class Overdue(Failure):
    """A wait did not end before its deadline."""


class Cancelled(Failure):
    """An operator asked for a rollback."""

    def __init__(self, reason: str = "cancelled by an operator") -> None:
        super().__init__(Fault.CANCELLED, reason)


@dataclass(frozen=True)
class Ready:
    """The setting ``ready``: what proves that a generation is ready.

    :param kind: ``heartbeat`` (the best proof that the family has), ``accepting``,
        ``settle``, ``http``, ``tcp``, ``unix``, ``file`` or ``notify``.
    :param seconds: how long ``settle`` waits.
    :param target: the address or the path that is asked.
    :param text: the body of an HTTP answer must contain this.
    """

    kind: str = "heartbeat"
    seconds: float = 0.0
    target: str = ""
    text: str = ""

    def __str__(self) -> str:
        if self.kind == "settle":
            return f"settle:{self.seconds:g}"
        return f"{self.target} {self.text}".strip() or self.kind


@dataclass(frozen=True)
class Policy:
    """The settings of one program. All times are in seconds."""

    pidfile: Optional[str] = None
    ready: Ready = Ready()
    spawn_timeout: float = 10.0
    ready_timeout: float = 60.0
    bake: float = 0.0
    check: Optional[str] = None
    check_timeout: float = 30.0
    check_before: Optional[str] = None
    strategy: str = "auto"
    signal: str = "HUP"
    drain_timeout: Optional[float] = None
    promote_timeout: float = 10.0
    relay_sighup: bool = True
    adopt_orphans: bool = True


@dataclass(frozen=True)
class Condition:
    """One kind of supervisor event that reloads a program.

    :param event: supervisor's name of an event or of a family of events.
    :param tokens: keys and values that the header or the payload must contain.
    """

    event: str
    tokens: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Triggers:
    """What reloads one program without an operator. Times are in seconds; 0 means never.

    :param touch: files; a reload follows when one of them is touched.
    :param watch: files and directories; a reload follows when something in them changes.
    :param settle: how long ``watch`` and events must be quiet before the reload starts.
    :param after: programs; a reload follows when one of them has exited.
    :param on: events that reload the program.
    :param max_memory: in bytes; 0 means no limit.
    :param every: the interval between two planned reloads.
    :param min_interval: the shortest time between two unattended reloads.
    :param allow_requests_from: programs that may ask for a reload of this one.
    :param notify: the command that reports each unattended reload.
    """

    touch: tuple[str, ...] = ()
    watch: tuple[str, ...] = ()
    settle: float = 1.0
    after: tuple[str, ...] = ()
    on: tuple[Condition, ...] = ()
    max_memory: float = 0.0
    every: float = 0.0
    min_interval: float = 10.0
    allow_requests_from: tuple[str, ...] = ()
    notify: str = ""


@dataclass(frozen=True)
class Progress:
    """What a wait has seen so far. It is falsy, so that the wait goes on.

    :param text: for the log, such as '3/4 workers ready'.
    :param ready: how many of *total* are ready.
    :param short: for the message of a timeout, such as '3 of 4 ready'; '' means *text*.
    """

    text: str
    ready: int = 0
    total: int = 0
    short: str = ""

    def __bool__(self) -> bool:
        return False

    @classmethod
    def of_workers(cls, ready: int, total: int) -> Progress:
        """Report that *ready* of *total* workers are ready."""
        text = f"{ready}/{counted(total, 'worker')} ready"
        return cls(text, ready, total, f"{ready} of {total} ready")

    @classmethod
    def of_old_workers(cls, left: int) -> Progress:
        """Report that *left* workers of the old release still finish their requests."""
        return cls(f"{counted(left, 'old worker')} left", 0, left)

    @classmethod
    def of_seconds(cls, left: float) -> Progress:
        """Report that a wait ends in *left* seconds. A long wait makes few different texts."""
        step = 60 if left > 600 else 10 if left > 60 else 5 if left > 20 else 1
        return cls(f"{max(1, round(left / step) * step)} s remain")


@dataclass(frozen=True)
class Readiness:
    """Every intended worker of a generation accepts requests. It is truthy.

    :param workers: how many workers there are.
    """

    workers: int

    @property
    def ready(self) -> int:
        return self.workers

    total = ready
    short = ""

    @property
    def text(self) -> str:
        return Progress.of_workers(self.workers, self.workers).text
