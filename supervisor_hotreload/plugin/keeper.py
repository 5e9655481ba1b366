"""Takes the successor of a reload as the program's own: supervisord keeps it from then on."""

from __future__ import annotations

import os

from supervisor_hotreload.core.model import Failure, Fault
from supervisor_hotreload.core.reload import Reload
from supervisor_hotreload.plugin.program import SupervisedProgram
from supervisor_hotreload.system.credentials import rights_of
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World


class Keeper:
    """Lets supervisord keep the successor of one program (protocol.Keeper)."""

    def __init__(self, reload: Reload, tracked: SupervisedProgram, world: World) -> None:
        self._reload = reload
        self._tracked = tracked
        self._world = world
        self._release = self._resolved()

    def expect(self, new: Process) -> None:
        self._reload.new_pid = new.pid
        self._tracked.successor = new

    def adopt(self, new: Process) -> None:
        self._must_not_have_moved(new)
        self._tracked.adopt(new)
        self._reload.adopted = True
        self._reload.say(
            f"adopted: pid {new.pid} is the program's own now, generation "
            f"{self._tracked.generation}"
        )

    def commit(self) -> None:
        """Know that nothing leads back from now on; the tracked process stays."""
        self._reload.adopted = True

    def _resolved(self) -> str:
        """Return what ``directory`` points to now; its links may be the program's user's."""
        with rights_of(self._tracked.rights):
            return os.path.realpath(self._tracked.directory)

    def _must_not_have_moved(self, new: Process) -> None:
        """Refuse a successor that has booted in what ``directory`` pointed to before.

        It would re-exec there for ever: gunicorn keeps the resolved path when
        PWD and its directory are not the same any more (gunicorn util.getcwd).
        """
        directory = self._tracked.directory
        now = self._resolved()
        if now != self._release and self._world.directory(new) == self._release:
            raise Failure(
                Fault.RELEASE_MOVED,
                f"{directory} was moved to {now} while the successor ({new}) booted in "
                f"{self._release}; reload again",
            )
