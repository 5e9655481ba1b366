"""The reloads of one supervisord: what the RPC interface and supervisord's loop call."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Callable, Optional

from supervisor_hotreload.core.driver import Driver
from supervisor_hotreload.core.model import Failure, Fault, Outcome
from supervisor_hotreload.core.reload import Reload
from supervisor_hotreload.plugin import builder
from supervisor_hotreload.plugin.admission import NO_OVERRIDES, Admission, Overrides, Plan
from supervisor_hotreload.plugin.batch import Batch
from supervisor_hotreload.plugin.capture import capture
from supervisor_hotreload.plugin.events import Announcer, Exits
from supervisor_hotreload.plugin.program import SupervisedProgram
from supervisor_hotreload.plugin.settings_file import SettingsFile
from supervisor_hotreload.plugin.supervisord import Supervisord
from supervisor_hotreload.plugin.survey import Survey
from supervisor_hotreload.system.world import World

LINGER_SECONDS = 1.0
"""How long the tick goes on after the last reload, so that its answer leaves at once."""


class ReloadService:
    """Starts, steps and cancels reloads. It is the Observer of every SupervisedProgram.

    :param supervisord: supervisor's Supervisor.
    :param defaults: the keys of [rpcinterface:hotreload].
    :param world: the real one, or a fake one.
    """

    def __init__(
        self, supervisord: Any, defaults: dict[str, str], world: Optional[World] = None
    ) -> None:
        self.world = World() if world is None else world
        self.driver = Driver()
        self.settings = SettingsFile(supervisord.options, defaults)
        self.supervised = Supervisord(supervisord, self.world, self.settings, self, self.step)
        self.announcer = Announcer(self.supervised.logger)
        self.exits = Exits()
        self.survey = Survey(self.world, self.settings, self.supervised.logger)
        self.admission = Admission(self.world, self.supervised, self.settings, self.survey)
        self._batches: list[Batch] = []
        self._follow_ups: dict[str, SupervisedProgram] = {}
        self._idle_since: Optional[float] = None
        for line in self.settings.bad():
            self.supervised.logger.error(f"hotreload: {line}")
        for line in self.settings.unmatched(self.supervised.groups()):
            self.supervised.logger.warn(f"hotreload: {line}")

    # -- what the RPC interface calls

    def start(self, program: SupervisedProgram, overrides: Overrides = NO_OVERRIDES) -> Reload:
        """Start the reload of one program.

        :raises Failure: when it is refused; nothing was changed.
        """
        reload = self._new(program)
        self.driver.add(reload)
        failure = self._begin(program, reload, overrides)
        if failure is not None:
            raise failure
        return reload

    def start_all(
        self, programs: Iterable[SupervisedProgram], overrides: Overrides = NO_OVERRIDES
    ) -> Batch:
        """Start the reloads of several programs, one after the other.

        :raises Failure: ALREADY_RELOADING when one of them is being reloaded; none is started.
        """
        batch = Batch([(one, self._new(one)) for one in programs], overrides)
        for _, reload in batch.entries:
            self.driver.must_be_free(reload.name)
        for _, reload in batch.entries:
            self.driver.add(reload)
        self._batches.append(batch)
        self._step_batch(batch)
        return batch

    def cancel(self, program: SupervisedProgram) -> Reload:
        """Roll back the active reload of a program.

        :raises Failure: when there is none, or when it is too late.
        """
        reload = self.driver.active(program.name)
        if reload is None:
            reason, last = f"{program.name}: no reload is active", self.driver.latest(program.name)
            if last is not None and last.begun:
                serving = self.survey.serving(program)
                reason += f", the last one has {last.outcome.value}; {serving}"
            raise Failure(Fault.NOT_RELOADING, reason)
        if not reload.begun:
            reload.serving = self.survey.serving(program)
        reload.cancel("cancelled by an operator")
        return reload

    def _new(self, program: SupervisedProgram) -> Reload:
        """Return a reload of a program that has not begun."""
        self._idle_since = None  # the tick goes on
        logger = self.supervised.logger
        return Reload(program.name, self.world.now, logger.info, logger.warn)

    def _begin(
        self, program: SupervisedProgram, reload: Reload, overrides: Overrides
    ) -> Optional[Failure]:
        """Begin a reload that the driver has; return why it is refused."""
        return self._run(program, reload, lambda: self.admission.admit(program, overrides))

    def _run(
        self, program: SupervisedProgram, reload: Reload, admitted: Callable[[], Plan]
    ) -> Optional[Failure]:
        """Take the steps of the plan that *admitted* returns, or return why it is refused."""
        reload.restart_clock()
        try:
            self._take_steps(admitted(), reload)
        except Exception as error:  # noqa: BLE001 - whatever it is, it refuses this reload only
            failure = self.supervised.logger.as_failure(error, program.name)
            self._refuse(program, reload, failure)
            return failure
        return None

    def _refuse(self, program: SupervisedProgram, reload: Reload, failure: Failure) -> None:
        """End a reload that has not begun."""
        reload.serving = self.survey.serving(program)
        reload.abandon(failure)

    def _take_steps(self, plan: Plan, reload: Reload) -> None:
        program, master = plan.program, plan.old.master
        for line in plan.remarks:
            reload.say(line)
        reload.old_pid = master.pid
        steps = builder.steps(self.world, plan, reload)  # or it is refused
        program.remember(master, plan.family)
        program.unwanted.allow_successor()
        end_capture = capture(program.process, reload.output.append)
        reload.when_ended(lambda _: end_capture())
        reload.when_ended(lambda ended: self._conclude(plan, ended))
        self.supervised.tick.turn_on()
        self.announcer.announce(program, reload)
        reload.begin(steps)

    def _conclude(self, plan: Plan, reload: Reload) -> None:
        """Clear up after a reload that has ended, and say what serves."""
        program, generations = plan.program, plan.program.generations
        if reload.adopted or self.world.alive(plan.old.master):
            generations.successor = None  # else it inherits once supervisord reaps the old master
        if reload.outcome is Outcome.SUCCEEDED and reload.new_pid == reload.old_pid:
            generations.number += 1  # the same master, with new workers
        reload.serving = self.survey.serving_after(program, plan.old, reload)
        if reload.adopted and reload.fault in (Fault.INTERNAL, Fault.NOT_RELOADABLE):
            program.unwanted.end(generations.living_previous())  # they were not retired

    # -- what a SupervisedProgram calls (program.Observer)

    def relay(self, program: SupervisedProgram) -> bool:
        """Turn a HUP into a reload. One that comes during a reload is done after it.

        :raises Failure: when the reload is refused.
        """
        if not self.admission.takes_hup(program):
            return False
        if self.driver.active(program.name) is not None:
            self._follow_ups[program.name] = program
        else:
            self.start(program)
        return True

    def stopped(self, program: SupervisedProgram, reason: str) -> None:
        """Give up the reload of a program that an operator ends."""
        reload = self.driver.active(program.name)
        self._follow_ups.pop(program.name, None)
        if reload is not None:
            reload.abandon(Failure(Fault.STOPPED, reason))

    def runs(self, program: SupervisedProgram) -> None:
        """Find the master behind a shell before it is needed."""
        found = self.survey.found(program)
        if found is not None:
            program.remember(found.old.master, found.family)

    def inherited(self, program: SupervisedProgram) -> None:
        """Let the active reload go on: the old master died, so there is no way back."""
        reload = self.driver.active(program.name)
        if reload is not None:
            reload.commit()

    def orphan_taken(self, program: SupervisedProgram) -> None:
        """Go on with the reload during which the earlier supervisord was killed."""
        found = self.survey.found(program)
        successor = next(iter(program.generations.successors()), None)
        if found is None:  # the old generation has drained: the successor inherits the program
            program.generations.successor = successor
            return
        program.remember(found.old.master, found.family)
        if successor is None:
            return
        reload = self._new(program)
        self.driver.add(reload)
        self._run(program, reload, lambda: self.admission.resume(program, found, successor))

    def step(self) -> None:
        """Step every active reload; supervisord's loop calls this at every tick."""
        self.driver.step()
        for batch in self._batches[:]:
            self._step_batch(batch)
        for name in [name for name in self._follow_ups if self.driver.active(name) is None]:
            with suppress(Failure):  # the log of the reload says why it is refused
                self.start(self._follow_ups.pop(name))
        now = self.world.now()
        if not self.driver.idle:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since > LINGER_SECONDS and not self._follow_ups:
            self.supervised.tick.turn_off()

    def _step_batch(self, batch: Batch) -> None:
        if not batch.step(self._begin, self._refuse):
            self._batches.remove(batch)
