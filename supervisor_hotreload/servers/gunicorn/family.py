"""gunicorn: USR2 re-execs the master."""

from __future__ import annotations

import os
from typing import Optional

from supervisor_hotreload.core.model import Policy, Ready
from supervisor_hotreload.servers.base import REEXEC, Family
from supervisor_hotreload.servers.command_line import own_name
from supervisor_hotreload.servers.gunicorn import command
from supervisor_hotreload.servers.gunicorn.heartbeat import (
    GunicornGeneration,
    Heartbeat,
    is_master,
    survey,
)
from supervisor_hotreload.servers.gunicorn.reexec import GunicornReexec
from supervisor_hotreload.servers.gunicorn.start_context import (
    must_hand_over,
    must_start_again,
    other_interpreter,
)
from supervisor_hotreload.servers.launchers import must_spare_successor
from supervisor_hotreload.servers.program import Program
from supervisor_hotreload.servers.readiness import (
    STEADY_SECONDS,
    Notified,
    Probe,
    Settled,
    Then,
    WorkersAtWork,
)
from supervisor_hotreload.servers.trial import Trial, run_as
from supervisor_hotreload.system.command import RunAs
from supervisor_hotreload.system.endpoint import endpoint_probe
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World


class GunicornFamily(Family[GunicornGeneration]):
    """Recognised by the heartbeat files that a master shares with its workers."""

    name = "gunicorn"
    binaries = command.BINARIES
    orphan_signal = ""
    counts_when = "it has loaded the application and touches its heartbeat file"
    strategies = {"reexec": REEXEC}  # noqa: RUF012 - a table, never changed

    def survey(
        self, world: World, tracked: Process, program: Program
    ) -> Optional[GunicornGeneration]:
        return survey(world, tracked, self.is_named_in(program))

    def lacks(self, program: Program) -> str:
        return (
            "gunicorn workers yet: no process under it shares a heartbeat file with a child of its "
            "own"
        )

    def why_not_running(self, program: Program) -> str:
        return command.why_it_daemonizes(program)

    def pidfile(self, program: Program) -> Optional[str]:
        path = command.options(command.configured(program)).get("pid")
        return os.path.join(program.directory, path) if path else None

    def addresses(self, program: Program) -> list[str]:
        return command.bound(program)

    def admit(
        self, world: World, old: GunicornGeneration, policy: Policy, program: Program
    ) -> None:
        must_hand_over(world, program.name, old)
        must_spare_successor(world, program, old)
        must_start_again(world, old.master, program)

    def warnings(self, world: World, old: GunicornGeneration, program: Program) -> list[str]:
        return [line for line in (other_interpreter(world, old.master, program),) if line]

    def probe(
        self, world: World, old: GunicornGeneration, ready: Ready, expected: int = 0
    ) -> Probe:
        expected = max(expected, old.workers)
        if ready.kind == "settle":
            return Settled(world, max(expected, 1), (), ready.seconds)
        if ready.kind == "accepting":
            return WorkersAtWork(world, expected)
        workers: Probe = Heartbeat(world, expected)
        if not old.readable:
            workers = Settled(world, max(expected, 1), (), STEADY_SECONDS)
        if ready.kind == "heartbeat":
            return workers
        if ready.kind == "notify":
            return Then(workers, Notified(world, old.children))
        return Then(workers, endpoint_probe(world, ready, world.ids(old.master)))

    def trial(self, world: World, old: GunicornGeneration, program: Program) -> Optional[Trial]:
        """Return ``gunicorn --check-config``, which loads what the workers load.

        None when the command is not gunicorn's own: a script or a shell would start a second
        server on the address of the first.
        """
        words = program.words
        if own_name(words) not in self.binaries:
            return None
        loaded = [child for child in old.children if _has_loaded(world, child)]
        user = run_as(world, old, loaded, program, _named_user(program))
        return Trial((*words, "--check-config"), "gunicorn --check-config", user)

    def server(
        self, world: World, old: GunicornGeneration, policy: Policy, program: Program
    ) -> GunicornReexec:
        probe = self.probe(world, old, policy.ready)
        return GunicornReexec(world, old, policy, probe, program)

    def is_master(self, world: World, process: Process) -> bool:
        return is_master(world, process)

    def may_be_booting(self, world: World, process: Process) -> bool:
        try:
            return not world.heartbeats(process)
        except Unreadable:
            return False


def _has_loaded(world: World, worker: Process) -> bool:
    """Tell whether the loop of *worker* runs: a fork is root's until it has changed its user."""
    try:
        beats = world.heartbeats(worker)
    except Unreadable:
        return True  # it has changed its user, so its descriptors are hidden
    return bool(beats) and all(beat.flipped for beat in beats.values())


def _named_user(program: Program) -> RunAs:
    """Return the user in the command; the configuration file is not read, it may be anybody's."""
    words = program.words
    while words and own_name(words[:1]) not in command.BINARIES:
        words = words[1:]  # an interpreter has options of its own
    given = command.options(program.environment.get("GUNICORN_CMD_ARGS", ""))
    named = {**given, **command.options_of(words[1:])}
    return RunAs(named.get("user"), named.get("group"))


FAMILY = GunicornFamily()
