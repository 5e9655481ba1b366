"""Every reload of one supervisord: started here, refused here, remembered here."""

from __future__ import annotations

import difflib
import re
import shlex
import traceback
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Optional

from supervisor_hotreload import servers
from supervisor_hotreload.core import protocol
from supervisor_hotreload.core.driver import Driver
from supervisor_hotreload.core.model import Failure, Fault, Outcome, Policy
from supervisor_hotreload.core.protocol import Steps
from supervisor_hotreload.core.reload import Reload
from supervisor_hotreload.plugin.capture import capture
from supervisor_hotreload.plugin.check_command import CheckCommand
from supervisor_hotreload.plugin.events import Announcer, Exits
from supervisor_hotreload.plugin.keeper import Keeper
from supervisor_hotreload.plugin.program import SupervisedProgram
from supervisor_hotreload.plugin.settings_file import SettingsFile
from supervisor_hotreload.plugin.supervisord import Supervisord
from supervisor_hotreload.servers import AUTO, AnyFamily, Found
from supervisor_hotreload.servers.settings import DEFAULTS, PREFIX, BadSetting, Settings
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World

LINGER = 1.0
"""Seconds that the tick goes on after a reload, so that its answer leaves at once."""


@dataclass(frozen=True)
class Wishes:
    """What is asked for one reload, instead of the program's settings."""

    bake: Optional[float] = None
    strategy: Optional[str] = None

    def over(self, policy: Policy) -> Policy:
        """Return *policy* with what is wished in it."""
        if self.bake is not None:
            policy = replace(policy, bake=self.bake)
        return policy if self.strategy is None else replace(policy, strategy=self.strategy)


@dataclass
class Batch:
    """Programs that are reloaded one after the other.

    Once one of a group has failed, the rest of that group is not attempted: it
    would meet the same release. One whose old generation drains for long
    drains beside the next ones.
    """

    waiting: deque[tuple[SupervisedProgram, Reload]]
    wishes: Wishes
    results: list[tuple[SupervisedProgram, Reload]] = field(default_factory=list)
    current: Optional[Reload] = None

    @property
    def all(self) -> list[tuple[SupervisedProgram, Reload]]:
        return [*self.results, *self.waiting]

    @property
    def done(self) -> bool:
        return not self.waiting and all(r.done or r.drains_on for _, r in self.results)


