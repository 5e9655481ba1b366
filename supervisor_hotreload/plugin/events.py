"""The events of a reload, and the event listeners of one supervisord.

Importing this registers the types: supervisord imports the RPC interfaces
before it reads the sections of event listeners, which may then name them.
"""

from __future__ import annotations

import os
import sysconfig
import time
import traceback
from collections.abc import Iterable
from typing import Any, Callable, Optional, Protocol

from supervisor import events
from supervisor.options import EventListenerPoolConfig, make_namespec

from supervisor_hotreload.core.model import Fault, Outcome
from supervisor_hotreload.core.text import printable
from supervisor_hotreload.plugin.log import Log

ROOM = 10_000
"""Events that supervisord keeps for our listener while it is busy or restarts.
The default of 10 overflows when eleven programs start at once."""

BUDGET = 64 << 20
"""Bytes that these may hold of what programs have written."""

CHUNK = 128 << 10
"""Bytes of one PROCESS_LOG event at most (supervisor.options.readfd)."""

LISTENER = "hotreload-listener"
"""What the command of our listener contains."""


class ProcessHotReloadEvent(events.Event):  # type: ignore[misc] # supervisor is untyped
    """Abstract: something about the reload of one program.

    :param tokens: the payload; neither keys nor values hold spaces or colons,
        because others split at them (supervisor.childutils.get_headers).
    """

    def __init__(self, tokens: dict[str, object]) -> None:
        self.tokens = tokens

    def payload(self) -> str:
        return " ".join(f"{key}:{_token(value)}" for key, value in self.tokens.items())


class ProcessHotReloadStartedEvent(ProcessHotReloadEvent):
    """A successor has been asked for."""


class ProcessHotReloadSucceededEvent(ProcessHotReloadEvent):
    """The new generation is the only one."""


class ProcessHotReloadRolledBackEvent(ProcessHotReloadEvent):
    """An operator or a check has refused the successor; the old generation serves."""


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


class Told(Protocol):
    """What is told of a reload."""

    old_pid: int
    new_pid: int
    outcome: Outcome
    fault: Optional[Fault]
    reason: str
    serving: str

    @property
    def seconds(self) -> float: ...

    def when_ended(self, callback: Callable[[Any], None]) -> None: ...


class Program(Protocol):
    """Whose reload it is."""

    process: Any
    generation: int

    @property
    def name(self) -> str: ...

    @property
    def group(self) -> str: ...


class Announcer:
    """Tells every event listener that wants to know about every reload.

    :param log: told when a subscriber raises, which is none of the reload's business.
    """

    def __init__(self, log: Log) -> None:
        self.instance = f"{time.monotonic_ns():x}"
        self._log = log
        self._begun: dict[str, int] = {}
        self._latest: dict[str, Told] = {}

    def announce(self, program: Program, reload: Told) -> None:
        """Tell that *reload* has begun, and later how it ends."""
        serial = self._begun[program.name] = self._begun.get(program.name, 0) + 1
        self._latest[program.name] = reload
        self._notify(ProcessHotReloadStartedEvent(_tokens(program, reload, serial)))
        reload.when_ended(
            lambda ended: self._notify(ENDS[ended.outcome](_tokens(program, ended, serial)))
        )

    def latest(self, name: str) -> Optional[Told]:
        """Return the latest reload of *name* that was begun."""
        return self._latest.get(name)

    def serial(self, name: str) -> str:
        """Return what names the latest reload of *name*, unlike any of another supervisord's."""
        return f"{self.instance}.{self._begun[name]}" if name in self._begun else ""

    def _notify(self, event: ProcessHotReloadEvent) -> None:
        try:
            events.notify(event)
        except Exception:  # noqa: BLE001 - a subscriber's, and not to fail the reload
            self._log.critical(f"hotreload: {event.payload()}: {traceback.format_exc()}")


