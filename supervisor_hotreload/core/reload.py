"""Steps one reload: its waits and timeouts, its changes of state, its log."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Callable, Optional, Union

from supervisor_hotreload.core.model import (
    ROLLBACKS,
    Cancelled,
    Failure,
    Fault,
    Outcome,
    Overdue,
    Phase,
    Progress,
    Readiness,
)
from supervisor_hotreload.core.protocol import Steps, Wait, timed_out
from supervisor_hotreload.core.text import LONGEST, internal_error

OUTPUT_LINES = 200
"""How many lines of the program's own output are remembered for one reload."""

DRAINING_SECONDS = 60.0
"""Seconds after which others stop waiting for a reload that drains: a client may keep an old
worker busy for an hour, and the new generation serves."""

LINES = 500
"""How many lines of one reload are remembered, the latest ones."""

Seen = Union[Progress, Readiness]
"""What a wait has seen."""


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


class Reload:
    """One reload of one program, from its start to its outcome.

    :param name: the program, as 'group:process' or 'process'.
    :param clock: returns monotonic seconds.
    :param log: is called with each line for supervisord's log.
    :param warn: is called instead with the last line of a reload that did not succeed.
    """

    def __init__(
        self,
        name: str,
        clock: Callable[[], float],
        log: Callable[[str], None],
        warn: Optional[Callable[[str], None]] = None,
    ) -> None:
        self.name = name
        self.number = 0
        self.phase = Phase.QUEUED
        self.outcome = Outcome.PENDING
        self.fault: Optional[Fault] = None
        self.reason = ""
        self.serving = ""
        """What serves once the reload has ended, as a sentence."""
        self.progress: Optional[Seen] = None
        self.old_pid = 0
        self.new_pid = 0
        self.adopted = False
        """Whether the point of no return is behind us."""
        self.begun = False
        """Whether the reload was admitted; a refused one was not."""
        self.lines = Lines()
        self.output: deque[str] = deque(maxlen=OUTPUT_LINES)
        """What the program printed during the reload."""
        self._clock = clock
        self._log = log
        self._warn = warn or log
        self._began = self._entered = clock()
        self._ended: Optional[float] = None
        self._steps: Optional[Steps] = None
        self._wait: Optional[Wait] = None
        self._deadline: Optional[float] = None
        self._most_ready = 0
        self._failed_in: Optional[Phase] = None
        self._on_end: list[Callable[[Reload], None]] = []

    @property
    def done(self) -> bool:
        return self.outcome is not Outcome.PENDING

    @property
    def seconds(self) -> float:
        """How long the reload has taken so far, or took."""
        return (self._clock() if self._ended is None else self._ended) - self._began

    @property
    def drains_on(self) -> bool:
        """Whether the reload has drained for so long that nobody should wait for it."""
        drains = self.adopted and self.phase is Phase.DRAINING
        return drains and self._clock() - self._entered >= DRAINING_SECONDS

    def when_ended(self, callback: Callable[[Reload], None]) -> None:
        """Call *callback* with this reload once it has an outcome."""
        self._on_end.append(callback)

    def restart_clock(self) -> None:
        """Count the seconds from now: until now the reload has waited for others."""
        self._began = self._clock()

    def begin(self, steps: Steps) -> None:
        """Take the first step of the protocol."""
        self.begun = True
        self._steps = steps
        self._resume(None)
        self.step()

    def step(self) -> None:
        """Go on until something has to be waited for. Never raises."""
        while self._wait is not None:
            wait = self._wait
            try:
                result = wait.until()
            except Exception as error:  # noqa: BLE001 - an error fails this reload alone
                self._resume(self._as_failure(error))
                continue
            if result:
                adopted_before = self.adopted
                self._note(result)
                self._resume(result)
                if self.adopted and not adopted_before:
                    return  # an adoption alone is long enough for one step
                continue
            ready = getattr(result, "ready", 0)
            if wait.for_each and wait.timeout is not None and ready > self._most_ready:
                self._most_ready, self._deadline = ready, self._clock() + wait.timeout
            if self._deadline is None or self._clock() < self._deadline:
                self._note(result)
                return
            self._resume(overdue(wait, self.progress, self._most_ready))

    def cancel(self, reason: str) -> None:
        """Roll back because an operator asks for it.

        :raises Failure: TOO_LATE after adoption, NOT_RELOADING when it has ended.
        """
        if self.done:
            raise Failure(Fault.NOT_RELOADING, f"{self.name}: no reload is active")
        if self.adopted or self.phase is Phase.UNDOING:
            raise Failure(
                Fault.TOO_LATE,
                f"{self.name}: too late to cancel, the reload is {self.phase.value}",
            )
        if self._steps is None:
            self._end(Outcome.ROLLED_BACK, Cancelled(reason))
        else:
            self._resume(Cancelled(reason))
            self.step()

    def abandon(self, failure: Failure) -> None:
        """End the reload without a rollback: the caller ends or keeps the generations itself."""
        if self.done:
            return
        if self._steps is not None:
            self._steps.close()
        self._end(Outcome.FAILED, failure)

    def commit(self) -> None:
        """Pass the point of no return: from now on no rollback is possible."""
        self.adopted = True

    def say(self, text: str) -> None:
        """Add a line to the reload's log and to supervisord's."""
        self._write(text)
        self._log(f"hotreload: {self.name}: {text}")

    def _resume(self, value: Any) -> None:
        """Give the protocol the result of its wait, or the Failure that ended it."""
        assert self._steps is not None
        failure = value if isinstance(value, Failure) else None
        try:
            wait = self._steps.send(value) if failure is None else self._steps.throw(failure)
        except StopIteration:
            self._end(Outcome.SUCCEEDED, None)
        except Exception as error:  # noqa: BLE001 - an error fails this reload alone
            ended = self._as_failure(error)
            rolled_back = ended.fault in ROLLBACKS and not self.adopted
            self._end(Outcome.ROLLED_BACK if rolled_back else Outcome.FAILED, ended)
        else:
            self._wait, self._most_ready = wait, 0
            self._deadline = None if wait.timeout is None else self._clock() + wait.timeout
            if wait.phase is not self.phase:
                self._enter(wait, failure)

    def _enter(self, wait: Wait, failure: Optional[Failure]) -> None:
        """Enter the phase of *wait*, and say so; *failure* is why the reload rolls back."""
        what = first_line(wait, self.old_pid, self.new_pid)
        if wait.phase is Phase.UNDOING:
            self._failed_in = self.phase
            what = failure.reason if failure is not None else what
        self.phase, self._entered, self.progress = wait.phase, self._clock(), None
        self.say(f"{wait.phase.value}: {what}")

    def _end(self, outcome: Outcome, failure: Optional[Failure]) -> None:
        """Give the reload its outcome, and say so; *failure* is why it has not succeeded."""
        self._wait = self._steps = None
        self._ended, self.outcome = self._clock(), outcome
        if failure is None:
            self.say(f"{outcome.value} in {self.seconds:.1f} s")
        else:
            self.fault, self.reason = failure.fault, failure.reason
            phase = (self._failed_in or self.phase).value
            text = f"{outcome.value} while {phase}: {failure.reason}"
            self._write(text)
            self._warn(f"hotreload: {self.name}: {' '.join(text.split())}")
        self.phase = Phase.DONE
        while self._on_end:  # a callback may hold much memory
            callback = self._on_end.pop(0)
            try:
                callback(self)
            except Exception:  # noqa: BLE001 - the other callbacks have to be called as well
                self._log(f"hotreload: {self.name}: {traceback.format_exc()}")

    def _as_failure(self, error: Exception) -> Failure:
        """Return *error* if it is a Failure; any other one is logged and is an error of ours."""
        if isinstance(error, Failure):
            return error
        self._log(f"hotreload: {self.name}: {traceback.format_exc()}")
        return Failure(Fault.INTERNAL, internal_error(error, f" while {self.phase.value}"))

    def _note(self, result: Any) -> None:
        """Remember what a wait has seen, and write it when it has changed."""
        text = getattr(result, "text", None)
        if text is None or (self.progress is not None and text == self.progress.text):
            return
        known = isinstance(result, (Progress, Readiness))
        self.progress = result if known else Progress(text)
        self._write(f"{self.phase.value}: {text}")

    def _write(self, text: str) -> None:
        self.lines.write(self.seconds, self.phase, text)


