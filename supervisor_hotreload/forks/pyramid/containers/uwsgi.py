"""uWSGI for a Pyramid app, for `pyramid.includes` by itself.

The master process is required (`--master`).
"""

from __future__ import annotations

from typing import Any

from ... import uwsgi
from ..bridge import registry_setup

__all__ = ["configure", "includeme"]


def includeme(config: Any) -> None:
    """Pyramid's include for this container alone. Raises MasterRequired."""
    registry_setup(config)
    configure(config)


def configure(config: Any) -> None:
    """Connect uWSGI if the app runs there, and note in the debug object whether it does.

    Raises MasterRequired under a uWSGI without its master process.
    """
    debug = config.registry.pyramid_forksafe
    if not uwsgi.connect():
        debug["autoconfigure.log"].append("uWSGI not available")
        return
    debug["environment"] = "uWSGI"
    debug["autoconfigure.log"] += ["uWSGI available", "uWSGI hook configured"]
    debug["status"] = "uWSGI hook configured"
