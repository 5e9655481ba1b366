"""The fork events as Pyramid events; takes the place of pyramid_forksafe 0.2, name by name.

`config.include("supervisor_hotreload.forks.pyramid")` or `pyramid.includes` in the ini file.
"""

from __future__ import annotations

import logging
from typing import Any

from .bridge import registry_setup

__all__ = ["includeme", "registry_setup"]

log = logging.getLogger(__name__)


def includeme(config: Any) -> None:
    """Pyramid's include: connect uWSGI if the app runs there. gunicorn has hooks of its own.

    A uWSGI without its master process does not fail the app: the debug object and the log show it.
    """
    from ..uwsgi import MasterRequired
    from .containers import uwsgi

    registry_setup(config)
    debug = config.registry.pyramid_forksafe
    try:
        uwsgi.configure(config)
    except (ImportError, MasterRequired) as error:
        debug["autoconfigure.log"].append(f"uWSGI error: {error}")
        debug["status"] = "uWSGI error"
        log.error("uWSGI error: %s; no fork event will be sent", error)
        return
    if debug["environment"] is None:
        log.info(
            "This is no uWSGI: gunicorn sends fork events with the hooks in its config file, and a "
            "server that does not fork sends none"
        )