class Exits:
    """Counts the expected exits of every program, whether a listener listens or not."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, float]] = {}
        events.subscribe(events.ProcessStateExitedEvent, self._on_exited)

    def of(self, name: str) -> tuple[int, float]:
        """Return how often *name* has exited as expected, and seconds since the last time."""
        count, when = self._counts.get(name, (0, 0.0))
        return count, time.monotonic() - when if count else 0.0

    def names(self) -> list[str]:
        return list(self._counts)

    def _on_exited(self, event: Any) -> None:
        if event.expected:
            process = event.process
            name = make_namespec(process.group.config.name, process.config.name)
            self._counts[name] = (self._counts.get(name, (0, 0.0))[0] + 1, time.monotonic())


class Roomy(EventListenerPoolConfig):  # type: ignore[misc] # supervisor is untyped
    """The configuration of a listener pool with room for a burst of events.

    It equals what it was made from, or `supervisorctl reread` would show a change.
    """

    def __init__(self, configured: Any, room: int) -> None:
        self.__dict__.update(configured.__dict__)
        self.configured = configured
        self.buffer_size = max(room, configured.buffer_size)

    def __eq__(self, other: object) -> bool:
        return bool(self.configured == other)

    __hash__ = None  # type: ignore[assignment] # as EventListenerPoolConfig has none


def make_room(groups: Iterable[Any]) -> None:
    """Let the event buffer of our listener hold a burst, but no flood of a program's data."""
    groups = list(groups)
    configs = [process.config for group in groups for process in group.processes.values()]
    largest = max((_captured(config) for config in configs), default=0)
    for pool in filter(is_ours, groups):
        listens = any(
            issubclass(event, events.ProcessLogEvent) for event in pool.config.pool_events
        )
        room = min(ROOM, BUDGET // max(largest, CHUNK if listens else 1))
        pool.config = Roomy(getattr(pool.config, "configured", pool.config), room)


def make_findable(pool: Any) -> None:
    """Let supervisord find our listener where supervisord itself is installed.

    A supervisord of a virtual environment is mostly started without that environment's
    PATH. What PATH has comes first.
    """
    for process in pool.processes.values():
        process.config.get_path = _longer_path(process.config.get_path)


def _longer_path(get_path: Callable[[], list[str]]) -> Callable[[], list[str]]:
    return lambda: [*get_path(), sysconfig.get_path("scripts")]


def hand_over(former: Any, pool: Any) -> None:
    """Give *pool* the events that nobody has taken from *former*, which was removed.

    ``supervisorctl update`` replaces the pool, such as for the password that it lacked.
    """
    pool.event_buffer[:0] = former.event_buffer
    former.event_buffer.clear()


def _captured(config: Any) -> int:
    return max(config.stdout_capture_maxbytes or 0, config.stderr_capture_maxbytes or 0)


def unheard(name: str, pools: Iterable[Any]) -> Optional[str]:
    """Return why no listener of ours ever gets the event *name*, None when one does."""
    wanted = getattr(events.EventTypes, name, None)
    if not isinstance(wanted, type):
        return "supervisor has no such event"
    ours = [pool for pool in pools if is_ours(pool)]
    heard = tuple(event for pool in ours for event in pool.config.pool_events)
    if not ours or issubclass(wanted, heard):
        return None
    return f"{name} is missing in 'events' of [eventlistener:{ours[0].config.name}]"


def ask_listener(name: str, pools: Iterable[Any]) -> bool:
    """Send our listener the request to reload *name*; False when there is none."""
    event = events.RemoteCommunicationEvent("hotreload", name)
    ours = (pool.config.pool_events for pool in pools if is_ours(pool))
    if not any(isinstance(event, tuple(heard)) for heard in ours):
        return False
    events.notify(event)
    return True


def channel(config: Any) -> dict[str, str]:
    """Return what tells a program where supervisord listens to it, if it does.

    The value is the file descriptor (see supervisor's ``stdout_capture_maxbytes``)
    and the inode of the pipe behind it, which a child's descriptor may not be.
    """
    if config.stdout_capture_maxbytes:
        descriptor = 1
    elif config.stderr_capture_maxbytes and not config.redirect_stderr:
        descriptor = 2
    else:
        return {}
    return {"HOTRELOAD_CHANNEL": f"{descriptor}:{os.fstat(descriptor).st_ino}"}


def is_ours(pool: Any) -> bool:
    """Tell whether *pool* is an event listener pool that runs our listener."""
    return hasattr(pool, "event_buffer") and any(
        LISTENER in process.config.command for process in pool.processes.values()
    )


def _tokens(program: Program, reload: Told, serial: int) -> dict[str, object]:
    return {
        "processname": program.process.config.name,
        "groupname": program.group,
        "generation": program.generation,
        "old_pid": reload.old_pid,
        "new_pid": reload.new_pid,
        "reload": serial,
        "outcome": reload.outcome.name,
        "fault": reload.fault.name if reload.fault is not None else "NONE",
        "seconds": f"{reload.seconds:.3f}",
    }


def _token(value: object) -> str:
    return "".join("_" if c.isspace() or c == ":" else c for c in printable(str(value)))
