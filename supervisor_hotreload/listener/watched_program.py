"""Decides when one program is reloaded: joins its triggers, spreads its failures out."""

from __future__ import annotations

import math
import zlib
from dataclasses import asdict, dataclass, field
from typing import Any, Optional

from supervisor_hotreload.listener.paths import Stamp
from supervisor_hotreload.system.credentials import Ids

MAX_BACKOFF_SECONDS = 3600.0

MIN_BACKOFF_SECONDS = 1.0
"""The first retry waits at least as long, even if ``min_interval`` is shorter."""

MAX_SETTLES = 10.0
"""A stream of events that never pauses is waited for so many times ``settle``."""

JITTER = 0.1
"""``every`` grows by up to a tenth, so that many hosts do not reload at the same moment."""


@dataclass
class PlannedReload:
    """A reload that is to come. Times are on the monotonic clock.

    :param cause: the first trigger, for the operator.
    :param first: when it fired.
    :param last: when a trigger fired the last time.
    :param settle: seconds of quiet after that.
    """

    cause: str
    first: float
    last: float
    settle: float

    @property
    def quiet(self) -> float:
        """Return when it has been quiet for long enough."""
        return min(self.last + self.settle, self.first + MAX_SETTLES * self.settle)


@dataclass
class Attempt:
    """A reload that was asked for and whose outcome is not known yet.

    :param cause: the trigger.
    :param before: the serial of the program's latest reload before this one.
    :param begun: when it was asked for, on the monotonic clock.
    """

    cause: str
    before: str
    begun: float


