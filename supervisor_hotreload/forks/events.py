"""Defines the fork events, remembers who subscribed to them, and delivers them.

Everything here is per process: a forked worker inherits its master's subscriptions.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Callable, ClassVar, Optional

logger = logging.getLogger("supervisor_hotreload.forks")

ON_ERROR = ("fail", "continue")


@dataclass(frozen=True, eq=False)
class ForkEvent:
    """What happened to one worker (or, for PreExec, to the master).

    `container` is 'gunicorn' or 'uWSGI'; `pid` is the process that the event happens in;
    `worker` is gunicorn's age or uWSGI's id of the worker (0: a mule or spooler; None: no worker);
    `objects` holds the container's own: 'server' and 'worker' of gunicorn, 'uwsgi' (the module).
    `late` is true when the function subscribed after the event.
    """

    container: str
    pid: int
    master_pid: int
    worker: Optional[int]
    objects: Mapping[str, Any] = field(repr=False)
    late: bool = False

    # What follows when a subscriber with on_error="fail" raises; None: nothing is left to fail.
    FAILURE: ClassVar[Optional[str]] = "the worker's boot fails"


class PreFork(ForkEvent):
    """In the master, just before it forks a worker. Later workers inherit what a subscriber does.

    gunicorn only. Only subscribers in the master get it: the config file, or an app under preload.
    """


class PostFork(ForkEvent):
    """In the worker, just after the fork: the place to replace what must not be shared."""


class PostWorkerInit(ForkEvent):
    """In the worker, when the app is loaded and it is about to serve."""


class WorkerExit(ForkEvent):
    """In the worker, just before it exits by itself; not when it is killed."""

    FAILURE = None


class PreExec(ForkEvent):
    """In the child that is about to become the next master (USR2); `master_pid` is the old one.

    gunicorn only.
    """

    FAILURE = "no new master is started, the old one serves on"


EVENTS = (PreFork, PostFork, PostWorkerInit, WorkerExit, PreExec)


@dataclass(eq=False)
class Subscription:
    """One function subscribed to one event type; `delivered` is the pid of the last delivery."""

    function: Callable[[Any], object]
    on_error: str
    delivered: int = 0

    @property
    def name(self) -> str:
        """Return the module and the qualified name of the function."""
        function = self.function
        return f"{function.__module__}.{getattr(function, '__qualname__', repr(function))}"


@dataclass
class _State:
    """The state of this process; a forked child starts with a copy of its parent's."""

    forked: Optional[PostFork] = None  # the PostFork of the process that it names
    loaded: int = 0  # the pid of the worker whose app is loaded


_subscriptions: dict[type[ForkEvent], list[Subscription]] = {event: [] for event in EVENTS}
_state = _State()


def register(
    event_type: type[ForkEvent], function: Callable[[Any], object], on_error: str = "fail"
) -> None:
    """Add a subscription, in place of the one that it replaces (see `_replaces`).

    Raises TypeError (not an event, not callable) or ValueError (*on_error* not in ON_ERROR).
    """
    if event_type not in _subscriptions:
        names = ", ".join(event.__name__ for event in EVENTS)
        raise TypeError(f"{event_type!r} is no fork event; there are {names}")
    if not callable(function):
        raise TypeError(f"{function!r} cannot be called with a {event_type.__name__}")
    if on_error not in ON_ERROR:
        raise ValueError(f"on_error is {on_error!r}; it must be one of {', '.join(ON_ERROR)}")
    others = [old for old in _subscriptions[event_type] if not _replaces(function, old.function)]
    _subscriptions[event_type][:] = [*others, Subscription(function, on_error)]


def unregister(event_type: type[ForkEvent], function: Callable[[Any], object]) -> None:
    """Drop *function*'s subscription, if it has one."""
    others = [old for old in _subscriptions[event_type] if old.function is not function]
    _subscriptions[event_type][:] = others


def _replaces(new: Callable[[Any], object], old: Callable[[Any], object]) -> bool:
    """Tell whether *old* is *new* itself, or comes from an earlier execution of new's module.

    gunicorn executes its config file anew on every HUP, in a new namespace of the same name.
    """
    if new is old:
        return True
    new_globals = getattr(new, "__globals__", None)
    old_globals = getattr(old, "__globals__", None)
    if new_globals is None or old_globals is None or new_globals is old_globals:
        return False
    return bool(new_globals.get("__name__") == old_globals.get("__name__"))


def emit(event: ForkEvent, log: Any = logger) -> None:
    """Deliver *event* to its subscribers, in the order in which they subscribed.

    Errors go to *log* (a logger, or gunicorn's) with the event's name. The first error of a
    subscriber with on_error="fail" is raised, unless nothing can fail after this event.
    """
    if isinstance(event, PostFork):
        remember(event)
    for subscription in list(_subscriptions[type(event)]):
        _deliver(subscription, event, log)


def remember(event: PostFork) -> None:
    """Remember the PostFork of this process for later subscribers."""
    _state.forked = event


def app_is_loaded() -> None:
    """Note that this worker's app is loaded: later subscribers get PostFork at once."""
    _state.loaded = os.getpid()


def catch_up_if_loaded() -> None:
    """Deliver this worker's PostFork to a function that subscribed after the app was loaded."""
    if _state.loaded == os.getpid():
        catch_up()


def catch_up(log: Any = logger) -> None:
    """Deliver this process's PostFork to those who have not got it. Raises as `emit` does."""
    event = _state.forked
    if event is None or event.pid != os.getpid():
        return
    for subscription in list(_subscriptions[PostFork]):
        if subscription.delivered != event.pid:
            _deliver(subscription, replace(event, late=True), log)


def _deliver(subscription: Subscription, event: ForkEvent, log: Any) -> None:
    name = type(event).__name__
    subscription.delivered = event.pid
    try:
        subscription.function(event)
    except Exception as error:
        if subscription.on_error == "continue" or event.FAILURE is None:
            log.exception("%s: the subscriber %s raised; going on", name, subscription.name)
            return
        log.error(
            "%s: the subscriber %s raised %r; %s", name, subscription.name, error, event.FAILURE
        )
        raise
