"""Sends the fork events from uWSGI's hooks. An app connects them when it subscribes.

uWSGI calls Python after a fork (uwsgidecorators.postfork) and when a worker exits (uwsgi.atexit).
It has no hook for PreFork and PreExec, and none between an app's loading and its first request.
"""

from __future__ import annotations

import importlib
import os
from typing import Any, Optional

from . import events
from .events import PostFork, PostWorkerInit, WorkerExit, logger

CONTAINER = "uWSGI"
FAILED_APP = 22  # UWSGI_FAILED_APP_CODE: uWSGI's own status for a worker that cannot load its app


class MasterRequired(RuntimeError):
    """uWSGI runs without its master process, and so without fork hooks."""

    def __init__(self) -> None:
        # the message of uwsgidecorators, which pyramid_forksafe shows
        super().__init__("you have to enable the uWSGI master process to use this module")


class _Connection:
    """The uWSGI in which this process runs, once it is connected."""

    module: Any = None


def server() -> Optional[Any]:
    """Return the `uwsgi` module, which exists inside uWSGI only, or None."""
    try:
        return importlib.import_module("uwsgi")
    except ImportError:
        return None


def connect_if_it_forks() -> None:
    """Connect under uWSGI. A single process without a master never forks: log a warning.

    Raises MasterRequired if there are workers but no master.
    """
    try:
        connect()
    except MasterRequired as error:
        uwsgi = server()
        if uwsgi is None or uwsgi.numproc > 1:
            raise
        logger.warning("no fork event will be sent: uWSGI does not fork here; %s", error)


def connect() -> bool:
    """Let uWSGI send the fork events from now on; return whether this is uWSGI.

    Raises MasterRequired, or ImportError where uWSGI was packaged without uwsgidecorators.
    """
    uwsgi = server()
    if uwsgi is None:
        return False
    if uwsgi.masterpid() == 0:
        raise MasterRequired
    if _Connection.module is None:
        importlib.import_module("uwsgidecorators").postfork(_post_fork)
        _chain_atexit(uwsgi)
        _Connection.module = uwsgi
        if uwsgi.worker_id() > 0:  # lazy-apps: this process was forked before the app was loaded
            events.remember(_event(PostFork))
            events.app_is_loaded()
    return True


def _event(event_type: Any) -> Any:
    uwsgi = _Connection.module
    return event_type(
        CONTAINER, os.getpid(), uwsgi.masterpid(), uwsgi.worker_id(), {"uwsgi": uwsgi}
    )


def _post_fork() -> None:
    """Send PostFork and, as the app was loaded before the fork, PostWorkerInit."""
    uwsgi = _Connection.module
    try:
        events.emit(_event(PostFork))
        if uwsgi.worker_id() > 0 and not _loads_after_fork(uwsgi):
            events.emit(_event(PostWorkerInit))
    except Exception:  # noqa: BLE001 - whatever an app raises, uWSGI would serve on
        logger.exception("uWSGI worker %s does not serve", uwsgi.worker_id())
        os._exit(FAILED_APP)
    events.app_is_loaded()


def _loads_after_fork(uwsgi: Any) -> bool:
    return any(option in uwsgi.opt for option in ("lazy", "lazy-apps"))


def _chain_atexit(uwsgi: Any) -> None:
    earlier = getattr(uwsgi, "atexit", None)

    def at_exit() -> None:
        if uwsgi.worker_id() > 0:  # the master and the mules come here too
            events.emit(_event(WorkerExit))
        if earlier is not None:
            earlier()

    uwsgi.atexit = at_exit
