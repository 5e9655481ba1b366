"""Steps reloads: deadlines, phase transitions in one place, cancel, history."""

from __future__ import annotations

import traceback
from collections import deque
from dataclasses import dataclass
from typing import Any, Callable, Optional

from supervisor_hotreload.core.model import (
    ROLLBACKS,
    Cancelled,
    Failure,
    Fault,
    Outcome,
    Overdue,
    Phase,
    Progress,
)
from supervisor_hotreload.core.protocol import Steps, Wait
from supervisor_hotreload.core.text import LONGEST

REMEMBERED = 3
"""How many ended reloads of one program are remembered: a HUP may have followed the one
that a client still asks about."""

REFUSED = 3
"""How many refused ones are, of one program: their askers may still ask about them."""

LINES = 500
"""How many lines of a reload's own log are kept, the latest ones."""

DRAIN_PATIENCE = 60.0
"""Seconds that others wait for a generation that drains. A client may hold it for an hour."""

OUTPUT_LINES = 200
"""How many lines of the program's own output are kept for one reload."""


@dataclass(frozen=True)
class Line:
    """One line of a reload's log.

    :param seconds: since the reload began.
    """

    seconds: float
    phase: Phase
    text: str


class Reload:
    """One reload of one program, from its start to its outcome.

    :param name: the program, as 'group:process' or 'process'.
    :param clock: returns monotonic seconds.
    :param log: called with each line.
    :param warn: called with the line of a reload that did not succeed.
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
        self.progress: Optional[Progress] = None
        self.old_pid = 0
        self.new_pid = 0
        self.adopted = False
        self.begun = False
        self.lines: deque[Line] = deque(maxlen=LINES)
        self.written = 0
        self.output: deque[str] = deque(maxlen=OUTPUT_LINES)
        self._clock = clock
        self._log = log
        self._warn = warn or log
        self._began = clock()
        self._ended: Optional[float] = None
        self._steps: Optional[Steps] = None
        self._wait: Optional[Wait] = None
        self._undone: Optional[Phase] = None
        self._deadline: Optional[float] = None
        self._entered = self._began
        self._most = 0
        self._on_end: list[Callable[[Reload], None]] = []

    @property
    def done(self) -> bool:
        return self.outcome is not Outcome.PENDING

    @property
    def seconds(self) -> float:
        """Return how long the reload has taken so far, or took."""
        return (self._clock() if self._ended is None else self._ended) - self._began

    @property
    def drains_on(self) -> bool:
        """Tell whether the new generation serves and nobody should wait for the old one."""
        drains = self.adopted and self.phase is Phase.DRAINING
        return drains and self._clock() - self._entered >= DRAIN_PATIENCE

    def lines_since(self, number: int) -> list[Line]:
        """Return the lines that follow the first *number* ones, as far as they are kept."""
        news = max(0, self.written - max(0, number))
        return list(self.lines)[-news:] if news else []

    def when_ended(self, callback: Callable[[Reload], None]) -> None:
        """Call *callback* with this reload once it has an outcome."""
        self._on_end.append(callback)

    def take_up(self) -> None:
        """Start the clock: it has waited for others so far."""
        self._began = self._clock()

    def begin(self, steps: Steps) -> None:
        """Take the first step of the protocol."""
        self.begun = True
        self._steps = steps
        self._resume(None)
        self.step()

    def step(self) -> None:
        """Go as far as it goes without waiting. Never raises."""
        while self._wait is not None:
            wait = self._wait
            try:
                result = wait.until()
            except Failure as failure:
                self._resume(failure)
                continue
            except Exception as error:  # noqa: BLE001 - whatever it is, it fails this reload only
                self._resume(self._internal(error))
                continue
            if not result and wait.stepwise:
                self._grant_another(wait, getattr(result, "ready", 0))
            if result:
                before = self.adopted
                self._note(result)
                self._resume(result)
                if self.adopted and not before:
                    return  # that was much for one step
            elif self._deadline is not None and self._clock() >= self._deadline:
                self._resume(self._overdue(wait))
            else:
                self._note(result)
                return

    def cancel(self, reason: str) -> None:
        """Roll back, as an operator asks.

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
            return
        self._resume(Cancelled(reason))
        self.step()

    def abandon(self, failure: Failure) -> None:
        """End without a rollback: somebody else is ending both generations."""
        if self.done:
            return
        if self._steps is not None:
            self._steps.close()
        self._end(Outcome.FAILED, failure)

    def say(self, text: str) -> None:
        """Add a line to the reload's own log and to supervisord's."""
        self._write(text)
        self._log(f"hotreload: {self.name}: {text}")

    def _write(self, text: str) -> None:
        self.lines.append(Line(self.seconds, self.phase, text[:LONGEST]))
        self.written += 1

    def _resume(self, value: Any) -> None:
        """Hand the protocol the result of its wait, or the failure of it."""
        steps = self._steps
        assert steps is not None
        try:
            wait = steps.throw(value) if isinstance(value, Failure) else steps.send(value)
        except StopIteration:
            self._end(Outcome.SUCCEEDED, None)
        except Failure as failure:
            rolled_back = failure.fault in ROLLBACKS and not self.adopted
            self._end(Outcome.ROLLED_BACK if rolled_back else Outcome.FAILED, failure)
        except Exception as error:  # noqa: BLE001 - whatever it is, it fails this reload only
            self._end(Outcome.FAILED, self._internal(error))
        else:
            self._transition(wait, value if isinstance(value, Failure) else None)

    def _transition(self, wait: Wait, why: Optional[Failure]) -> None:
        """Enter the phase of *wait*. Every change of phase passes here."""
        self._wait = wait
        self._most = 0
        self._deadline = None if wait.timeout is None else self._clock() + wait.timeout
        if wait.phase is not self.phase:
            before, self.phase = self.phase, wait.phase
            self._entered = self._clock()
            self.progress = None
            if wait.phase is Phase.UNDOING and why is not None:
                self._undone = before
                self.say(f"rolling back: {why.reason}")
            else:
                self.say(self._entering(wait.phase))

    def _grant_another(self, wait: Wait, ready: int) -> None:
        """Begin the deadline anew for the next worker, once this one is ready."""
        if ready > self._most and wait.timeout is not None:
            self._most = ready
            self._deadline = self._clock() + wait.timeout

    def _entering(self, phase: Phase) -> str:
        return {
            Phase.SPAWNING: f"spawning: asked the master (pid {self.old_pid}) for a successor",
            Phase.BOOTING: f"booting: the successor (pid {self.new_pid}) starts its workers",
            Phase.CHECKING: "checking: the check command runs",
            Phase.REPLACING: f"replacing: pid {self.old_pid} replaces its workers",
            Phase.BAKING: f"baking: {self._newcomers()}",
            Phase.DRAINING: f"draining: {self._elders()} gracefully",
            Phase.PROMOTING: f"promoting: pid {self.new_pid} becomes a master like any other",
        }.get(phase, phase.value)

    def _elders(self) -> str:
        if self.new_pid == self.old_pid:
            return "the old workers end"
        return f"the old generation (pid {self.old_pid}) ends"

    def _newcomers(self) -> str:
        if self.new_pid == self.old_pid:
            return "the new workers are watched"
        return "both generations serve, the new one is watched"

    def _note(self, result: Any) -> None:
        """Keep what a wait tells of its progress; log it when it has changed."""
        text = getattr(result, "text", None)
        if text is None or (self.progress is not None and text == self.progress.text):
            return
        self.progress = Progress(text, getattr(result, "ready", 0), getattr(result, "total", 0))
        self._write(f"{self.phase.value}: {text}")

    def _overdue(self, wait: Wait) -> Overdue:
        so_far = f" ({self.progress.text})" if self.progress is not None else ""
        took = f"was not over in {wait.told or wait.timeout:g} s"
        if self._most:
            took = f"took more than {wait.timeout:g} s for one worker"
        return Overdue(wait.fault, f"{wait.phase.value} {took}{so_far}")

    def _internal(self, error: Exception) -> Failure:
        self._log(f"hotreload: {self.name}: {traceback.format_exc()}")
        return Failure(
            Fault.INTERNAL,
            f"an error inside hotreload while {self.phase.value}: "
            f"{type(error).__name__}: {error} (traceback in supervisord's log)",
        )

    def _end(self, outcome: Outcome, failure: Optional[Failure]) -> None:
        at = self._undone or self.phase
        self._wait = self._steps = None
        self._ended = self._clock()
        self.outcome = outcome
        if failure is not None:
            self.fault = failure.fault
            self.reason = failure.reason
            text = f"{outcome.value} while {at.value}: {failure.reason}"
            self._write(text)
            self._warn(f"hotreload: {self.name}: {' '.join(text.split())}")
        else:
            self.say(f"{outcome.value} in {self.seconds:.1f} s")
        self.phase = Phase.DONE
        callbacks, self._on_end = self._on_end, []  # they hold what a reload has no use for now
        for callback in callbacks:
            try:
                callback(self)
            except Exception:  # noqa: BLE001 - the others have to be told as well
                self._log(f"hotreload: {self.name}: {traceback.format_exc()}")


