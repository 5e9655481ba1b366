"""nginx: HUP reads the configuration again, USR2 starts a new binary beside the old one.

nginx's documentation ('Controlling nginx', 'Upgrading Executable on the Fly') has a step WINCH
before QUIT. It is left out: with 'daemon off' nginx ignores WINCH until it has been upgraded
once (ngx_signal_handler: ngx_daemonized), and QUIT lets the workers finish as well.

nginx ignores USR2 while its parent is the process that started it, and a QUIT after that would
end the service. So such an upgrade is refused, and QUIT goes only to a master whose successor
is adopted.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Optional

from supervisor_hotreload.core.model import Failure, Fault, Policy
from supervisor_hotreload.servers.base import AcceptingFamily, Strategy
from supervisor_hotreload.servers.command_line import STUBS, StartCommand, among, assigned, behind
from supervisor_hotreload.servers.generation import (
    AcceptingGeneration,
    Generation,
    accepting_generation,
    shares_socket,
)
from supervisor_hotreload.servers.in_place import InPlaceReload
from supervisor_hotreload.servers.launchers import must_spare_successor
from supervisor_hotreload.servers.program import Program
from supervisor_hotreload.servers.readiness import STEADY_SECONDS, Probe
from supervisor_hotreload.servers.reexec import Reexec
from supervisor_hotreload.servers.trial import Trial
from supervisor_hotreload.system.command import RunAs
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World

STUB = "hotreload-orphan"


@dataclass
class NginxGeneration(AcceptingGeneration):
    """An nginx with its workers.

    :param command: how it is started, None when that is not clear.
    """

    command: Optional[StartCommand] = None


class NginxReexec(Reexec):
    """One upgrade of an nginx, bound to its old generation.

    A stub may stand before nginx. It leaves first: nginx obeys USR2 once its parent has changed.
    """

    def __init__(
        self, world: World, old: NginxGeneration, policy: Policy, probe: Probe, program: Program
    ) -> None:
        super().__init__(world, old, policy, probe)
        self._program = program
        self._asked = False

    def reexec(self) -> None:
        """Ask the stub to leave, or, where there is none, nginx for a successor."""
        if self._has_stub():
            self._world.signal(self._old.tracked, "USR2")
        else:
            self._ask()

    def successor(self) -> Optional[Process]:
        if not self._asked and self.serving() and not self._has_stub():
            self._ask()
        return super().successor()

    def _ask(self) -> None:
        self._asked = True
        super().reexec()

    def _has_stub(self) -> bool:
        return stub_of(self._world, self._old, self._program) is not None


class NginxFamily(AcceptingFamily[NginxGeneration]):
    """Recognised by its name; its workers are the children that accept."""

    name = "nginx"
    binaries = frozenset({"nginx"})
    orphan_signal = "QUIT"
    ended_by_hup = False
    strategies = {  # noqa: RUF012 - a table, never changed
        "graceful": Strategy(True, True, "HUP: new workers with the configuration as it is now"),
        "upgrade": Strategy(False, True, "USR2: a new binary beside the old one"),
    }

    def is_named_in(self, program: Program) -> bool:
        return started(program) is not None

    def survey(self, world: World, tracked: Process, program: Program) -> Optional[NginxGeneration]:
        found = accepting_generation(world, tracked, lambda process: _is_nginx(world, process))
        if found is None:
            return None
        # a start script that execs nginx leaves it its other children
        found.accepting = frozenset(w for w in found.accepting if _is_nginx(world, w))
        return found.refined(NginxGeneration, command=started(program))

    def lacks(self, program: Program) -> str:
        return (
            "nginx workers yet: no child of its master accepts connections (with "
            "'master_process off' it has none, and cannot be reloaded)"
        )

    def admit(self, world: World, old: NginxGeneration, policy: Policy, program: Program) -> None:
        """Refuse an upgrade that nginx would ignore."""
        if policy.strategy != "upgrade":
            return
        must_spare_successor(world, program, old)
        if stub_of(world, old, program) is not None:
            return
        status = world.status(old.master.pid)
        starters = {old.tracked.pid} if old.tracked != old.master else set()
        if status is not None and status.group == old.master.pid:
            starters.add(world.own_pid())  # supervisord gives what it spawns a group of its own
        if status is not None and status.parent in starters:
            raise Failure(
                Fault.NOT_RELOADABLE,
                f"{program.name}: {old.master} ignores USR2 while its parent is the process that "
                f"started it; nothing was sent. Start it once by: command = {_stub()} "
                f"{program.command}",
            )

    def trial(self, world: World, old: NginxGeneration, program: Program) -> Optional[Trial]:
        """Return ``nginx -t``, in the directory and environment that its wrappers set."""
        command = old.command
        if command is None or command.why:
            return None
        words: tuple[str, ...] = (command.binary, *command.words, "-t")
        if command.directory != program.directory:
            words = ("sh", "-c", 'cd "$0" && exec "$@"', command.directory, *words)
        run_as, given = RunAs(program.user), assigned(program, command.environment)
        return Trial(words, "nginx -t", run_as, given)

    def why_no_trial(self, old: NginxGeneration) -> str:
        return "no nginx is found in its command" if old.command is None else old.command.why

    def server(
        self, world: World, old: NginxGeneration, policy: Policy, program: Program
    ) -> NginxReexec:
        return NginxReexec(world, old, policy, self.probe(world, old, policy.ready), program)

    def in_place(
        self, world: World, old: NginxGeneration, policy: Policy, program: Program
    ) -> InPlaceReload:
        def ask() -> bool:
            return world.signal(old.master, "HUP")

        return InPlaceReload(world, old, policy, ask, STEADY_SECONDS)

    def is_master(self, world: World, process: Process) -> bool:
        return _is_nginx(world, process) and shares_socket(world, process)


def stub_of(world: World, old: Generation, program: Program) -> Optional[Process]:
    """Return the stub between supervisord and the master, None without one.

    The operator's own command says that it is one.
    """
    status = world.status(old.master.pid)
    words = [os.path.basename(word) for word in program.words]
    if STUBS.isdisjoint(words[:5]) or old.tracked == old.master or status is None:
        return None
    return old.tracked if status.parent == old.tracked.pid else None


def _stub() -> str:
    """Return the stub's path where it is installed with this package: PATH may lack it."""
    beside = os.path.join(os.path.dirname(sys.executable), STUB)
    return beside if os.access(beside, os.X_OK) else STUB


def started(program: Program) -> Optional[StartCommand]:
    """Return the nginx that a program's command starts, None when it starts none."""
    names = FAMILY.binaries.__contains__
    return behind(program, names) or among(program, names)


def _is_nginx(world: World, process: Process) -> bool:
    if world.program(process) == "nginx":
        return True
    return any(word.startswith("nginx: ") for word in world.arguments(process)[:1])


FAMILY = NginxFamily()
