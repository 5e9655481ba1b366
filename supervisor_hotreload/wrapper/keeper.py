"""Adopts the successor of a reload: hotreload-run tracks it from then on."""

from __future__ import annotations

from typing import Protocol

from supervisor_hotreload.core.model import Cancelled
from supervisor_hotreload.core.reload import Reload
from supervisor_hotreload.servers.release_guard import ReleaseGuard
from supervisor_hotreload.system.process import Process


class Tracker(Protocol):
    """What tracks the server of hotreload-run."""

    def expect(self, new: Process) -> None: ...

    def adopt(self, new: Process) -> None: ...

    def again(self) -> None: ...


class Keeper:
    """Adopts the successor of one reload (protocol.Keeper)."""

    def __init__(self, tracker: Tracker, reload: Reload, guard: ReleaseGuard) -> None:
        self._tracker = tracker
        self._reload = reload
        self._guard = guard

    def expect(self, new: Process) -> None:
        self._reload.new_pid = new.pid
        self._tracker.expect(new)

    def adopt(self, new: Process) -> None:
        """Track *new*.

        :raises Cancelled: when the release has moved; then another reload follows.
        """
        refusal = self._guard.refusal(new)
        if refusal:
            self._tracker.again()
            raise Cancelled(f"{refusal}; hotreload-run reloads once more")
        self._tracker.adopt(new)
        self._reload.adopted = True
