"""Passes fork events on to the registry of a Pyramid application."""

from __future__ import annotations

import weakref
from typing import Any, Callable

from .. import events
from ..events import ForkEvent, PostFork, PostWorkerInit, PreFork

# container and event -> the hook's name in the debug object; only the events of pyramid_forksafe
HOOKS = {
    ("gunicorn", PreFork): "containers.gunicorn.pre_fork",
    ("gunicorn", PostFork): "containers.gunicorn.post_fork",
    ("gunicorn", PostWorkerInit): "containers.gunicorn.post_worker_init",
    ("uWSGI", PostFork): "containers.uwsgi.post_fork_hook",
}


def registry_setup(config: Any) -> None:
    """Give the registry its debug object; connect the app's registry once the app is created."""
    config.registry.pyramid_forksafe = {
        "status": "attempting auto-configure",
        "autoconfigure.log": [],
        "environment": None,
        "executed_hooks": set(),
    }
    config.add_subscriber(
        lambda created: connect(created.app.registry), "pyramid.interfaces.IApplicationCreated"
    )


def connect(registry: Any) -> None:
    """Send *registry* the application events as long as it lives. A second call does nothing."""
    from .events import ApplicationPostFork, ApplicationPostWorkerInit, ApplicationPreFork

    if getattr(registry, "_hotreload_forks_connected", False):
        return
    registry._hotreload_forks_connected = True
    _pass_on(PreFork, ApplicationPreFork, registry)
    _pass_on(PostFork, ApplicationPostFork, registry)
    _pass_on(PostWorkerInit, ApplicationPostWorkerInit, registry)
    events.catch_up_if_loaded()


def _pass_on(fork_type: type[ForkEvent], application_type: Any, registry: Any) -> None:
    notify = _notifier(weakref.ref(registry), application_type)
    events.register(fork_type, notify)
    weakref.finalize(registry, events.unregister, fork_type, notify).atexit = False


def _notifier(
    reference: weakref.ReferenceType[Any], application_type: Any
) -> Callable[[ForkEvent], None]:
    def notify(fork: ForkEvent) -> None:
        registry = reference()
        hook = HOOKS.get((fork.container, type(fork)))
        if registry is None or hook is None:
            return
        registry.notify(application_type(registry, fork))
        debug = getattr(registry, "pyramid_forksafe", None)
        if debug is not None:
            debug["executed_hooks"].add((hook, application_type.__name__))

    return notify
