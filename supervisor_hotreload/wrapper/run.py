"""The life of one command: started, watched, reloaded, and never survived by anything."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import Callable, Optional

from supervisor_hotreload import protocol
from supervisor_hotreload.driver import Reload
from supervisor_hotreload.identity import Process
from supervisor_hotreload.model import Failure, Fault
from supervisor_hotreload.servers import gunicorn_command
from supervisor_hotreload.servers.family import GUESS, foreign, must_hear
from supervisor_hotreload.servers.gunicorn import Generation, Gunicorn
from supervisor_hotreload.world import World
from supervisor_hotreload.wrapper import listeners, upgrade
from supervisor_hotreload.wrapper.child import Command
from supervisor_hotreload.wrapper.handover import Handover
from supervisor_hotreload.wrapper.keeper import Keeper
from supervisor_hotreload.wrapper.options import Options
from supervisor_hotreload.wrapper.overlap import Overlap
from supervisor_hotreload.wrapper.reports import Reports
from supervisor_hotreload.wrapper.served import Served
from supervisor_hotreload.wrapper.signals import Signals
from supervisor_hotreload.wrapper.sockets import Listening
from supervisor_hotreload.wrapper.upgrade import Refused, Upgrade

TICK = 0.02
"""Seconds between two steps of an active reload."""

LAZY_TICK = 0.1
"""... once it has taken longer than BRISK, and of everything else that is under way."""

BRISK = 10.0
"""Seconds."""

GLANCE = 1.0
"""Seconds between two looks where the kernel does not tell: at a server that is no
child of ours (no subreaper), at a first generation that takes its time."""

STOPS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})
"""What ends the server, and with it the wrapper."""

UNKNOWN = 1 << 8
"""The wait status of a server whose own is not known: exit status 1."""


class Runner:
    """One command and the generations of its server.

    :param command: starts a copy of the server.
    :param state: what an earlier image of this process has handed over.
    :raises CannotStart: when the command cannot be executed.
    """

    def __init__(
        self,
        options: Options,
        signals: Signals,
        listening: Listening,
        command: Command,
        reports: Reports,
        state: Optional[Handover],
    ) -> None:
        self._options = options
        self._signals = signals
        self._listening = listening
        self._command = command
        self._reports = reports
        self._world = world = World()
        if state is None:
            self._served = Served(world, options, command.start(), 1, False)
        else:
            self._served = Served(world, options, state.server, state.generation, state.ready)
            reports.counts.update(state.counts)
            for number in state.pending:
                self._signals.put(number)
        self._reload: Optional[Reload] = None
        self._successor: Optional[Process] = None
        self._beside: set[Process] = set()
        self._reapers: dict[int, Callable[[int, int], None]] = {}
        self._upgrade = Upgrade(world.now)
        self._wants_reload = self._wants_upgrade = self._wants_to_leave = False
        self._stopping: Optional[signal.Signals] = None
        self._final: Optional[int] = None
        self._told = ""

    # -- the loop

    def run(self) -> int:
        """Serve until the server has ended; return its wait status."""
        while True:
            self._bury()
            self._step()
            if self._final is not None and not self._strays():
                break
            self._report("")
            for number in self._signals.wait(self._patience()):
                self._hear(number)
        if not self._wants_to_leave:
            self._served.end_forks()
        self._report("left" if self._wants_to_leave else "stopped")
        return self._final

    def _patience(self) -> Optional[float]:
        """Return how long to sleep at most, None for as long as nothing happens."""
        if self._reload is not None:
            return TICK if self._reload.seconds < BRISK else LAZY_TICK
        if self._final is not None or self._stopping is not None or self._upgrade.pid is not None:
            return LAZY_TICK
        if not self._served.ready:
            return LAZY_TICK if self._served.age < BRISK else GLANCE
        return None if self._served.is_child else GLANCE

    def _hear(self, number: signal.Signals) -> None:
        if number == signal.SIGHUP:
            self._wants_reload = True
        elif number == signal.SIGUSR2:
            self._wants_upgrade = True
        elif number in STOPS and self._options.leave:
            self._wants_to_leave = True
        elif number in STOPS:
            self._stop(number)
        elif number != signal.SIGCHLD:
            self._world.signal(self._served.master(), number.name[3:])

    def _step(self) -> None:
        """Go on with what is under way, then begin what is wanted."""
        self._upgrade.step()
        if self._reload is not None:
            self._reload.step()
            self._tell_progress(self._reload)
            if self._reload.done:
                self._reload = None
                self._reports.ready(str(self._served))
        if self._final is None and self._served.vanished:
            self._died(UNKNOWN if self._stopping is None else 0)
        if self._reload is None and self._stopping is None and self._final is None:
            self._begin_what_is_wanted()

    def _begin_what_is_wanted(self) -> None:
        if not self._served.ready and self._served.is_up():
            self._served.ready = True
            self._reports.ready(str(self._served))
        if self._wants_to_leave:
            self._final = 0
        elif self._wants_upgrade and self._upgrade.pid is None:
            self._begin_upgrade()
        elif self._wants_reload and self._may_reload():
            self._wants_reload = False
            self._begin_reload()

    def _may_reload(self) -> bool:
        """A first generation that still starts is given the time that any other has."""
        return self._served.ready or self._served.age > self._options.policy.ready_timeout

    # -- reloads

    def _begin_reload(self) -> None:
        reload = Reload(self._options.name, self._world.now, self._reports.log)
        reload.when_ended(self._reports.ended)
        self._reload = reload
        self._reports.reloading(reload)
        try:
            reload.begin(self._steps(reload))
        except Failure as failure:
            reload.abandon(failure)

    def _steps(self, reload: Reload) -> protocol.Steps:
        """Return the protocol for what the server is.

        :raises Failure: when it cannot be reloaded now.
        """
        policy, old = self._options.policy, self._served.survey()
        server: protocol.Server
        if old is not None and not self._inherits:
            must_hear(self._world, self._options.name, old.master)
            for successor in self._served.successors():
                raise foreign(self._options.name, successor, old.master)
            if not old.readable and policy.ready.kind == "heartbeat":
                policy = replace(policy, ready=GUESS)
            master = old.master
            server = Gunicorn(self._world, old, policy, self._options.line)
        elif old is None and self._options.looks_like_gunicorn:
            raise Failure(
                Fault.STILL_STARTING, f"the gunicorn ({self._served.process}) has no workers yet"
            )
        else:
            master = self._served.process
            server = overlap = self._overlap(old)
            reload.when_ended(lambda _: overlap.close())
        reload.old_pid = master.pid
        keeper = Keeper(self, reload, self._command.folder)
        return protocol.reload(server, policy, keeper, self._check(master))

    @property
    def _inherits(self) -> bool:
        """Tell whether the server is given its sockets: gunicorn closes the descriptor that
        it is given and keeps a copy, so that its own re-exec does not find it any more."""
        return bool(self._listening.descriptors) or "fd://" in self._options.line

    def _overlap(self, old: Optional[Generation]) -> Overlap:
        told = gunicorn_command.options(self._options.line)
        return Overlap(
            self._world,
            listeners.survey(self._world, self._served.process),
            old if old is not None and old.readable else None,
            self._options,
            self._command.start,
            told.get("pid") or told.get("pidfile"),
        )

    def _check(self, master: Process) -> Optional[protocol.Check]:
        if self._options.policy.check is None:
            return None
        from supervisor_hotreload.wrapper.check import CheckCommand  # tempfile takes memory

        return CheckCommand(self._options, master, self._reapers)

    def again(self) -> None:
        """Reload once more when this reload is over, as if HUP had come."""
        self._wants_reload = True

    def expect(self, new: Process) -> None:
        self._successor = new
        self._beside.add(new)
        self._served.know(new)

    def adopt(self, new: Process) -> None:
        """Track *new*; the old generation is on its way out, and waited for at exit."""
        self._beside.add(self._served.process)
        self._successor = None
        self._served.succeed(new)

    def _tell_progress(self, reload: Reload) -> None:
        text = "" if reload.progress is None else f"{reload.phase.value}: {reload.progress.text}"
        if self._options.verbose and text not in ("", self._told) and not reload.done:
            self._reports.say(text)
        self._told = text

    # -- the end

    def _bury(self) -> None:
        """Reap all that has ended: the server, its orphans, whatever pid 1 is left with."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._served.process.pid:
                self._died(status)
            elif pid in self._reapers:
                self._reapers.pop(pid)(pid, status)

    def _died(self, status: int) -> None:
        """The tracked process has ended: follow its successor if there is one, else end too."""
        elders = {process.pid for process in self._beside if process != self._successor}
        seen = [] if self._successor is None else [self._successor]
        heir = self._served.inheritor(seen, lambda pid: pid in self._reapers or pid in elders)
        if heir is None or self._stopping is not None:
            self._final = status
            if self._reload is not None:
                ended = Failure(Fault.OLD_EXITED, f"the server ({self._served.process}) ended")
                self._reload.abandon(ended)
                self._reload = None
            return
        before = self._served.process
        self._served.succeed(heir.process)
        self._reports.say(f"{heir.process} takes over from {before}, which ended: {heir.why}")

    def _strays(self) -> bool:
        """Tell whether anything has to end before the wrapper may.

        A master may have forked its successor right before it was stopped:
        that hears no signal until it has executed itself.
        """
        if self._stopping is not None:
            known = {process.pid for process in self._beside}
            heir = self._served.inheritor([], lambda pid: pid in self._reapers or pid in known)
            if heir is not None:
                self._beside.add(heir.process)
                self._send(heir.process, self._stopping)
            elif self._served.forks():
                return True
        return bool(self._others())

    def _stop(self, number: signal.Signals) -> None:
        """Pass on a signal that ends the server to every generation of it."""
        if self._stopping is None:
            self._reports.stopping()
        self._stopping = number
        masters = [self._served.master(), *self._others()]
        if self._reload is not None:
            self._reload.abandon(Failure(Fault.STOPPED, f"{number.name} ends the server"))
            self._reload = None
        for master in dict.fromkeys(masters):
            self._send(master, number)

    def _others(self) -> list[Process]:
        """Return the generations that live beside the tracked one."""
        living = (process for process in self._beside if self._world.alive(process))
        return [process for process in living if process != self._served.process]

    def _send(self, process: Process, number: signal.Signals) -> None:
        self._world.signal(process, number.name[3:])
        self._world.signal(process, "CONT")  # a stopped process hears nothing else

    # -- its own upgrade

    def _begin_upgrade(self) -> None:
        try:
            self._reapers[self._upgrade.begin()] = self._go_on_with_upgrade
        except Refused as refused:
            self._refuse_upgrade(refused)

    def _go_on_with_upgrade(self, pid: int, status: int) -> None:
        try:
            self._upgrade.judge(status)
            if self._reload is not None or self._stopping is not None or self._final is not None:
                return  # tried again when that is over
            self._reports.say("hotreload-run upgrades itself in place")
            upgrade.execute(self._handover(), self._signals, self._listening)
        except Refused as refused:
            self._refuse_upgrade(refused)

    def _handover(self) -> Handover:
        return Handover(
            self._served.process,
            self._served.generation,
            self._command.folder,
            self._served.ready,
            sorted(self._signals.mask),
            self._listening.opened,
            self._reports.counts,
            [signal.SIGHUP] if self._wants_reload else [],
        )

    def _refuse_upgrade(self, why: Refused) -> None:
        self._wants_upgrade = False
        self._reports.say(f"hotreload-run was not upgraded, this version goes on: {why}")

    def _report(self, state: str) -> None:
        if self._stopping is not None:
            state = state or "stopping"
        elif self._reload is not None:
            state = state or "reloading"
        state = state or ("serving" if self._served.ready else "starting")
        self._reports.write(state, self._served.generation, self._served.process.pid)
