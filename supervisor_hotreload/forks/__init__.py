"""Sends fork events: one set of hooks for gunicorn and uWSGI, for any app.

`subscribe` registers a function for an event. gunicorn's config file imports `forks.gunicorn`,
`forks.uwsgi` connects by itself, `forks.pyramid` turns the events into Pyramid's. Only the
standard library is imported here, so an app may subscribe under any server.
"""

from __future__ import annotations

from typing import Callable, Optional, TypeVar, Union, overload

from . import events, uwsgi
from .events import ForkEvent, PostFork, PostWorkerInit, PreExec, PreFork, WorkerExit

__all__ = [
    "ForkEvent",
    "PostFork",
    "PostWorkerInit",
    "PreExec",
    "PreFork",
    "WorkerExit",
    "subscribe",
]

Event = TypeVar("Event", bound=ForkEvent)
Subscriber = Callable[[Event], object]


@overload
def subscribe(
    event_type: type[Event], function: Subscriber[Event], *, on_error: str = "fail"
) -> Subscriber[Event]: ...


@overload
def subscribe(
    event_type: type[Event], *, on_error: str = "fail"
) -> Callable[[Subscriber[Event]], Subscriber[Event]]: ...


def subscribe(
    event_type: type[Event],
    function: Optional[Subscriber[Event]] = None,
    *,
    on_error: str = "fail",
) -> Union[Subscriber[Event], Callable[[Subscriber[Event]], Subscriber[Event]]]:
    """Call *function* with each event of *event_type*; without *function*, be its decorator.

    *on_error* says what happens when the function raises: `"fail"` (a fork-unsafe worker must not
    serve: its boot fails) or `"continue"` (the error is logged, the worker goes on). Without
    preload a function subscribes to PostFork after its worker was forked. It gets the event all
    the same, with `event.late` true: once the app is loaded, or at once if the server has no hook
    for that moment. A second subscription of the same function only sets *on_error*.

    Raises TypeError and ValueError for arguments of the wrong kind, and MasterRequired under a
    uWSGI that forks workers without a master process.
    """

    def add(function: Subscriber[Event]) -> Subscriber[Event]:
        events.register(event_type, function, on_error)
        uwsgi.connect_if_it_forks()
        events.catch_up_if_loaded()
        return function

    return add if function is None else add(function)
