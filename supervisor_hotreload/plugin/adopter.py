"""Makes the successor of a reload the program's own process."""

from __future__ import annotations

from supervisor_hotreload.core.model import Failure, Fault
from supervisor_hotreload.core.reload import Reload
from supervisor_hotreload.plugin.program import SupervisedProgram
from supervisor_hotreload.servers.release_guard import ReleaseGuard
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World


class ProgramAdopter:
    """Lets supervisord adopt the successor of one program (protocol.Adopter)."""

    def __init__(self, reload: Reload, program: SupervisedProgram, world: World) -> None:
        self._reload = reload
        self._program = program
        self._guard = ReleaseGuard(world, program.directory, program.rights)

    def expect(self, new: Process) -> None:
        """Let *new* inherit the program should the old master die before the adoption."""
        self._reload.new_pid = new.pid
        self._program.successor = new

    def adopt(self, new: Process) -> None:
        """Let supervisord track *new* from now on.

        :raises Failure: RELEASE_MOVED when the release has moved while *new* booted.
        """
        refusal = self._guard.refusal(new)
        if refusal:
            raise Failure(Fault.RELEASE_MOVED, f"{refusal}; reload again")
        self._program.adopt(new)
        self._reload.adopted = True
        self._reload.say(
            f"adopted: pid {new.pid} is the program's own process now, "
            f"generation {self._program.generation}"
        )

    def commit(self) -> None:
        """Record the point of no return of a reload in place: the tracked process stays."""
        self._reload.adopted = True
