"""Sends the fork events from gunicorn's server hooks, for gunicorn's config file.

Write `from supervisor_hotreload.forks.gunicorn import pre_fork, post_fork, post_worker_init,
worker_exit, pre_exec`. Or write `install(globals())` as the last line, after the file's own hooks:
they run too. gunicorn itself is not imported before a hook runs.
"""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, Callable

from . import events, readiness
from .events import PostFork, PostWorkerInit, PreExec, PreFork, WorkerExit

__all__ = ["install", "post_fork", "post_worker_init", "pre_exec", "pre_fork", "worker_exit"]

CONTAINER = "gunicorn"
_MARK = "supervisor_hotreload.forks"  # in the __dict__ of every hook that sends our events

Hook = Callable[..., None]


def sends_events(hook: Hook) -> Hook:
    """Mark *hook* as a sender of fork events, so that `install` does not add ours to it."""
    hook.__dict__[_MARK] = True
    return hook


@sends_events
def pre_fork(server: Any, worker: Any) -> None:
    """Send PreFork. An error stops the master as a worker that fails to boot does (status 3)."""
    objects = {"server": server, "worker": worker}
    event = PreFork(CONTAINER, os.getpid(), server.pid, worker.age, objects)
    try:
        events.emit(event, server.log)
    except Exception as error:
        halt = importlib.import_module("gunicorn.errors").HaltServer
        # Any other exception ends arbiter.run by stop(graceful=False), which cuts requests.
        reason = "Worker failed to boot: a PreFork subscriber raised."
        raise halt(reason, server.WORKER_BOOT_ERROR) from error


@sends_events
def post_fork(server: Any, worker: Any) -> None:
    """Send PostFork. An error fails the worker's boot (arbiter.spawn_worker)."""
    objects = {"server": server, "worker": worker}
    events.emit(PostFork(CONTAINER, os.getpid(), server.pid, worker.age, objects), server.log)


@sends_events
def post_worker_init(worker: Any) -> None:
    """Send PostFork to the app's subscribers, then PostWorkerInit; report readiness later.

    An error fails the worker's boot (arbiter.spawn_worker).
    """
    events.catch_up(worker.log)
    event = PostWorkerInit(CONTAINER, os.getpid(), worker.ppid, worker.age, {"worker": worker})
    events.emit(event, worker.log)
    events.app_is_loaded()
    if readiness.wanted():
        _announce_with_first_heartbeat(worker)


@sends_events
def worker_exit(server: Any, worker: Any) -> None:
    """Send WorkerExit, in the worker only (arbiter.kill_worker calls this in the master too)."""
    if os.getpid() != worker.pid:
        return
    objects = {"server": server, "worker": worker}
    events.emit(WorkerExit(CONTAINER, worker.pid, server.pid, worker.age, objects), server.log)


@sends_events
def pre_exec(server: Any) -> None:
    """Send PreExec. An error ends this child alone: the old master serves on."""
    with _a_failure_ends_only_this_child(server):
        event = PreExec(CONTAINER, os.getpid(), server.pid, None, {"server": server})
        events.emit(event, server.log)


@contextmanager
def _a_failure_ends_only_this_child(server: Any) -> Iterator[None]:
    """End the child of arbiter.reexec on an error, before that harms the old generation.

    gunicorn itself would run the 'unhandled exception' branch of arbiter.run in the child. That
    sends QUIT to the workers of the old master and unlinks its pidfile.
    """
    try:
        yield
    except Exception:
        server.log.exception("pre_exec failed: no new master, %s serves on", server.pid)
        os._exit(1)  # not 3 or 4, which the arbiter takes for a worker that cannot boot


def _announce_with_first_heartbeat(worker: Any) -> None:
    """Report readiness when the run loop starts: an ASGI lifespan runs after post_worker_init."""
    heartbeat = worker.notify

    def first_heartbeat() -> None:
        worker.notify = heartbeat
        heartbeat()
        readiness.announce(worker.pid, worker.ppid, worker.log)

    worker.notify = first_heartbeat


def _honour_winch(server: Any) -> None:
    """Make a foreground master answer SIGWINCH as a daemonized one does (arbiter.handle_winch)."""

    def handle_winch() -> None:
        if _owns_a_terminal():
            server.log.info("SIGWINCH ignored: a terminal sends it whenever it is resized")
            return
        server.log.info("graceful stop of workers")
        server.num_workers = 0
        server.kill_workers(signal.SIGTERM)

    server.handle_winch = handle_winch


def _owns_a_terminal() -> bool:
    """Tell whether its terminal signals this process on a resize: it is in the foreground."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


HOOKS: dict[str, Hook] = {
    hook.__name__: hook for hook in (pre_fork, post_fork, post_worker_init, worker_exit, pre_exec)
}


def install(namespace: MutableMapping[str, Any], *, honour_winch: bool = False) -> None:
    """Put the hooks into gunicorn's config *namespace*; call it last, as `install(globals())`.

    A hook that the file has already, a function or an import string, runs before ours. With
    *honour_winch* a master in the foreground answers SIGWINCH as a daemonized one: its workers
    stop gracefully, it stays, and HUP brings the workers back. It is set when the master starts.

    Raises TypeError if a hook of the file cannot be called or imported.
    """
    hooks = {**HOOKS, "when_ready": _honour_winch} if honour_winch else HOOKS
    for name, hook in hooks.items():
        earlier = namespace.get(name)
        namespace[name] = hook if earlier is None else _chain(name, earlier, hook)


def _chain(name: str, earlier: Any, ours: Hook) -> Hook:
    """Return a hook that runs *earlier* and then *ours*, with the arguments that gunicorn gives."""
    first = _import_hook(name, earlier)
    if first is ours or _MARK in getattr(first, "__dict__", {}):
        return first

    def with_server_and_worker(server: Any, worker: Any) -> None:
        first(server, worker)
        ours(server, worker)

    def with_one(server_or_worker: Any) -> None:
        first(server_or_worker)
        ours(server_or_worker)

    def guarded(server: Any) -> None:
        with _a_failure_ends_only_this_child(server):
            first(server)
        ours(server)

    if name == "pre_exec":
        return sends_events(guarded)
    takes_two = name in ("pre_fork", "post_fork", "worker_exit")
    return sends_events(with_server_and_worker if takes_two else with_one)


def _import_hook(name: str, hook: Any) -> Hook:
    """Return the function that gunicorn would call for *hook* (config.validate_callable)."""
    function = hook
    if isinstance(hook, str):
        module, _, attribute = hook.rpartition(".")
        try:
            function = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise TypeError(f"the hook {name} = {hook!r} cannot be imported: {error}") from error
    if not callable(function):
        raise TypeError(f"the hook {name} = {hook!r} cannot be called")
    return function  # type: ignore[no-any-return]  # checked above, its arity by gunicorn