@dataclass(eq=False)
class WatchedProgram:
    """One program: what supervisord reports about it, and which reload is planned.

    Times are on the monotonic clock.

    :param row: the last answer of hotreload.getTriggers.
    :param born: when its running generation began.
    :param stamps: what was seen last, by trigger.
    :param seen: the serial of its latest reload whose end is known.
    :param failures: attempts that have failed one after the other.
    :param reason: why the last of them failed.
    :param retry: no attempt before this time, after a failure.
    :param ended: when its latest reload ended, 0 for not known.
    :param hold: no attempt before this time: the program starts, or another reload runs.
    :param excesses: looks in a row that found too much memory.
    :param futile: reloads in a row that did not help against that.
    """

    name: str
    row: dict[str, Any] = field(default_factory=dict)
    born: float = 0.0
    stamps: dict[str, Stamp] = field(default_factory=dict)
    seen: Optional[str] = None
    due: Optional[PlannedReload] = None
    attempt: Optional[Attempt] = None
    failures: int = 0
    reason: str = ""
    retry: float = 0.0
    ended: float = 0.0
    hold: float = 0.0
    excesses: int = 0
    futile: int = 0

    def setting(self, key: str, default: Any) -> Any:
        return self.row.get("triggers", {}).get(key, default)

    @property
    def full_name(self) -> str:
        return f"{self.row['group']}:{self.row['process']}"

    @property
    def rights(self) -> Ids:
        """Return the rights with which its paths are looked at."""
        users, groups, more = (tuple(map(int, ids.split())) for ids in self.row["rights"])
        return Ids(users, groups, more)

    @property
    def group(self) -> str:
        return str(self.row["group"])

    @property
    def min_interval(self) -> float:
        return float(self.setting("min_interval", 10.0))

    @property
    def settle(self) -> float:
        return float(self.setting("settle", 1.0))

    @property
    def is_idle(self) -> bool:
        """Tell whether no reload is planned or under way."""
        return self.due is None and self.attempt is None

    def trigger(self, cause: str, now: float, settle: float = 0.0) -> bool:
        """Plan a reload because something has changed, even if the last reload has failed.

        :return: False when one is planned already.
        """
        if self.due is not None and not self.retry:
            self.due.last = now
            return False
        self.due = PlannedReload(cause, now, now, settle)
        self.retry = 0.0
        return True

    def trigger_if_idle(self, cause: str, now: float) -> bool:
        """Plan a reload because a condition holds, unless one is planned or under way.

        :return: False when one is.
        """
        if not self.is_idle:
            return False
        self.due = PlannedReload(cause, now, now, 0.0)
        return True

    def next_attempt(self) -> Optional[float]:
        """Return the earliest time of the next attempt, None when none is planned."""
        if self.due is None or self.attempt is not None:
            return None
        ended = self.ended + self.min_interval if self.ended else 0.0
        return max(self.due.quiet, ended, self.retry, self.hold)

    def begin_attempt(self, now: float) -> Attempt:
        """Note that the planned reload is about to be asked for."""
        assert self.due is not None
        self.attempt = Attempt(self.due.cause, str(self.row["reload"]), now)
        return self.attempt

    def resolve_attempt(self) -> None:
        """Find out from the row whether the attempt has begun: its answer may have been lost."""
        attempt = self.attempt
        if attempt is None:
            return
        if self.row["reload"] == attempt.before and not self.row["active"]:
            self.attempt = None  # it has not begun, the reload is still planned
        elif self.due is not None and self.due.last <= attempt.begun:
            self.due = None

    def succeed(self, now: float) -> None:
        """Note that a reload has succeeded, whoever asked for it."""
        self.attempt = None
        self.failures, self.reason, self.retry = 0, "", 0.0
        self.ended = now

    def fail(self, reason: str, now: float) -> float:
        """Note that the attempt has failed, and plan the next one.

        :return: seconds until then.
        """
        assert self.attempt is not None
        attempt, self.attempt = self.attempt, None
        self.failures, self.reason, self.ended = self.failures + 1, reason, now
        if self.due is not None and self.due.last > attempt.begun:
            return self.min_interval  # something has changed meanwhile
        self.due = PlannedReload(attempt.cause, attempt.begun, attempt.begun, 0.0)
        pause = backoff(self.failures, self.min_interval)
        self.retry = now + pause
        return pause

    def drop_plan(self, now: float) -> None:
        """Forget the planned reload. A condition that still holds waits before it plans another."""
        self.due = self.attempt = None
        self.retry = now + backoff(1, self.min_interval)

    def jitter(self, host: str) -> float:
        """Return the seconds that a generation may live longer than ``every``."""
        share = zlib.crc32(f"{host} {self.name} {self.row['reload']}".encode()) / (1 << 32)
        return float(self.setting("every", 0.0)) * JITTER * share

    # -- the state file

    def dump(self) -> dict[str, Any]:
        """Return what the next listener has to know."""
        return {
            "stamps": self.stamps,
            "seen": self.seen,
            "due": asdict(self.due) if self.due is not None else None,
            "attempt": asdict(self.attempt) if self.attempt is not None else None,
            "failures": self.failures,
            "reason": self.reason,
            "retry": self.retry,
            "ended": self.ended,
        }

    def restore(self, saved: Any, now: float, same_boot: bool, same_supervisord: bool) -> None:
        """Take over what an earlier listener has saved.

        :param same_boot: its times are on the same clock as ours.
        :param same_supervisord: this supervisord knows the reloads that it asked for.
        :raises KeyError, TypeError, ValueError: when *saved* is not what a listener saves.
        """
        self.stamps = {str(key): _stamp(stamp) for key, stamp in saved["stamps"].items()}
        if not same_boot:
            return  # every process is new
        self.failures = min(max(int(saved["failures"]), 0), 1000)
        self.reason = str(saved["reason"])
        self.retry = min(_finite(saved["retry"]), now + MAX_BACKOFF_SECONDS)
        self.ended = min(_finite(saved["ended"]), now)
        due, attempt = saved["due"], saved["attempt"]
        if due is not None:
            first, last = min(_finite(due["first"]), now), min(_finite(due["last"]), now)
            settle = min(_finite(due["settle"]), MAX_BACKOFF_SECONDS)
            self.due = PlannedReload(str(due["cause"]), first, last, settle)
        if attempt is not None:
            begun, cause = min(_finite(attempt["begun"]), now), str(attempt["cause"])
            if same_supervisord:
                self.attempt = Attempt(cause, str(attempt["before"]), begun)
            elif self.due is None:
                self.due = PlannedReload(cause, begun, begun, 0.0)  # it ended with supervisord
        if same_supervisord and saved["seen"] is not None:
            self.seen = str(saved["seen"])


def backoff(failures: int, min_interval: float) -> float:
    """Return the seconds to wait after so many failures in a row."""
    seconds = max(min_interval, MIN_BACKOFF_SECONDS) * 2.0 ** min(failures - 1, 20)
    return float(min(MAX_BACKOFF_SECONDS, seconds))


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value} is no time")
    return number


def _stamp(value: Any) -> Stamp:
    if not isinstance(value, list) or not all(isinstance(item, (int, str)) for item in value):
        raise TypeError(f"{value!r} is no stamp")
    return value