class ReloadService:
    """The observer where reloads are asked for. It is the Observer of every SupervisedProgram.

    :param supervisord: supervisor's Supervisor.
    :param defaults: the keys of [rpcinterface:hotreload].
    :param world: the real one unless it is a fake one.
    """

    def __init__(
        self, supervisord: Any, defaults: dict[str, str], world: Optional[World] = None
    ) -> None:
        self.world = World() if world is None else world
        self.driver = Driver()
        self._file = SettingsFile(supervisord.options, DEFAULTS, defaults)
        self.supervised = Supervisord(
            supervisord, self.world, self, self.step, self._may_be_subreaper()
        )
        self.announcer = Announcer(self.supervised.logger)
        self.exits = Exits()
        self._again: dict[str, SupervisedProgram] = {}
        self._batches: list[Batch] = []
        self._idle_since: Optional[float] = None
        self._report_bad_settings()

    # -- what may be asked

    def start(
        self,
        tracked: SupervisedProgram,
        bake: Optional[float] = None,
        strategy: Optional[str] = None,
    ) -> Reload:
        """Start the reload of one program.

        :param bake: seconds, instead of the program's setting.
        :param strategy: instead of the program's setting.
        :raises Failure: when it is refused; nothing was changed.
        """
        reload = self._new(tracked)
        self.driver.add(reload)
        try:
            self._begin(tracked, reload, Wishes(bake, strategy))
        except Failure as failure:
            self._refuse(tracked, reload, failure)
            raise
        return reload

    def start_all(
        self,
        chosen: Iterable[SupervisedProgram],
        bake: Optional[float] = None,
        strategy: Optional[str] = None,
    ) -> Batch:
        """Start the reloads of several programs, one after the other.

        :raises Failure: ALREADY_RELOADING when one of them is being reloaded; none is started.
        """
        queue = deque((tracked, self._new(tracked)) for tracked in chosen)
        batch = Batch(queue, Wishes(bake, strategy))
        for _, reload in batch.waiting:
            self.driver.must_be_free(reload.name)
        for _, reload in batch.waiting:
            self.driver.add(reload)
        self._batches.append(batch)
        self._next(batch)
        return batch

    def cancel(self, tracked: SupervisedProgram) -> Reload:
        """Roll back the active reload of a program.

        :raises Failure: when there is none, or when it is too late.
        """
        reload = self.driver.active(tracked.name)
        if reload is None:
            raise Failure(Fault.NOT_RELOADING, self._nothing_to_cancel(tracked))
        reload.cancel("cancelled by an operator")
        return reload

    def _nothing_to_cancel(self, tracked: SupervisedProgram) -> str:
        text = f"{tracked.name}: no reload is active"
        last = self.driver.latest(tracked.name)
        if last is None or not last.begun:
            return text
        return f"{text}, the last one has {last.outcome.value}; {self.serving(tracked)}"

    def reloadable(self, tracked: SupervisedProgram) -> bool:
        """Tell whether a program is one that a reload of its group, or of all, is meant for.

        A server that still boots is: it is refused, and that is said.
        """
        if tracked.starting:
            return servers.family_by_command(tracked.program) is not None
        return tracked.running and (
            self._survey(tracked) is not None or self._boots(tracked) is not None
        )

    def settings(self) -> Settings:
        """Return the settings as they are now.

        :raises Failure: BAD_SETTING when the file cannot be read.
        """
        try:
            return self._file.read()
        except ValueError as error:
            raise Failure(Fault.BAD_SETTING, str(error)) from None

    def policy(self, tracked: SupervisedProgram) -> Policy:
        """Return the settings of one program as they are now.

        :raises Failure: BAD_SETTING with the section, the key and the value.
        """
        try:
            policy = self.settings().policy(tracked.group, tracked.process.config.name)
        except BadSetting as error:
            raise Failure(Fault.BAD_SETTING, str(error)) from None
        if policy.pidfile is None:
            family = servers.family_by_command(tracked.program)
            if family is not None:
                policy = replace(policy, pidfile=family.pidfile(tracked.program))
        return policy

    def serving(self, tracked: SupervisedProgram) -> str:
        """Return a sentence that says what serves now."""
        if tracked.exit_is_held:
            return (
                f"nothing serves: what is left of {tracked.name} (pid {tracked.pid}) finishes what "
                f"it has, then supervisord reports its exit and does as autorestart says"
            )
        if tracked.pid and (tracked.running or tracked.starting):
            if tracked.current() is None:
                return f"nothing serves, pid {tracked.pid} of {tracked.name} has ended"
            try:
                found = self._survey(tracked)
            except Exception as error:  # noqa: BLE001 - what is told must not undo what is done
                found, _ = None, self._as_failure(tracked, error)
            count = found.old.workers if found is not None else 0
            if not count and tracked.starting:
                return f"nothing serves yet, {tracked.name} (pid {tracked.pid}) is {tracked.state}"
            workers = f", {count} worker{'' if count == 1 else 's'}" if count else ""
            return f"generation {tracked.generation} (pid {tracked.pid}{workers}) serves"
        return f"nothing serves, {tracked.name} is {tracked.state}"

    # -- what a SupervisedProgram asks (adoption.Observer)

    def relay(self, tracked: SupervisedProgram) -> bool:
        """Turn a HUP into a reload; one that comes during a reload is remembered.

        :raises Failure: when the reload is refused.
        """
        family = None if (found := self._survey(tracked)) is not None else self._boots(tracked)
        if found is None and (family is None or not family.ended_by_hup):
            return False
        if not self.policy(tracked).relay_sighup:
            return False
        if family is not None:
            raise self._too_early(tracked, family)
        if self.driver.active(tracked.name) is not None:
            self._again[tracked.name] = tracked
        else:
            self.start(tracked)
        return True

    def stopped(self, tracked: SupervisedProgram, reason: str) -> None:
        reload = self.driver.active(tracked.name)
        self._again.pop(tracked.name, None)
        if reload is not None:
            reload.abandon(Failure(Fault.STOPPED, reason))

    def notify_socket(self, tracked: SupervisedProgram) -> str:
        try:
            asked = self.policy(tracked).ready.kind == "notify"
        except Failure:
            asked = False  # a setting is bad: its reloads are refused
        sockets = self.supervised.notify_sockets
        return sockets.open(tracked.name, tracked.process) if asked else ""

    def proven(self, tracked: SupervisedProgram) -> None:
        self.supervised.write_record()

    def runs(self, tracked: SupervisedProgram) -> None:
        """Know the master behind a shell before it is needed."""
        found = self._survey(tracked)
        if found is not None:
            tracked.remember(found.old.master, found.family)

    def inherited(self, tracked: SupervisedProgram) -> None:
        """The old master died in the middle: there is nothing to go back to."""
        reload = self.driver.active(tracked.name)
        if reload is not None:
            reload.adopted = True

    def adopts_orphans(self, tracked: SupervisedProgram) -> bool:
        return self.policy(tracked).adopt_orphans

    def strategy(self, tracked: SupervisedProgram) -> str:
        return self.policy(tracked).strategy

    def orphan_taken(self, tracked: SupervisedProgram) -> None:
        """Go on with the reload in whose middle the earlier supervisord was killed."""
        found = self._survey(tracked)
        if found is None:  # it has drained already: what is left to do is to adopt its heir
            tracked.successor = next(iter(tracked.successors()), None)
            return
        tracked.remember(found.old.master, found.family)
        for successor in tracked.successors()[:1]:
            reload = self._new(tracked)
            self.driver.add(reload)
            reload.say(f"the successor ({successor}) lives too, the reload goes on")
            try:
                self._run(tracked, reload, found, self.policy(tracked), successor)
            except Exception as error:
                self._refuse(tracked, reload, self._as_failure(tracked, error))
                raise

    # -- the loop

    def step(self) -> None:
        """Step every active reload; called at every tick."""
        self.driver.step()
        for batch in self._batches[:]:
            self._go_on(batch)
        for name in [name for name in self._again if self.driver.active(name) is None]:
            self._follow_up(self._again.pop(name))
        now = self.world.now()
        if not self.driver.idle:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since > LINGER and not self._again:
            self.supervised.tick.turn_off()

    # -- inside

    def _may_be_subreaper(self) -> bool:
        try:
            return self.settings().subreaper()
        except (Failure, BadSetting):
            return True  # the bad setting is reported with the others

    def _report_bad_settings(self) -> None:
        try:
            lines = self.settings().errors()
        except Failure as failure:
            lines = [failure.reason]
        for line in lines:
            self.supervised.logger.error(f"hotreload: bad setting: {line}")
        for section in self._strangers():
            self.supervised.logger.warn(f"hotreload: {self._stranger(section)}")

    def warnings(self) -> list[str]:
        """Return what is wrong with the settings: each line is for an operator."""
        try:
            bad = self.settings().errors()
        except Failure as failure:
            return [failure.reason]
        trouble = [self._file.trouble] if self._file.trouble else []
        return [
            *trouble,
            *(f"bad setting: {line}" for line in bad),
            *(self._stranger(section) for section in self._strangers()),
        ]

    def _stranger(self, section: str) -> str:
        programs = ", ".join(self.supervised.groups()) or "there is none"
        return f"[{PREFIX}{section}] is for no program that there is: {programs}"

    def _misspelt(self, tracked: SupervisedProgram) -> list[str]:
        """Return the sections that may have been meant for a program."""
        names = {tracked.name, tracked.group, str(tracked.process.config.name)}
        return [name for name in self._strangers() if difflib.get_close_matches(name, names)]

    def _strangers(self) -> list[str]:
        """Return the sections that are named like no group, process or group:process."""
        known: set[str] = set()
        for group, members in self.supervised.groups().items():
            known |= {group, *(t.process.config.name for t in members)}
            known |= {f"{group}:{t.process.config.name}" for t in members}
        try:
            return [name for name in self.settings().sections if name not in known]
        except Failure:
            return []

    def _new(self, tracked: SupervisedProgram) -> Reload:
        logger = self.supervised.logger
        return Reload(tracked.name, self.world.now, logger.info, logger.warn)

    def _begin(self, tracked: SupervisedProgram, reload: Reload, wishes: Wishes) -> None:
        """Begin *reload*, or raise a Failure and nothing else: no reload may be left half begun."""
        reload.restart_clock()
        try:
            self._look_and_run(tracked, reload, wishes)
        except Exception as error:  # noqa: BLE001 - whatever it is, it refuses this reload only
            raise self._as_failure(tracked, error) from None

    def _as_failure(self, tracked: SupervisedProgram, error: Exception) -> Failure:
        """Return *error* itself if it is a Failure; anything else is an error of ours."""
        if isinstance(error, Failure):
            return error
        self.supervised.logger.critical(f"hotreload: {tracked.name}: {traceback.format_exc()}")
        return Failure(
            Fault.INTERNAL, f"an error inside hotreload: {type(error).__name__}: {error}"
        )

    def _look_and_run(self, tracked: SupervisedProgram, reload: Reload, wishes: Wishes) -> None:
        policy = wishes.over(self._admit(tracked))
        found = self._find(tracked, policy.strategy)
        tracked.remember(found.old.master, found.family)
        self._must_be_alone(tracked, found.old)
        if policy.ready.kind == "notify":
            self._must_be_heard(tracked, found.old)
        family, program = found.family, tracked.program
        policy = replace(policy, strategy=self._strategy(tracked, found, policy))
        family.admit(self.world, found.old, policy, program)
        ready, why = family.readiness(found.old, policy)
        policy = replace(policy, ready=ready)
        chosen = family.strategies[policy.strategy]
        if chosen.in_place or len(family.strategies) > 1:
            what = chosen.what.format(signal=policy.signal)
            reload.say(f"strategy = {policy.strategy}: {what}")
        for line in (why, *family.warnings(self.world, found.old, program)):
            if line:
                reload.say(line)
        for section in self._misspelt(tracked):
            reload.say(f"warning: {self._stranger(section)}; is it meant for {tracked.name}?")
        self._look_at_pidfile(tracked, reload, found.old, policy)
        self._run(tracked, reload, found, policy, None)

    def _find(self, tracked: SupervisedProgram, strategy: str) -> Found:
        """Return what runs, or refuse the reload."""
        try:
            found = self._seen(tracked, strategy)
        except servers.Ambiguous as error:
            raise Failure(Fault.NOT_RELOADABLE, f"{tracked.name}: {error}") from None
        if found is not None:
            return found
        known = None
        if strategy != AUTO:
            known = self._survey(tracked, AUTO) or self._survey(tracked)
        if known is not None:
            raise Failure(
                Fault.NOT_RELOADABLE,
                f"{tracked.name} has no strategy {strategy}, its family is {known.family.name} "
                f"({', '.join(known.family.strategies)}); nothing was sent",
            )
        family = self._boots(tracked)
        if family is not None:
            raise self._too_early(tracked, family)
        names = ", ".join(f.name for f in servers.FAMILIES if not f.only_if_asked_for)
        raise Failure(
            Fault.NOT_RELOADABLE,
            f"{tracked.name} (pid {tracked.pid}) is no server with workers that hotreload "
            f"knows ({names}); if it reloads itself on a signal, set strategy = signal in "
            f"[hotreload:{tracked.name}]",
        )

    def _strategy(self, tracked: SupervisedProgram, found: Found, policy: Policy) -> str:
        """Return the strategy of one reload: asked for, or what the family finds best."""
        if policy.strategy == AUTO:
            return found.family.best_strategy(self.world, found.old, tracked.program)
        return policy.strategy

    def _run(
        self,
        tracked: SupervisedProgram,
        reload: Reload,
        found: Found,
        policy: Policy,
        successor: Optional[Process],
    ) -> None:
        """Let the protocol run, from its beginning or from a *successor* that exists."""
        old = found.old
        reload.old_pid = old.master.pid
        steps = self._steps(tracked, reload, found, policy, successor)  # or it is refused
        tracked.remember(old.master, found.family)
        tracked.want_successor()
        end_capture = capture(tracked.process, reload.output.append)
        reload.when_ended(self._close(tracked, old, end_capture))
        self.supervised.tick.turn_on()
        self._idle_since = None
        self.announcer.announce(tracked, reload)
        reload.begin(steps)

    def _steps(
        self,
        tracked: SupervisedProgram,
        reload: Reload,
        found: Found,
        policy: Policy,
        successor: Optional[Process],
    ) -> Steps:
        """Return the protocol of the reload's strategy."""
        old, family = found.old, found.family
        check = None
        if policy.check is not None:
            check = CheckCommand(tracked.process, tracked.name, policy.check, old.master)
        keeper = Keeper(reload, tracked, self.world)
        if successor is not None:
            server = family.server(self.world, old, policy, tracked.program)
            server.expect(successor)
            return protocol.resume(server, policy, keeper, successor, check)
        strategy = family.strategies.get(policy.strategy)
        in_place = strategy is not None and strategy.in_place
        if in_place:
            reload.new_pid = old.master.pid

        def steps() -> Steps:  # what the trial leaves behind is seen before the server is asked
            if in_place:
                renewal = family.in_place(self.world, old, policy, tracked.program)
                renewal.output = reload.output
                yield from protocol.in_place(renewal, policy, keeper.commit, check)
            else:
                server = family.server(self.world, old, policy, tracked.program)
                reload.when_ended(self._give_up(tracked, server))
                yield from protocol.reload(server, policy, keeper, check)

        trial = self._trial(tracked, reload, found, policy)
        return steps() if trial is None else protocol.tried(trial, policy, steps())

    def _trial(
        self, tracked: SupervisedProgram, reload: Reload, found: Found, policy: Policy
    ) -> Optional[CheckCommand]:
        """Return the command that tries the release before anything is touched."""
        command, told = policy.check_before, None
        strategy = found.family.strategies.get(policy.strategy)
        if command == "default" or (command is None and strategy is not None and strategy.tried):
            told = found.family.trial(self.world, found.old, tracked.program)
            if told is None and command == "default":
                raise Failure(
                    Fault.BAD_SETTING,
                    f"[hotreload:{tracked.name}] check_before = default: what to try cannot be "
                    f"told from command = {tracked.program.command}; write check_before = COMMAND",
                )
            if told is None:
                why = found.family.why_no_trial(found.old)
                if why:
                    reload.say(
                        f"warning: {tracked.name}: the release is not tried before: {why}; "
                        f"set check_before = COMMAND"
                    )
                return None
            command = shlex.join(told.words)
        if command is None and strategy is not None and strategy.in_place:
            reload.say(
                f"warning: {tracked.name}: the release is not tried before, and {found.old.master} "
                f"cannot go back from a broken one; set check_before = COMMAND"
            )
        if command is None or command == "none":
            return None
        return CheckCommand(
            tracked.process,
            tracked.name,
            command,
            found.old.master,
            title=f"check_before ({told.title if told is not None else command})",
            fault=Fault.TRIAL_FAILED,
            run_as=told.run_as if told is not None else None,
            more=told.environment if told is not None else None,
        )

    def _admit(self, tracked: SupervisedProgram) -> Policy:
        """Refuse what cannot be reloaded now, else return its settings."""
        if self.supervised.stopping:
            raise Failure(Fault.SHUTDOWN_STATE, "supervisord is shutting down or reloading itself")
        if tracked.starting:
            raise Failure(
                Fault.STILL_STARTING,
                f"{tracked.name} is {tracked.state}, not RUNNING yet{self._cause(tracked)}",
            )
        if not tracked.running:
            raise Failure(
                Fault.NOT_RUNNING,
                f"{tracked.name} is {tracked.state}, not RUNNING{self._cause(tracked)}",
            )
        return self.policy(tracked)

    def _cause(self, tracked: SupervisedProgram) -> str:
        """Return why a program does not come up, where its command tells."""
        family = servers.family_by_command(tracked.program)
        why = family.why_not_running(tracked.program) if family is not None else ""
        return f": {why}" if why else ""

    def _boots(self, tracked: SupervisedProgram) -> Optional[AnyFamily]:
        """Return the family of a server that has no workers yet."""
        current = tracked.current()
        return servers.booting_family(self.world, current) if current is not None else None

    def _too_early(self, tracked: SupervisedProgram, family: AnyFamily) -> Failure:
        lacking = family.lacks(tracked.program)
        return Failure(Fault.STILL_STARTING, f"{tracked.name} (pid {tracked.pid}) has no {lacking}")

    def _look_at_pidfile(
        self, tracked: SupervisedProgram, reload: Reload, old: Any, policy: Policy
    ) -> None:
        """Say what is wrong with the pidfile; it is a hint, and never believed alone."""
        if policy.pidfile is None:
            return
        try:
            named = self.world.read_pid(policy.pidfile, tracked.rights)
        except ValueError as error:
            reload.say(f"warning: {error}; going by who holds its sockets")
            return
        if named != old.master.pid:
            reload.say(
                f"warning: pidfile {policy.pidfile}: names pid {named}, which is not the master "
                f"({old.master}); going by who holds its sockets"
            )

    def _must_be_alone(self, tracked: SupervisedProgram, old: Any) -> None:
        previous = tracked.previous_generations()
        if previous:
            raise Failure(
                Fault.FOREIGN_SUCCESSOR,
                f"an older generation ({previous[0]}) of {tracked.name} still lives",
            )
        servers.must_not_be_stopped(self.world, tracked.name, old.master)
        for successor in tracked.successors():
            raise servers.foreign_successor(tracked.name, successor, old.master)

    def _must_be_heard(self, tracked: SupervisedProgram, old: Any) -> None:
        """Refuse to wait for a READY=1 that cannot come."""
        sockets = self.supervised.notify_sockets
        trouble, path = sockets.trouble(tracked.name), sockets.path(tracked.name)
        if trouble:
            raise Failure(
                Fault.NOT_RELOADABLE, f"{tracked.name}: ready = notify cannot be used: {trouble}"
            )
        if not path or tracked.given_socket not in (path, None):
            raise Failure(
                Fault.NOT_RELOADABLE,
                f"{tracked.name}: ready = notify, but {old.tracked} was started without its "
                f"NOTIFY_SOCKET; start it once more: supervisorctl restart {tracked.name}",
            )

    def _survey(
        self, tracked: SupervisedProgram, strategy: Optional[str] = None
    ) -> Optional[Found]:
        try:
            return self._seen(tracked, strategy)
        except servers.Ambiguous:
            return None

    def _seen(self, tracked: SupervisedProgram, strategy: Optional[str]) -> Optional[Found]:
        """Return what runs of a program.

        :raises Ambiguous: when that cannot be told.
        """
        current = tracked.current()
        if current is None:
            return None
        program = tracked.program
        try:
            settings = self.settings().policy(tracked.group, tracked.process.config.name)
            strategy = strategy or settings.strategy
            program = replace(program, pidfile=settings.pidfile)
        except (Failure, BadSetting):
            strategy = AUTO  # a setting is bad: the reload is refused, what serves is told
        return servers.family_of(self.world, current, program, strategy)

    def _blend(self, old: Any) -> str:
        """Return whose workers a master has after its own reload has failed."""
        children = set(self.world.children(old.master))
        kept = not children.isdisjoint(old.children)
        if kept and children <= old.children:
            return "; its workers are the old ones"
        return "; its workers may be of either release" if kept else "; its workers are new ones"

    def _close(
        self, tracked: SupervisedProgram, old: Any, end_capture: Callable[[], None]
    ) -> Callable[[Reload], None]:
        def close(reload: Reload) -> None:
            end_capture()
            tracked.successor = None
            if reload.outcome is Outcome.SUCCEEDED and reload.new_pid == reload.old_pid:
                tracked.generation += 1  # the same master, with new workers
            reload.serving = self.serving(tracked)
            if reload.outcome is Outcome.FAILED and reload.new_pid == reload.old_pid != 0:
                renewed = reload.adopted and tracked.running and self.world.alive(old.master)
                reload.serving += self._blend(old) if renewed else ""
            if reload.fault in (Fault.SUCCESSOR_EXITED, Fault.NOT_READY, Fault.NO_SUCCESSOR):
                reload.reason += last_words(reload.output)
            ends = reload.adopted and reload.fault is Fault.SUCCESSOR_EXITED
            if reload.adopted and reload.fault in (Fault.INTERNAL, Fault.NOT_RELOADABLE):
                tracked.end_previous()  # an error has kept it from being retired
            if ends and not tracked.exit_is_held and tracked.current() is not None:
                reload.serving = (
                    f"nothing serves: generation {tracked.generation} (pid {tracked.pid}) ends, "
                    f"then supervisord does as autorestart says"
                )

        return close

    def _give_up(self, tracked: SupervisedProgram, server: Any) -> Callable[[Reload], None]:
        """Return what ends a successor that comes late, if one was asked for."""

        def give_up(reload: Reload) -> None:
            asked = server.before is not None
            if asked and reload.outcome is not Outcome.SUCCEEDED and not reload.new_pid:
                tracked.give_up_on_successor(server.before)

        return give_up

    def _follow_up(self, tracked: SupervisedProgram) -> None:
        """Do the one reload that was asked for by HUPs during another."""
        try:
            self.start(tracked)
        except Failure as failure:
            self.supervised.logger.warn(
                f"hotreload: {tracked.name}: the reload asked for by HUP is refused: "
                f"{failure.reason}"
            )

    def _go_on(self, batch: Batch) -> None:
        """Go on with a batch whose current reload has ended, or drains for long."""
        current = batch.current
        if current is None or current.done:
            self._next(batch)
        elif current.drains_on:
            if batch.waiting:
                current.say("still draining: the next program does not wait for it any longer")
            self._next(batch)

    def _next(self, batch: Batch) -> None:
        """Begin the next reload of a batch."""
        while batch.waiting:
            tracked, reload = batch.waiting.popleft()
            batch.current = reload
            batch.results.append((tracked, reload))
            if reload.done:
                continue  # cancelled, or the program was stopped, while it was queued
            try:
                self._must_go_on(batch, tracked)
                self._begin(tracked, reload, batch.wishes)
            except Failure as failure:
                self._refuse(tracked, reload, failure)
            if not reload.done:
                return
        self._batches.remove(batch)

    def _refuse(self, tracked: SupervisedProgram, reload: Reload, failure: Failure) -> None:
        reload.serving = self.serving(tracked)
        reload.abandon(failure)

    def _must_go_on(self, batch: Batch, tracked: SupervisedProgram) -> None:
        for before, reload in batch.results[:-1]:
            failed = reload.done and reload.outcome is not Outcome.SUCCEEDED
            if before.group == tracked.group and failed:
                raise Failure(
                    Fault.NOT_ATTEMPTED, f"not attempted after the failure of {before.name}"
                )


EXCEPTION = re.compile(
    r"^[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit|NotFound)\b"  # Python
    r"|^(Error|\S+: error): "  # what gunicorn says of its configuration and command line
    r"|^\S+:\d+:in .* \([A-Z][\w:]*(Error|Exception)\)$"  # Ruby
)


def last_words(output: Iterable[str]) -> str:
    """Return the last exception in what a program has printed, but for gunicorn's own."""
    found = [line for line in output if EXCEPTION.match(line) and "HaltServer" not in line]
    if found[1:] and found[-2].startswith("Error: ") and found[-2].rstrip().endswith(":"):
        found[-1] = f"{found[-2].rstrip()} {found[-1]}"  # a sentence, and its cause
    return f": {found[-1][:300]}" if found else ""
