"""Reload web servers under supervisord without dropping a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supervisor_hotreload.listener.request import request_reload

__version__ = "1.0.0"
__all__ = ["__version__", "request_reload"]


def __getattr__(name: str) -> Any:
    """Import what applications use when they use it."""
    if name == "request_reload":
        from supervisor_hotreload.listener.request import request_reload

        return request_reload
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
