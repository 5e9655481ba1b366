"""Begins a reload of the server when one is asked for, and steps it."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from typing import Optional

from supervisor_hotreload.core import protocol
from supervisor_hotreload.core.model import Failure, Fault, Phase, Policy
from supervisor_hotreload.core.reload import Reload
from supervisor_hotreload.servers.base import AnyFamily, foreign_successor
from supervisor_hotreload.servers.generation import Generation
from supervisor_hotreload.servers.recognition import Ambiguous, Found
from supervisor_hotreload.servers.release_guard import ReleaseGuard
from supervisor_hotreload.servers.signals import must_not_be_stopped
from supervisor_hotreload.servers.trial import Trial
from supervisor_hotreload.system.credentials import ids_of
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World
from supervisor_hotreload.wrapper import copy_survey
from supervisor_hotreload.wrapper.adopter import WrapperAdopter
from supervisor_hotreload.wrapper.children import Children
from supervisor_hotreload.wrapper.errors import described
from supervisor_hotreload.wrapper.launch import Launcher
from supervisor_hotreload.wrapper.options import RunOptions, makes_successors
from supervisor_hotreload.wrapper.others import OtherGenerations
from supervisor_hotreload.wrapper.overlap import Overlap
from supervisor_hotreload.wrapper.reports import Reports
from supervisor_hotreload.wrapper.tracked import TrackedServer


class Reloads:
    """The reloads of one server: at most one at a time, and at most one that waits.

    :param passes_sockets: the server is given its listening sockets.
    """

    def __init__(
        self,
        world: World,
        options: RunOptions,
        reports: Reports,
        launcher: Launcher,
        tracked: TrackedServer,
        others: OtherGenerations,
        children: Children,
        passes_sockets: bool,
    ) -> None:
        self._world = world
        self._options = options
        self._reports = reports
        self._launcher = launcher
        self._tracked = tracked
        self._others = others
        self._children = children
        self._passes_sockets = passes_sockets or "fd://" in options.line
        self._progress = ""
        self.active: Optional[Reload] = None
        self.wanted = False

    def ask(self) -> None:
        """Ask for a reload; it begins once no other is active."""
        self.wanted = True

    def step(self) -> None:
        """Step the active reload, if there is one."""
        reload = self.active
        if reload is None:
            return
        reload.step()
        self._report_progress(reload)
        if reload.done:
            self.active = None
            self._reports.ready(str(self._tracked))

    def abandon(self, failure: Failure) -> None:
        """End the active reload without a rollback: its generations end anyway."""
        reload, self.active = self.active, None
        if reload is not None:
            reload.abandon(failure)

    def begin(self) -> None:
        """Begin the reload that was asked for, once the first generation has had the time to
        become ready that any other has."""
        if not self._tracked.ready and self._tracked.age <= self._options.policy.ready_timeout:
            return
        self.wanted = False
        reload = Reload(self._options.name, self._world.now, self._reports.log)
        reload.when_ended(self._reports.ended)
        self.active = reload
        try:
            self._reports.reloading(reload)
            reload.begin(self._steps(reload))
        except Failure as failure:
            reload.abandon(failure)
        except Exception as error:
            if reload.phase is Phase.QUEUED:  # else it goes on at the next step
                reload.abandon(Failure(Fault.INTERNAL, described(error)))
            raise

    def _steps(self, reload: Reload) -> protocol.Steps:
        """Return the protocol for the server as it is now.

        A server that is given its sockets is always reloaded by a second copy: gunicorn closes
        the descriptor that it is given and uses a copy, so that its re-exec finds none.

        :raises Failure: when it cannot be reloaded now.
        """
        try:
            found = self._tracked.find()
        except Ambiguous as error:
            raise Failure(Fault.NOT_RELOADABLE, f"{error}; nothing was sent") from None
        guard = ReleaseGuard(self._world, self._options.directory, ids_of(os.getpid()))
        adopter = WrapperAdopter(reload, self._others, guard, self.ask)
        copy = copy_survey.survey(self._world, self._tracked.process)
        if found is not None and not self._passes_sockets:
            family, old, program = found.family, found.old, self._options.program
            name = family.best_strategy(self._world, old, program)
            strategy = family.strategies[name]
            if not strategy.in_place or copy.has_ports:
                policy = replace(self._options.policy, strategy=name)
                policy = self._admitted(family, old, policy)
                reload.old_pid = old.master.pid
                if strategy.in_place:
                    return self._in_place(reload, family, old, policy)
                server = family.server(self._world, old, policy, program)
                return protocol.reload(server, policy, adopter, self._check(old.master))
        overlap = self._overlap(found, copy)
        reload.when_ended(lambda _: overlap.close())
        reload.old_pid = copy.tracked.pid
        return protocol.reload(overlap, self._options.policy, adopter, self._check(copy.tracked))

    def _admitted(self, family: AnyFamily, old: Generation, policy: Policy) -> Policy:
        """Return the policy of a reload by the server itself.

        :raises Failure: when it cannot be reloaded now.
        """
        must_not_be_stopped(self._world, self._options.name, old.master)
        for successor in self._tracked.successors():
            raise foreign_successor(self._options.name, successor, old.master)
        family.admit(self._world, old, policy, self._options.program)
        ready, _ = family.readiness(old, policy)
        return replace(policy, ready=ready)

    def _in_place(
        self, reload: Reload, family: AnyFamily, old: Generation, policy: Policy
    ) -> protocol.Steps:
        """Return the protocol of a server that keeps its pid: no second copy can listen on its
        ports. Where its family knows how, the release is tried before."""
        program, check = self._options.program, self._check(old.master)
        reload.new_pid = old.master.pid
        reload.when_ended(self._tracked.renewed)

        def steps() -> protocol.Steps:  # a trial may take long: the server is looked at after it
            server = family.in_place(self._world, old, policy, program)
            yield from protocol.in_place(server, policy, reload.commit, check)

        trial = None
        if family.strategies[policy.strategy].tried:
            trial = family.trial(self._world, old, program)
        if trial is None:
            return steps()
        return protocol.tried(
            self._judge(shlex.join(trial.words), old.master, trial), policy, steps()
        )

    def _overlap(self, found: Optional[Found], copy: copy_survey.ServerCopy) -> Overlap:
        """Return the reload by a second copy.

        :raises Failure: STILL_STARTING.
        """
        family = self._tracked.booting_family() if found is None else None
        if family is not None:
            raise Failure(
                Fault.STILL_STARTING,
                f"{self._options.name} ({copy.tracked}) has no "
                f"{family.lacks(self._options.program)}",
            )
        proven = found is not None and found.old.readable and makes_successors(found.family)
        return Overlap(
            self._world,
            self._options,
            self._launcher,
            self._children,
            copy,
            found if proven else None,
        )

    def _check(self, master: Process) -> Optional[protocol.Judge]:
        command = self._options.policy.check
        return None if command is None else self._judge(command, master)

    def _judge(
        self, command: str, master: Process, trial: Optional[Trial] = None
    ) -> protocol.Judge:
        from supervisor_hotreload.system.check import JudgingCommand  # tempfile takes memory

        def spawned(pid: int, judge: JudgingCommand) -> None:
            self._children.reapers[pid] = judge.finish

        name = self._options.name
        if trial is None:
            return JudgingCommand(name, command, master, os.environ, spawned)
        given = {**os.environ, **trial.environment}
        title, fault, run_as = trial.title, Fault.TRIAL_FAILED, trial.run_as
        return JudgingCommand(name, command, master, given, spawned, title, fault, run_as=run_as)

    def _report_progress(self, reload: Reload) -> None:
        text = "" if reload.progress is None else f"{reload.phase.value}: {reload.progress.text}"
        if self._options.verbose and text not in ("", self._progress) and not reload.done:
            self._reports.say(text)
        self._progress = text
