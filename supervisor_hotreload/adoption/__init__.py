"""The only part that touches supervisord's internals."""

from __future__ import annotations

from supervisor_hotreload.adoption.check import CheckCommand
from supervisor_hotreload.adoption.settings import SettingsFile
from supervisor_hotreload.adoption.supervised import SeamMissing, Supervised
from supervisor_hotreload.adoption.tracked import Desk, Tracked

__all__ = ["CheckCommand", "Desk", "SeamMissing", "SettingsFile", "Supervised", "Tracked"]
