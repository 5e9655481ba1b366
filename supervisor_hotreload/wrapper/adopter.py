"""Adopts the successor of a reload: hotreload-run tracks it from then on."""

from __future__ import annotations

from typing import Callable

from supervisor_hotreload.core.model import Cancelled
from supervisor_hotreload.core.reload import Reload
from supervisor_hotreload.servers.release_guard import ReleaseGuard
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.wrapper.others import OtherGenerations


class WrapperAdopter:
    """Lets hotreload-run adopt the successor of one reload (protocol.Adopter).

    :param reload_again: asks for another reload, after this one.
    """

    def __init__(
        self,
        reload: Reload,
        generations: OtherGenerations,
        guard: ReleaseGuard,
        reload_again: Callable[[], None],
    ) -> None:
        self._reload = reload
        self._generations = generations
        self._guard = guard
        self._reload_again = reload_again

    def expect(self, new: Process) -> None:
        """Let *new* inherit the server should the old master die before the adoption."""
        self._reload.new_pid = new.pid
        self._generations.expect(new)

    def adopt(self, new: Process) -> None:
        """Track *new* from now on.

        :raises Cancelled: when the release has moved while *new* booted; another reload follows.
        """
        refusal = self._guard.refusal(new)
        if refusal:
            self._reload_again()
            raise Cancelled(f"{refusal}; hotreload-run reloads once more")
        self._generations.adopt(new)
        self._reload.commit()
