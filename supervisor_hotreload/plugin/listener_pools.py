"""The event listener pools of one supervisord that run hotreload-listener."""

from __future__ import annotations

import os
import sysconfig
import time
from collections.abc import Iterable
from typing import Any, Callable

from supervisor import events
from supervisor.options import EventListenerPoolConfig

BUFFER_EVENTS = 10_000
"""Events that wait for our listener at most, while it is busy or restarts. The default of
10 overflows when eleven programs start at once."""

BUFFER_BYTES = 64 << 20
"""Bytes of memory that these may take at most, where programs write into them."""

LOG_EVENT_BYTES = 128 << 10
"""Bytes of one PROCESS_LOG event at most (supervisor.options.readfd)."""

LISTENER = "hotreload-listener"
"""A word that the command of our listener contains."""


class LargerPoolConfig(EventListenerPoolConfig):  # type: ignore[misc] # supervisor is untyped
    """The configuration of a listener pool with a larger buffer.

    It equals the one in the file: `supervisorctl reread` must not show a change.

    :param buffer_size: events; the configured number where that is larger.
    """

    def __init__(self, configured: Any, buffer_size: int) -> None:
        self.__dict__.update(configured.__dict__)
        self.configured = configured
        self.buffer_size = max(buffer_size, configured.buffer_size)

    def __eq__(self, other: object) -> bool:
        return bool(self.configured == other)

    __hash__ = None  # type: ignore[assignment] # as EventListenerPoolConfig has none


def make_room(groups: Iterable[Any]) -> None:
    """Give our listener an event buffer for a burst of events.

    A program may write as much as it likes into events, so that their bytes are limited too.
    """
    groups = list(groups)
    configs = [process.config for group in groups for process in group.processes.values()]
    captured = [(c.stdout_capture_maxbytes, c.stderr_capture_maxbytes) for c in configs]
    largest = max((size or 0 for both in captured for size in both), default=0)
    for pool in filter(is_ours, groups):
        listens = any(
            issubclass(event, events.ProcessLogEvent) for event in pool.config.pool_events
        )
        size = min(BUFFER_EVENTS, BUFFER_BYTES // max(largest, LOG_EVENT_BYTES if listens else 1))
        pool.config = LargerPoolConfig(getattr(pool.config, "configured", pool.config), size)


def _longer_path(get_path: Callable[[], list[str]]) -> Callable[[], list[str]]:
    """Return what finds our listener where supervisord itself is installed, too.

    A supervisord of a virtual environment often runs without the PATH of that environment.
    The directories in PATH come first.
    """
    return lambda: [*get_path(), sysconfig.get_path("scripts")]


def why_not_received(name: str, pools: Iterable[Any]) -> str:
    """Return why no listener of ours receives the event *name*, '' when one does."""
    wanted = getattr(events.EventTypes, name, None)
    if not isinstance(wanted, type):
        return "supervisor has no such event"
    ours = [pool for pool in pools if is_ours(pool)]
    received = tuple(event for pool in ours for event in pool.config.pool_events)
    if not ours or issubclass(wanted, received):
        return ""
    return f"{name} is missing in 'events' of [eventlistener:{ours[0].config.name}]"


def ask_listener(name: str, pools: Iterable[Any]) -> bool:
    """Send our listener the request to reload *name*; False when there is none."""
    event = events.RemoteCommunicationEvent("hotreload", name)
    received = (pool.config.pool_events for pool in pools if is_ours(pool))
    if not any(isinstance(event, tuple(types)) for types in received):
        return False
    events.notify(event)
    return True


def channel(config: Any) -> dict[str, str]:
    """Return the variable that names the descriptor on which supervisord takes requests.

    supervisord takes them where ``stdout_capture_maxbytes`` or ``stderr_capture_maxbytes`` is
    set. The value is the file descriptor and the inode of its pipe: a child of the program
    may have another file there.
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


class ListenerPools:
    """Prepares each pool of ours when supervisord starts or adds it."""

    def __init__(self) -> None:
        self._pools: dict[str, Any] = {}
        self._since = 0.0

    def add(self, pool: Any) -> None:
        """Prepare *pool*, if it is ours. It gets the events that a pool of that name has left:
        ``supervisorctl update`` replaces a pool, for example to give the listener a password."""
        if not is_ours(pool):
            return
        for process in pool.processes.values():
            process.config.get_path = _longer_path(process.config.get_path)
        former = self._pools.get(pool.config.name)
        if former is not None:
            pool.event_buffer[:0] = former.event_buffer
            former.event_buffer.clear()
        self._pools[pool.config.name] = pool
        self._since = self._since or time.monotonic()

    def age(self) -> float:
        """Return the seconds since the first pool of ours was added, 0.0 without one."""
        return time.monotonic() - self._since if self._since else 0.0
