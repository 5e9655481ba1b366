"""When one program may be reloaded: triggers come together, failures spread out."""

from __future__ import annotations

import math
import zlib
from dataclasses import asdict, dataclass, field
from typing import Any, Optional

from supervisor_hotreload.listener.paths import Stamp
from supervisor_hotreload.system.credentials import Ids

CEILING = 3600.0
"""Seconds between two attempts at most."""

FLOOR = 1.0
"""Seconds that the first retry waits at least, even if ``min_interval`` is shorter."""

PATIENCE = 10.0
"""A stream of events that never pauses is waited for so many times ``settle``."""

SPREAD = 0.1
"""``every`` is stretched by up to a tenth, so that a farm does not reload as one."""


@dataclass
class Due:
    """A reload that is to come. Times are on the monotonic clock.

    :param cause: what fired first, for the operator.
    :param first: when.
    :param last: when something fired the last time.
    :param settle: seconds of quiet after that.
    """

    cause: str
    first: float
    last: float
    settle: float

    @property
    def quiet(self) -> float:
        """Return when it has been quiet for long enough."""
        return min(self.last + self.settle, self.first + PATIENCE * self.settle)


@dataclass
class Attempt:
    """A reload that was asked for, whose outcome is not known yet.

    :param cause: why.
    :param before: the serial of the program's latest reload until then.
    :param begun: when, on the monotonic clock.
    """

    cause: str
    before: str
    begun: float


@dataclass(eq=False)
class Program:
    """One program: what supervisord tells of it, and what is planned.

    :param row: the last answer of hotreload.getTriggers.
    :param born: when its generation began, on the monotonic clock.
    :param stamps: what was seen last, by trigger.
    :param seen: the serial of its latest reload whose end is known.
    :param failures: attempts that have failed one after the other.
    :param reason: why the last of them has.
    :param retry: not before this, on the monotonic clock.
    :param ended: when its latest reload ended, 0 for not known.
    :param hold: not before this: it starts, or another reload is in the way.
    :param swollen: how many looks in a row have found too much memory.
    :param futile: how many reloads in a row have not helped against that.
    """

    name: str
    row: dict[str, Any] = field(default_factory=dict)
    born: float = 0.0
    stamps: dict[str, Stamp] = field(default_factory=dict)
    seen: Optional[str] = None
    due: Optional[Due] = None
    attempt: Optional[Attempt] = None
    failures: int = 0
    reason: str = ""
    retry: float = 0.0
    ended: float = 0.0
    hold: float = 0.0
    swollen: int = 0
    futile: int = 0

    def setting(self, key: str, default: Any) -> Any:
        return self.row.get("triggers", {}).get(key, default)

    @property
    def rights(self) -> Ids:
        """With whose rights its paths are looked at."""
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
    def idle(self) -> bool:
        """Tell whether nothing is planned or under way."""
        return self.due is None and self.attempt is None

    def fire(self, cause: str, now: float, settle: float = 0.0) -> bool:
        """Something has changed: reload, even if the reload before this has failed.

        :return: False when one is to come already.
        """
        if self.due is not None and not self.retry:
            self.due.last = now
            return False
        self.due = Due(cause, now, now, settle)
        self.retry = 0.0
        return True

    def keep(self, cause: str, now: float) -> bool:
        """A condition goes on to hold: reload, unless that is planned already."""
        if not self.idle:
            return False
        self.due = Due(cause, now, now, 0.0)
        return True

    def when(self) -> Optional[float]:
        """Return the earliest time of the next attempt, None for none."""
        if self.due is None or self.attempt is not None:
            return None
        ended = self.ended + self.min_interval if self.ended else 0.0
        return max(self.due.quiet, ended, self.retry, self.hold)

    def begin(self, now: float) -> Attempt:
        """Note that the reload that is due is about to be asked for."""
        assert self.due is not None
        self.attempt = Attempt(self.due.cause, str(self.row["reload"]), now)
        return self.attempt

    def resolve(self) -> None:
        """Find out whether what was asked for has begun; no answer may have come."""
        attempt = self.attempt
        if attempt is None:
            return
        if self.row["reload"] == attempt.before and not self.row["active"]:
            self.attempt = None  # it has not: it still is due
        elif self.due is not None and self.due.last <= attempt.begun:
            self.due = None

    def succeed(self, now: float) -> None:
        """A reload has succeeded, whoever asked for it."""
        self.attempt = None
        self.failures, self.reason, self.retry = 0, "", 0.0
        self.ended = now

    def fail(self, reason: str, now: float) -> float:
        """An attempt has failed: plan the next one.

        :return: seconds until then.
        """
        assert self.attempt is not None
        attempt, self.attempt = self.attempt, None
        self.failures, self.reason, self.ended = self.failures + 1, reason, now
        if self.due is not None and self.due.last > attempt.begun:
            return self.min_interval  # something has changed meanwhile
        self.due = Due(attempt.cause, attempt.begun, attempt.begun, 0.0)
        pause = backoff(self.failures, self.min_interval)
        self.retry = now + pause
        return pause

    def drop(self, now: float) -> None:
        """Forget what is planned; a condition that still holds has to wait."""
        self.due = self.attempt = None
        self.retry = now + backoff(1, self.min_interval)

    def jitter(self, host: str) -> float:
        """Return the seconds that a generation may live longer than ``every``."""
        share = zlib.crc32(f"{host} {self.name} {self.row['reload']}".encode()) / (1 << 32)
        return float(self.setting("every", 0.0)) * SPREAD * share

    # -- the state file

    def dump(self) -> dict[str, Any]:
        """Return what a later listener has to know."""
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
        """Take what an earlier listener has left, as far as it makes sense.

        :param same_boot: its times are on the same clock as ours.
        :param same_supervisord: what it has asked for is known to this one.
        :raises KeyError, TypeError, ValueError: when it makes none.
        """
        self.stamps = {str(key): _stamp(stamp) for key, stamp in saved["stamps"].items()}
        if not same_boot:
            return  # every process has begun anew
        self.failures = min(max(int(saved["failures"]), 0), 1000)
        self.reason = str(saved["reason"])
        self.retry = min(_finite(saved["retry"]), now + CEILING)
        self.ended = min(_finite(saved["ended"]), now)
        due, attempt = saved["due"], saved["attempt"]
        if due is not None:
            first, last = min(_finite(due["first"]), now), min(_finite(due["last"]), now)
            self.due = Due(str(due["cause"]), first, last, min(_finite(due["settle"]), CEILING))
        if attempt is not None:
            begun, cause = min(_finite(attempt["begun"]), now), str(attempt["cause"])
            if same_supervisord:
                self.attempt = Attempt(cause, str(attempt["before"]), begun)
            elif self.due is None:
                self.due = Due(cause, begun, begun, 0.0)  # it went down with that supervisord
        if same_supervisord and saved["seen"] is not None:
            self.seen = str(saved["seen"])


def backoff(failures: int, min_interval: float) -> float:
    """Return the seconds to wait after so many failures in a row."""
    return float(min(CEILING, max(min_interval, FLOOR) * 2.0 ** min(failures - 1, 20)))


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value} is no time")
    return number


def _stamp(value: Any) -> Stamp:
    if not isinstance(value, list) or not all(isinstance(item, (int, str)) for item in value):
        raise TypeError(f"{value!r} is no stamp")
    return value