def first_line(wait: Wait, old_pid: int, new_pid: int) -> str:
    """Return what happens in the phase of *wait*, as its first line says it."""
    phase, in_place = wait.phase, new_pid == old_pid
    if phase is Phase.BAKING:
        who = "the new workers are" if in_place else "both generations serve, the new one is"
        return f"{who} watched"
    if phase is Phase.DRAINING:
        who = "old workers end" if in_place else f"old generation (pid {old_pid}) ends"
        return f"the {who} gracefully"
    return {
        Phase.SPAWNING: f"asked the master (pid {old_pid}) for a successor",
        Phase.BOOTING: f"the successor (pid {new_pid}) starts its workers",
        Phase.CHECKING: f"{wait.awaited} runs",
        Phase.REPLACING: f"pid {old_pid} replaces its workers",
        Phase.PROMOTING: f"pid {new_pid} becomes a master like any other",
        Phase.UNDOING: f"the old generation (pid {old_pid}) serves on",
    }.get(phase, "")


def overdue(wait: Wait, progress: Optional[Seen], most_ready: int) -> Overdue:
    """Return the failure of a wait whose deadline has passed.

    :param progress: what the wait has seen.
    :param most_ready: how many workers were ready at once, where each has its own timeout.
    """
    awaited = "the next worker" if most_ready else wait.awaited
    if isinstance(progress, Progress) and not progress.total and wait.fault is Fault.NOT_READY:
        awaited = "the new generation to be ready"  # its workers may have booted
    seen = "" if progress is None else f" ({progress.short or progress.text})"
    return Overdue(wait.fault, f"{timed_out(wait.timeout or 0.0, awaited)}{seen}")