class Driver:
    """Every reload of one supervisord: the active ones, and the last of each program.

    Reloads of different programs that are started one by one run side by side;
    a batch runs one after the other.
    """

    def __init__(self) -> None:
        self._active: dict[str, Reload] = {}
        self._past: dict[str, deque[Reload]] = {}
        self._refused: dict[str, deque[Reload]] = {}
        self._count = 0

    @property
    def idle(self) -> bool:
        return not self._active

    def active(self, name: str) -> Optional[Reload]:
        """Return the reload of *name* that is under way."""
        return self._active.get(name)

    def latest(self, name: str) -> Optional[Reload]:
        """Return the reload of *name* under way, or the last one that ended.

        One that was refused hides none that was begun.
        """
        known = self._past.get(name) or self._refused.get(name)
        return self._active.get(name) or (known[-1] if known else None)

    def numbered(self, name: str, number: int) -> Optional[Reload]:
        """Return the reload of *name* with that number, None when it is not remembered."""
        known = [*self._past.get(name, ()), *self._refused.get(name, ())]
        known += filter(None, [self._active.get(name)])
        return next((reload for reload in known if reload.number == number), None)

    def add(self, reload: Reload) -> None:
        """Take on a reload.

        :raises Failure: ALREADY_RELOADING when one of that program is active.
        """
        self.must_be_free(reload.name)
        self._count += 1
        reload.number = self._count
        self._active[reload.name] = reload
        reload.when_ended(self._retire)

    def must_be_free(self, name: str) -> None:
        """Refuse a second reload of one program.

        :raises Failure: ALREADY_RELOADING.
        """
        running = self._active.get(name)
        if running is not None:
            raise Failure(
                Fault.ALREADY_RELOADING,
                f"{name}: another reload is active ({running.phase.value}, "
                f"{running.seconds:.0f} s)",
            )

    def step(self) -> None:
        """Step every active reload."""
        for reload in list(self._active.values()):
            reload.step()

    def _retire(self, reload: Reload) -> None:
        del self._active[reload.name]
        if reload.begun:
            self._past.setdefault(reload.name, deque(maxlen=REMEMBERED)).append(reload)
        else:
            self._refused.setdefault(reload.name, deque(maxlen=REFUSED)).append(reload)
