"""Knows to which release a directory leads: refuses a successor of another one, and says what
to do after a failed reload."""

from __future__ import annotations

import os
from typing import Optional

from supervisor_hotreload.core.model import Fault, Outcome
from supervisor_hotreload.core.reload import Reload
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
        return _resolved(self._directory, self._rights)

    def _runs_in(self, release: str, successor: Process) -> bool:
        directory = self._world.directory(successor)
        return directory is not None and _is_below(directory, release)


def release_advice(
    reload: Reload, world: World, directory: str, rights: Optional[Ids], master: Process
) -> str:
    """Return what to do where *directory* leads to another release than *master* runs, else ''.
    It is '' as well after a *reload* that has succeeded, or that has to be repeated at once.

    The program's PWD names the symlink, so that every generation follows it anew. A worker that
    gunicorn starts later follows it too, and imports a release that may be broken.

    :param directory: the program's directory, with its symlinks as they are configured.
    :param rights: with whose rights the symlinks are followed.
    :return: the end of the sentence about what serves.
    """
    succeeded = reload.adopted or reload.outcome is Outcome.SUCCEEDED
    if succeeded or reload.fault is Fault.RELEASE_MOVED or not world.alive(master):
        return ""
    try:
        release, runs_in = _resolved(directory, rights), world.directory(master)
    except PermissionError:
        return ""
    is_link = release != os.path.abspath(directory)
    if not is_link or runs_in is None or _is_below(runs_in, release):
        return ""
    return (
        f"; {directory} points at {release} now, but it runs {runs_in}: put the link back, or "
        f"whatever is restarted (a worker, the program) loads {release}"
    )


def _resolved(directory: str, rights: Optional[Ids]) -> str:
    with rights_of(rights):
        return os.path.realpath(directory)


def _is_below(path: str, directory: str) -> bool:
    return f"{path}/".startswith(f"{directory.rstrip('/')}/")
