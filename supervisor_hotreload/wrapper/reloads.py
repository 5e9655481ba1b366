"""Begins a reload of the server when one is asked for, steps it, and adopts the successor."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, replace
from typing import Callable, Optional

from supervisor_hotreload.core import protocol
from supervisor_hotreload.core.model import Cancelled, Failure, Fault, Phase, Policy
from supervisor_hotreload.core.reload import Reload
from supervisor_hotreload.servers.base import AnyFamily, foreign_successor
from supervisor_hotreload.servers.generation import Generation
from supervisor_hotreload.servers.lineage import successors
from supervisor_hotreload.servers.recognition import Ambiguous, Found
from supervisor_hotreload.servers.release_guard import ReleaseGuard, release_advice
from supervisor_hotreload.servers.signals import must_not_be_stopped
from supervisor_hotreload.servers.trial import Trial
from supervisor_hotreload.system.credentials import ids_of
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World
from supervisor_hotreload.wrapper import copy_survey
from supervisor_hotreload.wrapper.children import Children
from supervisor_hotreload.wrapper.errors import described
from supervisor_hotreload.wrapper.launch import Launcher
from supervisor_hotreload.wrapper.options import RunOptions, makes_successors
from supervisor_hotreload.wrapper.others import OtherGenerations
from supervisor_hotreload.wrapper.overlap import Overlap
from supervisor_hotreload.wrapper.reports import Reports
from supervisor_hotreload.wrapper.tracked import TrackedServer


@dataclass(frozen=True)
class WrapperAdopter:
    """Lets hotreload-run adopt the successor of one reload (protocol.Adopter).

    :param reload_again: asks for another reload, after this one.
    """

    reload: Reload
    generations: OtherGenerations
    guard: ReleaseGuard
    reload_again: Callable[[], None]

    def expect(self, new: Process) -> None:
        """Let *new* inherit the server should the old master die before the adoption."""
        self.reload.new_pid = new.pid
        self.generations.expect(new)

    def adopt(self, new: Process) -> None:
        """Track *new* from now on.

        :raises Cancelled: when the release has moved while *new* booted; another reload follows.
        """
        refusal = self.guard.refusal(new)
        if refusal:
            self.reload_again()
            raise Cancelled(f"{refusal}; hotreload-run reloads once more")
        self.generations.adopt(new)
        self.reload.commit()


@dataclass
class Reloads:
    """Begins the reloads of one server: one at a time, and at most one waits.

    :param passes_sockets: the server is given its listening sockets.
    """

    world: World
    options: RunOptions
    reports: Reports
    launcher: Launcher
    tracked: TrackedServer
    others: OtherGenerations
    children: Children
    passes_sockets: bool
    active: Optional[Reload] = None
    wanted: bool = False
    _progress: str = ""

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
            self.reports.ready(str(self.tracked), self._advice(reload))

    def _advice(self, reload: Reload) -> str:
        """Return what to do after a reload that is not tried again at once."""
        if self.wanted:
            return ""
        directory, master = self.options.directory, self.tracked.process
        return release_advice(reload, self.world, directory, ids_of(os.getpid()), master)

    def abandon(self, failure: Failure) -> None:
        """End the active reload without a rollback: its generations end anyway."""
        reload, self.active = self.active, None
        if reload is not None:
            reload.abandon(failure)

    def begin(self) -> None:
        """Begin the reload that was asked for, once the first generation has had the time to
        become ready that any other has."""
        if not self.tracked.ready and self.tracked.age <= self.options.policy.ready_timeout:
            return
        self.wanted = False
        reload = Reload(self.options.name, self.world.now, self.reports.log)
        reload.when_ended(self.reports.ended)
        self.active = reload
        try:
            self.reports.reloading(reload)
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
            found = self.tracked.find()
        except Ambiguous as error:
            raise Failure(Fault.NOT_RELOADABLE, f"{error}; nothing was sent") from None
        guard = ReleaseGuard(self.world, self.options.directory, ids_of(os.getpid()))
        adopter = WrapperAdopter(reload, self.others, guard, self.ask)
        copy = copy_survey.survey(self.world, self.tracked.process)
        if found is not None and not self.passes_sockets:
            family, old, program = found.family, found.old, self.options.program
            name = family.best_strategy(self.world, old, program)
            strategy = family.strategies[name]
            if not strategy.in_place or copy.has_ports:
                policy = replace(self.options.policy, strategy=name)
                policy = self._admitted(family, old, policy)
                reload.old_pid = old.master.pid
                if strategy.in_place:
                    return self._in_place(reload, family, old, policy)
                server = family.server(self.world, old, policy, program)
                return protocol.reload(server, policy, adopter, self._check(old.master))
        overlap = self._overlap(found, copy)
        reload.when_ended(lambda _: overlap.close())
        reload.old_pid = copy.tracked.pid
        return protocol.reload(overlap, self.options.policy, adopter, self._check(copy.tracked))

    def _admitted(self, family: AnyFamily, old: Generation, policy: Policy) -> Policy:
        """Return the policy of a reload by the server itself.

        :raises Failure: when it cannot be reloaded now.
        """
        must_not_be_stopped(self.world, self.options.name, old.master)
        for successor in successors(self.world, self.tracked.lineage):
            raise foreign_successor(self.options.name, successor, old.master)
        family.admit(self.world, old, policy, self.options.program)
        ready, _ = family.readiness(old, policy)
        return replace(policy, ready=ready)

    def _in_place(
        self, reload: Reload, family: AnyFamily, old: Generation, policy: Policy
    ) -> protocol.Steps:
        """Return the protocol of a server that keeps its pid: no second copy can listen on its
        ports. Where its family knows how, the release is tried before."""
        program, check = self.options.program, self._check(old.master)
        reload.new_pid = old.master.pid
        reload.when_ended(self.tracked.renewed)

        def steps() -> protocol.Steps:  # a trial may take long: the server is looked at after it
            server = family.in_place(self.world, old, policy, program)
            yield from protocol.in_place(server, policy, reload.commit, check)

        trial = None
        if family.strategies[policy.strategy].tried:
            trial = family.trial(self.world, old, program)
        if trial is None:
            return steps()
        return protocol.tried(
            self._judge(shlex.join(trial.words), old.master, trial), policy, steps()
        )

    def _overlap(self, found: Optional[Found], copy: copy_survey.ServerCopy) -> Overlap:
        """Return the reload by a second copy.

        :raises Failure: STILL_STARTING.
        """
        family = self.tracked.booting_family() if found is None else None
        if family is not None:
            raise Failure(
                Fault.STILL_STARTING,
                f"{self.options.name} ({copy.tracked}) has no {family.lacks(self.options.program)}",
            )
        proven = found is not None and found.old.readable and makes_successors(found.family)
        known = found if proven else None
        return Overlap(self.world, self.options, self.launcher, self.children, copy, known)

    def _check(self, master: Process) -> Optional[protocol.Judge]:
        command = self.options.policy.check
        return None if command is None else self._judge(command, master)

    def _judge(
        self, command: str, master: Process, trial: Optional[Trial] = None
    ) -> protocol.Judge:
        from supervisor_hotreload.system.check import JudgingCommand  # tempfile takes memory

        def spawned(pid: int, judge: JudgingCommand) -> None:
            self.children.reapers[pid] = judge.finish

        name = self.options.name
        if trial is None:
            return JudgingCommand(name, command, master, os.environ, spawned)
        given = {**os.environ, **trial.environment}
        title, fault, run_as = trial.title, Fault.TRIAL_FAILED, trial.run_as
        return JudgingCommand(name, command, master, given, spawned, title, fault, run_as=run_as)

    def _report_progress(self, reload: Reload) -> None:
        text = "" if reload.progress is None else f"{reload.phase.value}: {reload.progress.text}"
        if self.options.verbose and text not in ("", self._progress) and not reload.done:
            self.reports.say(text)
        self._progress = text
