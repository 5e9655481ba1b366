"""The life of one command: started, watched, reloaded, and never survived by anything."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from functools import partial
from typing import Callable, Optional, TypeVar

from supervisor_hotreload.core import protocol
from supervisor_hotreload.core.model import Failure, Fault, Phase
from supervisor_hotreload.core.reload import Reload
from supervisor_hotreload.servers.base import GUESS, foreign_successor
from supervisor_hotreload.servers.gunicorn import command as gunicorn_command
from supervisor_hotreload.servers.gunicorn import family as gunicorn
from supervisor_hotreload.servers.gunicorn.survey import GunicornGeneration
from supervisor_hotreload.servers.lineage import Inheritor
from supervisor_hotreload.servers.recognition import Ambiguous
from supervisor_hotreload.servers.release_guard import ReleaseGuard
from supervisor_hotreload.servers.signals import must_not_be_stopped
from supervisor_hotreload.system.credentials import ids_of
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World
from supervisor_hotreload.wrapper import listeners, upgrade
from supervisor_hotreload.wrapper.child import Command
from supervisor_hotreload.wrapper.handover import Handover
from supervisor_hotreload.wrapper.keeper import Keeper
from supervisor_hotreload.wrapper.options import Options
from supervisor_hotreload.wrapper.overlap import DRAIN, Overlap
from supervisor_hotreload.wrapper.reports import Reports
from supervisor_hotreload.wrapper.served import Served
from supervisor_hotreload.wrapper.signals import Signals, name_of
from supervisor_hotreload.wrapper.sockets import Listening
from supervisor_hotreload.wrapper.upgrade import Refused, Upgrade

Found = TypeVar("Found")

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

LAST_CHILDREN = 2.0
"""Seconds that processes which the server has left behind have to end by themselves. Python's
multiprocessing has a resource tracker, which ends a moment after all others."""

BLIND = 5.0
"""Seconds that the wrapper waits for what it cannot look at, once the server has ended."""

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
        self._stopping: Optional[int] = None
        self._final: Optional[int] = None
        self._told = self._complaint = ""
        self._leftovers: dict[Process, float] = {}
        self._upset = False
        self._blind_since: Optional[float] = None
        self._ended_at: Optional[float] = None
        self._has_children = True

    # -- the loop

    def run(self) -> int:
        """Serve until the server has ended; return its wait status. Never raises."""
        while True:
            self._guarded(self._bury)
            self._guarded(self._step)
            if self._final is not None and not (
                self._waits_for_strays() or self._waits_for_children()
            ):
                break
            self._guarded(lambda: self._report(""))
            for number in self._guarded(self._heard) or ():
                self._guarded(partial(self._hear, number), again=True)
        if not self._wants_to_leave:
            self._guarded(self._served.end_forks)
        self._guarded(lambda: self._report("left" if self._wants_to_leave else "stopped"))
        return self._final

    def _guarded(self, step: Callable[[], Found], again: bool = False) -> Optional[Found]:
        """Take a step of the loop; one that raises is told of, and the server serves on.

        :param again: try once more, for what nobody would ask for a second time.
        """
        try:
            return step()
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the server
            self._upset = True
            text = f"an error inside hotreload-run: {type(error).__name__}: {error}"
            if text != self._complaint:
                self._complaint = text
                self._reports.say(f"{text}; {self._served}")
        return self._guarded(step) if again else None

    def _heard(self) -> list[int]:
        try:
            patience = self._patience()
            if self._upset:  # what was not done has to be tried again, though nothing happens
                patience = GLANCE if patience is None else min(patience, GLANCE)
            self._upset = False
            return self._signals.wait(patience)
        except Exception:
            time.sleep(LAZY_TICK)  # the loop must not turn without a pause
            raise

    def _waits_for_strays(self) -> bool:
        """Tell whether anything has to end before the wrapper may; what cannot be told is
        waited for a while."""
        strays = self._guarded(self._strays)
        if strays is not None:
            self._blind_since = None
            return strays
        now = time.monotonic()
        self._blind_since = self._blind_since or now
        return now - self._blind_since < BLIND

    def _waits_for_children(self) -> bool:
        """Tell whether something that the server has left behind may still end by itself.

        Nothing is sent to it: a server may have started a process that is to outlive it.
        """
        if self._wants_to_leave or not self._has_children:
            return False
        now = time.monotonic()
        self._ended_at = self._ended_at or now
        return now - self._ended_at < LAST_CHILDREN

    def _patience(self) -> Optional[float]:
        """Return how long to sleep at most, None for as long as nothing happens."""
        if self._reload is not None:
            return TICK if self._reload.seconds < BRISK else LAZY_TICK
        if self._final is not None or self._stopping is not None or self._upgrade.pid is not None:
            return LAZY_TICK
        if self._leftovers:
            return LAZY_TICK
        if not self._served.ready:
            return LAZY_TICK if self._served.age < BRISK else GLANCE
        return None if self._served.is_child else GLANCE

    def _hear(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._wants_reload = True
        elif number == signal.SIGUSR2:
            self._wants_upgrade = True
        elif number in STOPS and self._options.leave:
            self._wants_to_leave = True
        elif number in STOPS:
            self._stop(number)
        elif number != signal.SIGCHLD:
            self._world.send(self._served.master(), number)

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
        if self._reload is None:
            self._end_leftovers()

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
        try:
            self._reports.reloading(reload)
            reload.begin(self._steps(reload))
        except Failure as failure:
            reload.abandon(failure)
        except Exception as error:
            if reload.phase is Phase.QUEUED:  # else it goes on at the next step
                why = f"an error inside hotreload-run: {type(error).__name__}: {error}"
                reload.abandon(Failure(Fault.INTERNAL, why))
            raise

    def _steps(self, reload: Reload) -> protocol.Steps:
        """Return the protocol for what the server is.

        :raises Failure: when it cannot be reloaded now.
        """
        policy = self._options.policy
        try:
            old = self._served.told_apart()
        except Ambiguous as error:
            raise Failure(Fault.NOT_RELOADABLE, f"{error}; nothing was sent") from None
        server: protocol.Server
        if old is not None and not self._inherits:
            must_not_be_stopped(self._world, self._options.name, old.master)
            for successor in self._served.successors():
                raise foreign_successor(self._options.name, successor, old.master)
            if not old.readable and policy.ready.kind == "heartbeat":
                policy = replace(policy, ready=GUESS)
            master, program = old.master, self._served.program
            gunicorn.FAMILY.admit(self._world, old, policy, program)
            server = gunicorn.FAMILY.server(self._world, old, policy, program)
        elif old is None and self._options.looks_like_gunicorn:
            raise Failure(
                Fault.STILL_STARTING, f"the gunicorn ({self._served.process}) has no workers yet"
            )
        else:
            master = self._served.process
            server = overlap = self._overlap(old)
            reload.when_ended(lambda _: overlap.close())
        reload.old_pid = master.pid
        guard = ReleaseGuard(self._world, self._command.folder, ids_of(os.getpid()))
        keeper = Keeper(self, reload, guard)
        return protocol.reload(server, policy, keeper, self._check(master))

    @property
    def _inherits(self) -> bool:
        """Tell whether the server is given its sockets: gunicorn closes the descriptor that
        it is given and keeps a copy, so that its own re-exec does not find it any more."""
        return bool(self._listening.descriptors) or "fd://" in self._options.line

    def _overlap(self, old: Optional[GunicornGeneration]) -> Overlap:
        told = gunicorn_command.options(self._options.line)
        return Overlap(
            self._world,
            listeners.survey(self._world, self._served.process),
            old if old is not None and old.readable else None,
            self._options,
            self._command.start,
            told.get("pid") or told.get("pidfile"),
        )

    def _check(self, master: Process) -> Optional[protocol.Judge]:
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

    def _end_leftovers(self) -> None:
        """End what a reload that failed by an error has left beside the server."""
        others = self._others()
        self._leftovers = {p: since for p, since in self._leftovers.items() if p in others}
        for process in others:
            if process not in self._leftovers:
                self._leftovers[process] = self._world.now()
                self._reports.say(f"{process} is left of a reload and ended; {self._served}")
                self._send(process, signal.Signals[f"SIG{self._options.stop_signal}"])
            elif self._world.now() - self._leftovers[process] > (
                self._options.policy.drain_timeout or DRAIN
            ):
                self._world.signal(process, "KILL")
        self._beside.intersection_update(others)

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
                self._has_children = False
                return
            self._has_children = True
            if pid == 0:
                return
            if pid == self._served.process.pid:
                self._died(status)
            elif pid in self._reapers:
                self._guarded(partial(self._reapers.pop(pid), pid, status))

    def _died(self, status: int) -> None:
        """The tracked process has ended: follow its successor if there is one, else end too."""
        found = None if self._stopping is not None else self._guarded(self._inheritor, again=True)
        if found is None:
            self._final = status
            if self._reload is not None:
                ended = Failure(Fault.OLD_EXITED, f"the server ({self._served.process}) ended")
                self._reload.abandon(ended)
                self._reload = None
            return
        before = self._served.process
        self._served.succeed(found.process)
        self._reports.say(f"{found.process} takes over from {before}, which ended: {found.why}")

    def _inheritor(self) -> Optional[Inheritor]:
        elders = {process.pid for process in self._beside if process != self._successor}
        seen = [] if self._successor is None else [self._successor]
        return self._served.inheritor(seen, lambda pid: pid in self._reapers or pid in elders)

    def _strays(self) -> bool:
        """Tell whether anything has to end before the wrapper may.

        A master may have forked its successor right before it was stopped:
        that hears no signal until it has executed itself.
        """
        if self._stopping is not None:
            known = {process.pid for process in self._beside}
            found = self._served.inheritor([], lambda pid: pid in self._reapers or pid in known)
            if found is not None:
                self._beside.add(found.process)
                self._send(found.process, self._stopping)
            elif self._served.forks():
                return True
        return bool(self._others())

    def _stop(self, number: int) -> None:
        """Pass on a signal that ends the server to every generation of it."""
        before, self._stopping = self._stopping, number
        if before is None:
            self._guarded(self._reports.stopping)
        master = self._guarded(self._served.master) or self._served.process
        masters = [master, *(self._guarded(self._others) or self._beside)]
        if self._reload is not None:
            why = Failure(Fault.STOPPED, f"{name_of(number)} ends the server")
            self._guarded(partial(self._reload.abandon, why))
            self._reload = None
        for process in dict.fromkeys(masters):
            self._guarded(partial(self._send, process, number))

    def _others(self) -> list[Process]:
        """Return the generations that live beside the tracked one."""
        living = (process for process in self._beside if self._world.alive(process))
        return [process for process in living if process != self._served.process]

    def _send(self, process: Process, number: int) -> None:
        try:
            self._world.send(process, number)
            self._world.signal(process, "CONT")  # a stopped process hears nothing else
        except OSError:
            # it cannot be looked at (no descriptor is left): a child's pid is nobody else's
            if not self._world.is_child(process.pid):
                raise
            os.kill(process.pid, number)
            os.kill(process.pid, signal.SIGCONT)

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
