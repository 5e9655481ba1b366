"""The only part that touches supervisord's internals."""

from __future__ import annotations

from supervisor_hotreload.adoption.check import CheckCommand
from supervisor_hotreload.adoption.events import Announcer, Exits, ask_listener, unheard
from supervisor_hotreload.adoption.log import Log
from supervisor_hotreload.adoption.settings import SettingsFile
from supervisor_hotreload.adoption.supervised import SeamMissing, Supervised
from supervisor_hotreload.adoption.tracked import Desk, Tracked

__all__ = [
    "Announcer",
    "CheckCommand",
    "Desk",
    "Exits",
    "Log",
    "SeamMissing",
    "SettingsFile",
    "Supervised",
    "Tracked",
    "ask_listener",
    "unheard",
]
