"""Begins one reload at a time, and clears up after it."""

from __future__ import annotations

from typing import Callable

from supervisor_hotreload.core.driver import Driver
from supervisor_hotreload.core.model import Failure, Fault, Outcome
from supervisor_hotreload.core.reload import Reload
from supervisor_hotreload.plugin import builder, report
from supervisor_hotreload.plugin.admission import Admission, Overrides, Plan
from supervisor_hotreload.plugin.capture import capture
from supervisor_hotreload.plugin.events import Announcer
from supervisor_hotreload.plugin.program import SupervisedProgram
from supervisor_hotreload.plugin.supervisord import Supervisord
from supervisor_hotreload.plugin.survey import Survey
from supervisor_hotreload.servers import Found
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World


class Starter:
    """Starts the reload of one program: admission, then the steps of the plan.

    :param driver: steps the reloads that were begun.
    :param announcer: says to event listeners that a reload begins, and how it ends.
    """

    def __init__(
        self,
        world: World,
        driver: Driver,
        supervised: Supervisord,
        announcer: Announcer,
        admission: Admission,
        survey: Survey,
    ) -> None:
        self._world = world
        self._driver = driver
        self._supervised = supervised
        self._announcer = announcer
        self._admission = admission
        self._survey = survey

    def start(self, program: SupervisedProgram, overrides: Overrides) -> Reload:
        """Start the reload of one program.

        :raises Failure: when it is refused; nothing was changed.
        """
        reload = self.new(program)
        self._driver.add(reload)
        try:
            self._begin(program, reload, overrides)
        except Failure as failure:
            self.refuse(program, reload, failure)
            raise
        return reload

    def resume(self, program: SupervisedProgram, found: Found, successor: Process) -> None:
        """Go on with a reload whose *successor* lives already.

        :raises Exception: what has prevented that, which ends the reload.
        """
        reload = self.new(program)
        self._driver.add(reload)
        try:
            self._run(self._admission.resume(program, found, successor), reload)
        except Exception as error:
            self.refuse(program, reload, self._as_failure(program, error))
            raise

    def new(self, program: SupervisedProgram) -> Reload:
        """Return a reload of a program that has not begun."""
        logger = self._supervised.logger
        return Reload(program.name, self._world.now, logger.info, logger.warn)

    def _begin(self, program: SupervisedProgram, reload: Reload, overrides: Overrides) -> None:
        """Begin *reload*.

        :raises Failure: when it is refused, and nothing else: no reload stays half begun.
        """
        reload.restart_clock()
        try:
            self._run(self._admission.admit(program, overrides), reload)
        except Exception as error:  # noqa: BLE001 - whatever it is, it refuses this reload only
            raise self._as_failure(program, error) from None

    def begin_or_refuse(
        self, program: SupervisedProgram, reload: Reload, overrides: Overrides
    ) -> None:
        """Begin a reload that the driver has; a failure ends it and is raised no further."""
        try:
            self._begin(program, reload, overrides)
        except Failure as failure:
            self.refuse(program, reload, failure)

    def refuse(self, program: SupervisedProgram, reload: Reload, failure: Failure) -> None:
        """End a reload that has not begun."""
        reload.serving = report.serving(program, self._survey, self._supervised.logger)
        reload.abandon(failure)

    def _run(self, plan: Plan, reload: Reload) -> None:
        """Begin the steps of *plan*."""
        program, master = plan.program, plan.old.master
        for line in plan.remarks:
            reload.say(line)
        reload.old_pid = master.pid
        steps = builder.steps(self._world, plan, reload)  # or it is refused
        program.remember(master, plan.family)
        program.want_successor()
        end_capture = capture(program.process, reload.output.append)
        reload.when_ended(lambda ended: self._conclude(plan, ended, end_capture))
        self._supervised.tick.turn_on()
        self._announcer.announce(program, reload)
        reload.begin(steps)

    def _conclude(self, plan: Plan, reload: Reload, end_capture: Callable[[], None]) -> None:
        """Clear up after a reload that has ended, and say what serves."""
        program = plan.program
        end_capture()
        if reload.adopted or self._world.alive(plan.old.master):
            program.successor = None  # else it inherits once supervisord reaps the old master
        if reload.outcome is Outcome.SUCCEEDED and reload.new_pid == reload.old_pid:
            program.generation += 1  # the same master, with new workers
        reload.serving = report.serving_after(
            program, plan.old, reload, self._world, self._survey, self._supervised.logger
        )
        if reload.adopted and reload.fault in (Fault.INTERNAL, Fault.NOT_RELOADABLE):
            program.end_previous()  # the error has prevented its retirement

    def _as_failure(self, program: SupervisedProgram, error: Exception) -> Failure:
        return report.as_failure(error, program.name, self._supervised.logger)
