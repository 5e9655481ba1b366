"""Decides whether a program may be reloaded now, and how."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Optional

from supervisor_hotreload import servers
from supervisor_hotreload.core.model import Failure, Fault, Policy
from supervisor_hotreload.plugin.program import SupervisedProgram
from supervisor_hotreload.plugin.settings_file import SettingsFile
from supervisor_hotreload.plugin.supervisord import Supervisord
from supervisor_hotreload.plugin.survey import Survey
from supervisor_hotreload.servers import AUTO, AnyFamily, Found
from supervisor_hotreload.servers.generation import Generation
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World


@dataclass(frozen=True)
class Overrides:
    """Values that hold for one reload instead of the program's settings.

    :param bake: seconds.
    :param strategy: one of servers.STRATEGIES.
    """

    bake: Optional[float] = None
    strategy: Optional[str] = None

    def apply(self, policy: Policy) -> Policy:
        """Return *policy* with these values."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return replace(policy, **given)


NO_OVERRIDES = Overrides()


@dataclass(frozen=True)
class Plan:
    """A reload that was admitted, and how it is to be done.

    :param family: the family of the program's server.
    :param old: the generation that runs now.
    :param policy: the settings, with the strategy and the kind of readiness that were chosen.
    :param successor: the successor, where an earlier supervisord has asked for it.
    :param remarks: what the operator should know before the reload begins, one line each.
    """

    program: SupervisedProgram
    family: AnyFamily
    old: Generation
    policy: Policy
    successor: Optional[Process] = None
    remarks: tuple[str, ...] = ()

    @property
    def in_place(self) -> bool:
        """Tell whether the server keeps its master and replaces its workers."""
        strategy = self.family.strategies.get(self.policy.strategy)
        return self.successor is None and strategy is not None and strategy.in_place


