"""The panel with the debug object."""
# mypy: disable-error-code="import-untyped,import-not-found,misc"
# (pyramid_debugtoolbar ships no type information, its classes are Any)

from __future__ import annotations

from html import escape
from pprint import pformat
from typing import Any

from pyramid_debugtoolbar.panels import DebugPanel

NOTE = (
    "The toolbar runs under a server with a single process: no fork, hence no executed hook, is "
    "what this panel should show. None means that the app does not include "
    "supervisor_hotreload.forks.pyramid."
)


class PyramidForksafeDebugPanel(DebugPanel):
    """Shows `registry.pyramid_forksafe` as it is at the request."""

    name = "Forksafe"
    title = name
    nav_title = name
    has_content = True

    def __init__(self, request: Any) -> None:
        self.data = {"registry_data": getattr(request.registry, "pyramid_forksafe", None)}

    def render_content(self, request: Any) -> str:
        """Return the panel's HTML; what the app put into the object is escaped."""
        return f"<p>{escape(NOTE)}</p>\n<pre>{escape(pformat(self.data['registry_data']))}</pre>"
