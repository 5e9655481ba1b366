"""The words of a reload: its phases, its outcomes, its settings and its faults."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Optional


class Phase(enum.Enum):
    """Where a reload is. The value is the word that operators read."""

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
    """How a reload ended; PENDING while it has not."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    ROLLED_BACK = "rolled back"
    FAILED = "failed"


class Fault(enum.IntEnum):
    """Why a reload was refused or failed, one XML-RPC fault code per kind.

    The first three are supervisor's own codes for the same thing
    (supervisor.xmlrpc.Faults); the others clash with none of them.
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


class Failure(Exception):
    """A reload was refused, or cannot go on.

    :param fault: the kind, which is also the XML-RPC fault code.
    :param reason: a sentence for the operator.
    """

    def __init__(self, fault: Fault, reason: str) -> None:
        super().__init__(reason)
        self.fault = fault
        self.reason = reason


class Overdue(Failure):
    """A phase did not end within its deadline."""


class Cancelled(Failure):
    """An operator asked for a rollback."""

    def __init__(self, reason: str = "cancelled by an operator") -> None:
        super().__init__(Fault.CANCELLED, reason)


@dataclass(frozen=True)
class Ready:
    """How to tell that a generation is ready.

    :param kind: ``heartbeat`` (what the family itself can prove best),
        ``accepting``, ``settle``, ``http``, ``tcp``, ``unix``, ``file`` or ``notify``.
    :param seconds: of ``settle``.
    :param target: an address or a path.
    :param text: what the body of an answer has to contain.
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
    """One event that reloads a program.

    :param event: supervisor's name of the event, or of a family of events.
    :param tokens: what its header and payload have to say.
    """

    event: str
    tokens: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Triggers:
    """What reloads one program unattended. Times are in seconds, 0 is never.

    :param settle: seconds of quiet before a reload, for ``watch`` and for events.
    :param max_memory: bytes, 0 for no limit.
    :param min_interval: at least so long between two unattended reloads.
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
    """A wait that is not over yet; falsy, so that the wait goes on.

    :param text: what there is so far, such as '3/4 workers ready'.
    """

    text: str
    ready: int = 0
    total: int = 0

    def __bool__(self) -> bool:
        return False


@dataclass(frozen=True)
class Readiness:
    """Every intended worker of a generation accepts requests; truthy.

    :param workers: how many there are.
    """

    workers: int

    @property
    def text(self) -> str:
        noun = "worker" if self.workers == 1 else "workers"
        return f"{self.workers}/{self.workers} {noun} ready"
