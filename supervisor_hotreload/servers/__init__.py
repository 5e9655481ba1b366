"""The families of servers, one file each."""

from __future__ import annotations

from supervisor_hotreload.servers.gunicorn import Gunicorn

__all__ = ["Gunicorn"]
