"""The reloads of one supervisord: what the RPC interface and supervisord's loop call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Optional

from supervisor_hotreload.core.driver import Driver
from supervisor_hotreload.core.model import Failure, Fault
from supervisor_hotreload.core.reload import Reload
from supervisor_hotreload.plugin import report
from supervisor_hotreload.plugin.admission import NO_OVERRIDES, Admission, Overrides
from supervisor_hotreload.plugin.batch import Batch
from supervisor_hotreload.plugin.events import Announcer, Exits
from supervisor_hotreload.plugin.program import SupervisedProgram
from supervisor_hotreload.plugin.settings_file import SettingsFile
from supervisor_hotreload.plugin.starter import Starter
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
        self.supervised = Supervisord(
            supervisord, self.world, self, self.step, self.settings.use_subreaper()
        )
        self.announcer = Announcer(self.supervised.logger)
        self.exits = Exits()
        self._survey = Survey(self.world, self.settings)
        self._admission = Admission(self.world, self.supervised, self.settings, self._survey)
        self._starter = Starter(
            self.world, self.driver, self.supervised, self.announcer, self._admission, self._survey
        )
        self._batches: list[Batch] = []
        self._follow_ups: dict[str, SupervisedProgram] = {}
        self._idle_since: Optional[float] = None
        for line in report.bad_settings(self.settings):
            self.supervised.logger.error(f"hotreload: {line}")
        for line in report.unmatched_sections(self.settings, self.supervised.groups()):
            self.supervised.logger.warn(f"hotreload: {line}")

    # -- what the RPC interface calls

    def start(self, program: SupervisedProgram, overrides: Overrides = NO_OVERRIDES) -> Reload:
        """Start the reload of one program.

        :raises Failure: when it is refused; nothing was changed.
        """
        self._idle_since = None
        return self._starter.start(program, overrides)

    def start_all(
        self, programs: Iterable[SupervisedProgram], overrides: Overrides = NO_OVERRIDES
    ) -> Batch:
        """Start the reloads of several programs, one after the other.

        :raises Failure: ALREADY_RELOADING when one of them is being reloaded; none is started.
        """
        self._idle_since = None
        batch = Batch([(one, self._starter.new(one)) for one in programs], overrides)
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
            last, now = self.driver.latest(program.name), self.serving(program)
            reason = report.nothing_to_cancel(program.name, last, now)
            raise Failure(Fault.NOT_RELOADING, reason)
        reload.cancel("cancelled by an operator")
        return reload

    def is_reloadable(self, program: SupervisedProgram) -> bool:
        """Tell whether a reload of the program's group, or of all programs, includes it."""
        return self._admission.is_reloadable(program)

    def serving(self, program: SupervisedProgram) -> str:
        """Return a sentence that says what serves now."""
        return report.serving(program, self._survey, self.supervised.logger)

    def warnings(self) -> list[str]:
        """Return what is wrong with the settings, one line each."""
        return report.warnings(self.settings, self.supervised.groups())

    def programs(self) -> list[SupervisedProgram]:
        """Return every program, in supervisord's order of start."""
        return [one for members in self.supervised.groups().values() for one in members]

    def reload_of(self, program: SupervisedProgram, number: int = 0) -> Optional[Reload]:
        """Return the reload of that *number* where it is remembered, else the latest one."""
        numbered = self.driver.numbered(program.name, number) if number else None
        return numbered or self.driver.latest(program.name)

    # -- what a SupervisedProgram calls (program.Observer)

    def relay(self, program: SupervisedProgram) -> bool:
        """Turn a HUP into a reload. One that comes during a reload is done after it.

        :raises Failure: when the reload is refused.
        """
        found = self._survey.found(program)
        booting = None if found is not None else self._survey.booting(program)
        if found is None and (booting is None or not booting.ended_by_hup):
            return False
        if not self.settings.policy(program).relay_sighup:
            return False
        if booting is not None:
            raise self._admission.too_early(program, booting)
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

    def notify_socket(self, program: SupervisedProgram) -> str:
        """Return where the program is to send READY=1, '' where it need not."""
        try:
            needed = self.settings.policy(program).ready.kind == "notify"
        except Failure:
            needed = False  # a setting is bad: its reloads are refused
        sockets = self.supervised.notify_sockets
        return sockets.open(program.name, program.process) if needed else ""

    def proven(self, program: SupervisedProgram) -> None:
        """Record for the next supervisord whose the program's processes are."""
        self.supervised.write_record()

    def runs(self, program: SupervisedProgram) -> None:
        """Find the master behind a shell before it is needed."""
        found = self._survey.found(program)
        if found is not None:
            program.remember(found.old.master, found.family)

    def inherited(self, program: SupervisedProgram) -> None:
        """Let the active reload go on: the old master died, so there is no way back."""
        reload = self.driver.active(program.name)
        if reload is not None:
            reload.adopted = True

    def adopts_orphans(self, program: SupervisedProgram) -> bool:
        """Tell whether processes that an earlier supervisord has left are to be adopted."""
        return self.settings.policy(program).adopt_orphans

    def strategy(self, program: SupervisedProgram) -> str:
        """Return the strategy that the program's settings name."""
        return self.settings.policy(program).strategy

    def orphan_taken(self, program: SupervisedProgram) -> None:
        """Go on with the reload during which the earlier supervisord was killed."""
        found = self._survey.found(program)
        successor = next(iter(program.successors()), None)
        if found is None:  # the old generation has drained: the successor inherits the program
            program.successor = successor
            return
        program.remember(found.old.master, found.family)
        if successor is not None:
            self._starter.resume(program, found, successor)

    # -- the loop

    def step(self) -> None:
        """Step every active reload; supervisord's loop calls this at every tick."""
        self.driver.step()
        for batch in self._batches[:]:
            self._step_batch(batch)
        for name in [name for name in self._follow_ups if self.driver.active(name) is None]:
            self._follow_up(self._follow_ups.pop(name))
        now = self.world.now()
        if not self.driver.idle:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since > LINGER_SECONDS and not self._follow_ups:
            self.supervised.tick.turn_off()

    def _step_batch(self, batch: Batch) -> None:
        if not batch.step(self._starter.begin_or_refuse, self._starter.refuse):
            self._batches.remove(batch)

    def _follow_up(self, program: SupervisedProgram) -> None:
        """Do the one reload that HUPs during another one have asked for."""
        try:
            self.start(program)
        except Failure as failure:
            self.supervised.logger.warn(
                f"hotreload: {program.name}: the reload that a HUP asked for is refused: "
                f"{failure.reason}"
            )
