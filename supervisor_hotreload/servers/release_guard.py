"""Refuses a successor when the release has moved while it booted."""

from __future__ import annotations

import os
from typing import Optional

from supervisor_hotreload.system.credentials import Ids, rights_of
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World


class ReleaseGuard:
    """Knows to which release a program's directory led when a reload began.

    A deploy may switch a symlink of the directory while the successor boots. The successor
    then runs the release before. gunicorn also takes the resolved path of that release for its
    own directory, and starts every later successor there (gunicorn util.getcwd,
    arbiter.reexec).

    :param directory: the program's directory, with its symlinks as they are configured.
    :param rights: with whose rights the symlinks are followed: they may be the program user's.
    :raises PermissionError: when nobody's rights are given.
    """

    def __init__(self, world: World, directory: str, rights: Optional[Ids]) -> None:
        self._world = world
        self._directory = directory
        self._rights = rights
        self._release = self._resolve()

    def refusal(self, successor: Process) -> str:
        """Return why *successor* must not be adopted, '' where the release has not moved or it
        runs in the new one. A successor whose working directory is hidden is refused too."""
        release = self._resolve()
        if release == self._release or self._runs_in(release, successor):
            return ""
        return (
            f"{self._directory} was moved to {release} while the successor ({successor}) booted "
            f"in {self._release}"
        )

    def _resolve(self) -> str:
        with rights_of(self._rights):
            return os.path.realpath(self._directory)

    def _runs_in(self, release: str, successor: Process) -> bool:
        directory = self._world.directory(successor)
        return directory is not None and f"{directory}/".startswith(f"{release.rstrip('/')}/")