class Admission:
    """Admits or refuses reloads. A refusal changes nothing."""

    def __init__(
        self, world: World, supervised: Supervisord, settings: SettingsFile, survey: Survey
    ) -> None:
        self._world = world
        self._supervised = supervised
        self._settings = settings
        self._survey = survey

    def is_reloadable(self, program: SupervisedProgram) -> bool:
        """Tell whether a reload of the program's group, or of all programs, includes it.

        A server that still boots, or cannot be seen, is included: its reload is refused with the
        reason, and that of the others is not.
        """
        is_named = servers.family_by_command(program.program) is not None
        if program.starting:
            return is_named
        try:
            return program.running and (
                self._survey.found(program) is not None or self._survey.booting(program) is not None
            )
        except Unreadable:
            return is_named

    def admit(self, program: SupervisedProgram, overrides: Overrides) -> Plan:
        """Return the plan for the reload of a program.

        :raises Failure: when it cannot be reloaded now, with the cure.
        """
        self._must_run(program)
        try:
            policy = overrides.apply(self._policy(program))
        except Failure as bad:
            reason = f"{bad.reason}; nothing was sent: correct it and reload again"
            raise Failure(bad.fault, reason) from None
        found = self._find(program, policy.strategy)
        family, old, configured = found.family, found.old, program.program
        program.remember(old.master, family)
        self._must_have_one_generation(program, old)
        if policy.ready.kind == "notify":
            self._must_have_notify_socket(program, old)
        if policy.strategy == AUTO:
            best = family.best_strategy(self._world, old, configured)
            policy = replace(policy, strategy=best)
        family.admit(self._world, old, policy, configured)
        ready, why = family.readiness(old, policy)
        policy = replace(policy, ready=ready)
        remarks = (
            self._strategy_remark(family, policy),
            why,
            *family.warnings(self._world, old, configured),
            *self._near_misses(program),
            self._pidfile_remark(program, old, policy),
        )
        return Plan(program, family, old, policy, remarks=tuple(filter(None, remarks)))

    def resume(self, program: SupervisedProgram, found: Found, successor: Process) -> Plan:
        """Return the plan for a reload whose successor lives already.

        :raises Failure: when a setting of the program is bad.
        """
        remark = f"the successor ({successor}) lives too: the reload goes on"
        policy = self._policy(program)
        return Plan(program, found.family, found.old, policy, successor, (remark,))

    def takes_hup(self, program: SupervisedProgram) -> bool:
        """Tell whether a HUP for the program asks for a reload of it.

        :raises Failure: when it does, and the server still boots; or when a setting is bad.
        """
        found = self._survey.found(program)
        booting = None if found is not None else self._survey.booting(program)
        if found is None and (booting is None or not booting.ended_by_hup):
            return False
        if not self._settings.policy(program).relay_sighup:
            return False
        if booting is not None:
            raise self._too_early(program, booting)
        return True

    def _too_early(self, program: SupervisedProgram, family: AnyFamily) -> Failure:
        """Return the refusal of a reload whose server still boots."""
        lacking = family.lacks(program.program)
        return Failure(Fault.STILL_STARTING, f"{program.name} (pid {program.pid}) has no {lacking}")

    def _must_run(self, program: SupervisedProgram) -> None:
        if self._supervised.stopping:
            raise Failure(Fault.SHUTDOWN_STATE, "supervisord is shutting down or reloading itself")
        if program.running:
            return
        name, family = program.name, servers.family_by_command(program.program)
        why = family.why_not_running(program.program) if family is not None else ""
        fault, yet = (Fault.STILL_STARTING, " yet") if program.starting else (Fault.NOT_RUNNING, "")
        cure = "reload again once it is RUNNING" if yet else f"start it: supervisorctl start {name}"
        cause = f": {why}" if why else f"; {cure}"
        raise Failure(fault, f"{name} is {program.state}, not RUNNING{yet}{cause}")

    def _policy(self, program: SupervisedProgram) -> Policy:
        """Return the settings of a program, with the pidfile that its own command names."""
        policy = self._settings.policy(program)
        family = servers.family_by_command(program.program)
        if policy.pidfile is None and family is not None:
            return replace(policy, pidfile=family.pidfile(program.program))
        return policy

    def _find(self, program: SupervisedProgram, strategy: str) -> Found:
        """Return what runs of a program.

        :raises Failure: when that is no server that has *strategy*.
        """
        try:
            found = self._survey.look(program, strategy)
        except servers.Ambiguous as error:
            raise Failure(Fault.NOT_RELOADABLE, f"{program.name}: {error}") from None
        if found is not None:
            return found
        other = None
        if strategy != AUTO:
            other = self._survey.found(program, AUTO) or self._survey.found(program)
        if other is not None:
            raise Failure(
                Fault.NOT_RELOADABLE,
                f"{program.name} has no strategy {strategy}: its server is {other.family.name} "
                f"({', '.join(other.family.strategies)}); nothing was sent",
            )
        family = self._survey.booting(program)
        if family is not None:
            raise self._too_early(program, family)
        names = ", ".join(f.name for f in servers.FAMILIES if not f.only_if_asked_for)
        raise Failure(
            Fault.NOT_RELOADABLE,
            f"{program.name} (pid {program.pid}) is no server with workers that hotreload "
            f"knows ({names}); if it reloads itself on a signal, set strategy = signal in "
            f"[hotreload:{program.name}]",
        )

    def _must_have_one_generation(self, program: SupervisedProgram, old: Generation) -> None:
        previous = program.generations.living_previous()
        if previous:
            raise Failure(
                Fault.FOREIGN_SUCCESSOR,
                f"a previous generation ({previous[0]}) of {program.name} still lives: wait "
                f"until it has drained, then reload again",
            )
        servers.must_not_be_stopped(self._world, program.name, old.master)
        for successor in program.generations.successors():
            raise servers.foreign_successor(program.name, successor, old.master)

    def _must_have_notify_socket(self, program: SupervisedProgram, old: Generation) -> None:
        """Refuse to wait for a READY=1 that cannot come."""
        sockets = self._supervised.notify_sockets
        trouble, path = sockets.trouble(program.name), sockets.path(program.name)
        if trouble:
            raise Failure(
                Fault.NOT_RELOADABLE, f"{program.name}: ready = notify cannot be used: {trouble}"
            )
        if not path or program.given_socket not in (path, None):
            raise Failure(
                Fault.NOT_RELOADABLE,
                f"{program.name}: ready = notify, but {old.tracked} was started without its "
                f"NOTIFY_SOCKET; start it once more: supervisorctl restart {program.name}",
            )

    # -- remarks

    def _strategy_remark(self, family: AnyFamily, policy: Policy) -> str:
        """Return what the strategy does, where the family has a choice or no way back."""
        chosen = family.strategies[policy.strategy]
        if not chosen.in_place and len(family.strategies) == 1:
            return ""
        return f"strategy = {policy.strategy}: {chosen.what.format(signal=policy.signal)}"

    def _near_misses(self, program: SupervisedProgram) -> Iterator[str]:
        groups = self._supervised.groups()
        for text in self._settings.near_misses(groups, program):
            yield f"warning: {text}; is it meant for {program.name}?"

    def _pidfile_remark(self, program: SupervisedProgram, old: Generation, policy: Policy) -> str:
        """Return what is wrong with the pidfile. It is a hint: the sockets decide."""
        if policy.pidfile is None:
            return ""
        instead = "the master is the process that holds the program's sockets"
        try:
            named = self._world.read_pid(policy.pidfile, program.rights)
        except ValueError as error:
            return f"warning: {error}; {instead}"
        if named == old.master.pid:
            return ""
        return (
            f"warning: pidfile {policy.pidfile} names pid {named}, which is not the master "
            f"({old.master}); {instead}"
        )
