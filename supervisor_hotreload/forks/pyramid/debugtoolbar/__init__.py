"""Shows the debug object on pyramid_debugtoolbar, for `debugtoolbar.includes`."""

from __future__ import annotations

from typing import Any

from .panels.forksafe import PyramidForksafeDebugPanel

__all__ = ["PyramidForksafeDebugPanel", "includeme"]


def includeme(config: Any) -> None:
    """Pyramid's include, for the toolbar."""
    config.add_debugtoolbar_panel(PyramidForksafeDebugPanel)
