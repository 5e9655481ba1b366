"""gunicorn's hooks for a Pyramid app: `from ... import pre_fork, post_fork, post_worker_init`.

Like those of pyramid_forksafe they load the app where they first need it. With `pre_fork` imported
that is the master, and the workers share the app as under preload. The hooks of `forks.gunicorn`
do not load it.
"""

from __future__ import annotations

from typing import Any

from ... import gunicorn
from ..bridge import connect, registry_setup

__all__ = ["includeme", "mark_configured", "post_fork", "post_worker_init", "pre_fork"]


def includeme(config: Any) -> None:
    """Pyramid's include for this container alone."""
    registry_setup(config)


def mark_configured(registry: Any) -> None:
    """Note in the debug object of *registry* that gunicorn's config file imports the hooks."""
    debug = registry.pyramid_forksafe
    debug["environment"] = "gunicorn"
    debug["autoconfigure.log"].append("gunicorn mark_configured")
    debug["status"] = "gunicorn mark_configured"


@gunicorn.sends_events
def pre_fork(server: Any, worker: Any) -> None:
    """Send ApplicationPreFork, in the master."""
    _load(server.app, server.log)
    gunicorn.pre_fork(server, worker)


@gunicorn.sends_events
def post_fork(server: Any, worker: Any) -> None:
    """Send ApplicationPostFork, in the worker."""
    _load(server.app, server.log)
    gunicorn.post_fork(server, worker)


@gunicorn.sends_events
def post_worker_init(worker: Any) -> None:
    """Send ApplicationPostWorkerInit, in the worker."""
    _load(worker.app, worker.log)
    gunicorn.post_worker_init(worker)


def _load(app: Any, log: Any) -> None:
    """Load gunicorn's *app* and connect its registry, whether or not it includes this package."""
    registry = getattr(app.wsgi(), "registry", None)
    if registry is not None:
        connect(registry)
    else:
        log.debug("The WSGI app has no Pyramid registry: only an app that includes us gets events")
