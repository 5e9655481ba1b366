"""The events of a reload, and the exits of programs.

An import of this module registers the types of the events. supervisord imports the RPC
interfaces before it reads the sections of event listeners, so that these may name them.
"""

from __future__ import annotations

import time
from typing import Any, Optional

from supervisor import events
from supervisor.options import make_namespec

from supervisor_hotreload.core.model import Outcome
from supervisor_hotreload.core.reload import Reload
from supervisor_hotreload.core.text import printable
from supervisor_hotreload.plugin.log import Log
from supervisor_hotreload.plugin.program import SupervisedProgram


class ProcessHotReloadEvent(events.Event):  # type: ignore[misc] # supervisor is untyped
    """Abstract: an event of the reload of one program.

    :param tokens: the payload. Its keys and values have no spaces and no colons: clients
        split at both (supervisor.childutils.get_headers).
    """

    def __init__(self, tokens: dict[str, object]) -> None:
        self.tokens = tokens

    def payload(self) -> str:
        return " ".join(f"{key}:{_token(value)}" for key, value in self.tokens.items())


class ProcessHotReloadStartedEvent(ProcessHotReloadEvent):
    """The reload has begun."""


class ProcessHotReloadSucceededEvent(ProcessHotReloadEvent):
    """The new generation is the only one."""


class ProcessHotReloadRolledBackEvent(ProcessHotReloadEvent):
    """An operator or a check has refused the successor, and the old generation serves."""


class ProcessHotReloadFailedEvent(ProcessHotReloadEvent):
    """The reload has failed."""


NAMES = {
    "PROCESS_HOTRELOAD": ProcessHotReloadEvent,
    "PROCESS_HOTRELOAD_STARTED": ProcessHotReloadStartedEvent,
    "PROCESS_HOTRELOAD_SUCCEEDED": ProcessHotReloadSucceededEvent,
    "PROCESS_HOTRELOAD_ROLLED_BACK": ProcessHotReloadRolledBackEvent,
    "PROCESS_HOTRELOAD_FAILED": ProcessHotReloadFailedEvent,
}

for _name, _type in NAMES.items():
    events.register(_name, _type)

ENDS = {
    Outcome.SUCCEEDED: ProcessHotReloadSucceededEvent,
    Outcome.ROLLED_BACK: ProcessHotReloadRolledBackEvent,
    Outcome.FAILED: ProcessHotReloadFailedEvent,
}


class Announcer:
    """Sends the events of every reload.

    :param log: gets the traceback of a subscriber that raises; the reload goes on.
    """

    def __init__(self, log: Log) -> None:
        self.instance = f"{time.monotonic_ns():x}"
        self._log = log
        self._begun: dict[str, int] = {}
        self._latest: dict[str, Reload] = {}

    def announce(self, program: SupervisedProgram, reload: Reload) -> None:
        """Send the event that *reload* has begun, and another one when it ends."""
        serial = self._begun[program.name] = self._begun.get(program.name, 0) + 1
        self._latest[program.name] = reload
        self._notify(ProcessHotReloadStartedEvent(_tokens(program, reload, serial)))
        reload.when_ended(
            lambda ended: self._notify(ENDS[ended.outcome](_tokens(program, ended, serial)))
        )

    def latest(self, name: str) -> Optional[Reload]:
        """Return the latest reload of *name* that has begun."""
        return self._latest.get(name)

    def serial(self, name: str) -> str:
        """Return the id of the latest reload of *name*, unique also among several supervisords."""
        return f"{self.instance}.{self._begun[name]}" if name in self._begun else ""

    def _notify(self, event: ProcessHotReloadEvent) -> None:
        self._log.guarded(lambda: events.notify(event), None, event.payload())


class Exits:
    """Counts the expected exits of every program, also while no event listener runs."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, float]] = {}
        events.subscribe(events.ProcessStateExitedEvent, self._on_exited)

    def of(self, name: str) -> tuple[int, float]:
        """Return how often *name* has exited as expected, and the seconds since the last time."""
        count, when = self._counts.get(name, (0, 0.0))
        return count, time.monotonic() - when if count else 0.0

    def _on_exited(self, event: Any) -> None:
        if event.expected:
            process = event.process
            name = make_namespec(process.group.config.name, process.config.name)
            self._counts[name] = (self._counts.get(name, (0, 0.0))[0] + 1, time.monotonic())


def _tokens(program: SupervisedProgram, reload: Reload, serial: int) -> dict[str, object]:
    return {
        "processname": program.process.config.name,
        "groupname": program.group,
        "generation": program.generations.number,
        "old_pid": reload.old_pid,
        "new_pid": reload.new_pid,
        "reload": serial,
        "outcome": reload.outcome.name,
        "fault": reload.fault.name if reload.fault is not None else "NONE",
        "seconds": f"{reload.seconds:.3f}",
    }


def _token(value: object) -> str:
    return "".join("_" if c.isspace() or c == ":" else c for c in printable(str(value)))
