"""Takes a successor for the server, unless the release has moved under it."""

from __future__ import annotations

import os
from typing import Protocol

from supervisor_hotreload.core.model import Cancelled
from supervisor_hotreload.core.reload import Reload
from supervisor_hotreload.system.process import Process


class Tracker(Protocol):
    """Whoever tracks the server: the runner."""

    def expect(self, new: Process) -> None: ...

    def adopt(self, new: Process) -> None: ...

    def again(self) -> None: ...


class Keeper:
    """Lets the wrapper keep the successor (protocol.Keeper).

    A gunicorn that starts while the symlink it was started in moves to another
    release takes the directory that it finds for its own, and every later
    re-exec of it starts there again (gunicorn util.getcwd, arbiter.reexec):
    such a successor is ended, and the old generation asked for another one.

    :param folder: the working directory, as it was written.
    """

    def __init__(self, runner: Tracker, reload: Reload, folder: str) -> None:
        self._runner = runner
        self._reload = reload
        self._folder = folder
        self._release = os.path.realpath(folder)

    def expect(self, new: Process) -> None:
        self._reload.new_pid = new.pid
        self._runner.expect(new)

    def adopt(self, new: Process) -> None:
        """:raises Cancelled: when the working directory has moved during the reload."""
        release = os.path.realpath(self._folder)
        if release != self._release:
            self._runner.again()
            raise Cancelled(
                f"{self._folder} moved from {self._release} to {release} while the successor "
                f"started: once more"
            )
        self._runner.adopt(new)
        self._reload.adopted = True
