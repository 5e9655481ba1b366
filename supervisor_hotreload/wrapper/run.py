"""Runs the loop of hotreload-run: waits for signals, reaps children, steps what is under way."""

from __future__ import annotations

import signal
import time
from functools import partial
from typing import Optional

from supervisor_hotreload.core.model import Failure, Fault
from supervisor_hotreload.system.world import World
from supervisor_hotreload.wrapper.children import Children
from supervisor_hotreload.wrapper.ending import STOPS, Ending
from supervisor_hotreload.wrapper.errors import ErrorBoundary
from supervisor_hotreload.wrapper.handover import Handover
from supervisor_hotreload.wrapper.launch import Launch, Launcher
from supervisor_hotreload.wrapper.listening import Listening
from supervisor_hotreload.wrapper.options import RunOptions
from supervisor_hotreload.wrapper.others import OtherGenerations
from supervisor_hotreload.wrapper.reloads import Reloads
from supervisor_hotreload.wrapper.reports import Reports
from supervisor_hotreload.wrapper.signals import Signals, name_of
from supervisor_hotreload.wrapper.tracked import TrackedServer
from supervisor_hotreload.wrapper.upgrade import Upgrade

STEP_SECONDS = 0.02
"""Between two steps of a reload in its first BRISK_SECONDS."""

SLOW_STEP_SECONDS = 0.1
"""Between two steps of a longer reload, and of everything else that is under way."""

BRISK_SECONDS = 10.0

GLANCE_SECONDS = 1.0
"""Between two looks where the kernel reports nothing: at a server that is no child of ours (no
subreaper), at a first generation that takes its time."""

UNKNOWN = 1 << 8
"""The wait status of a server that we could not reap: exit status 1."""


class Runner:
    """Runs one command, the generations of its server, and what is under way.

    :param launcher: starts a copy of the server.
    :param state: what an earlier version of this process has handed over.
    :raises CannotStart: when there can be no server.
    """

    def __init__(
        self,
        world: World,
        options: RunOptions,
        signals: Signals,
        listening: Listening,
        launcher: Launcher,
        reports: Reports,
        state: Optional[Handover],
    ) -> None:
        self._world = world
        self._options = options
        self._signals = signals
        self._listening = listening
        self._reports = reports
        if state is None:
            launch, number, is_ready = launcher.start(), 1, False
        else:
            launch, number, is_ready = Launch(state.server), state.generation, state.ready
            reports.counts.update(state.counts)
            for pending in state.pending:
                signals.put(pending)
        self._children = children = Children()
        self._tracked = tracked = TrackedServer(world, options, launch, number, is_ready)
        self._errors = ErrorBoundary(lambda text: reports.say(f"{text}; {tracked}"))
        self._others = OtherGenerations(world, options, reports, tracked, children)
        self._ending = Ending(world, tracked, self._others, children, self._errors)
        passes_sockets = bool(listening.descriptors) or "fd://" in options.line
        self._reloads = Reloads(
            world, options, reports, launcher, tracked, self._others, children, passes_sockets
        )
        self._upgrade = Upgrade(
            world, reports, children, signals, listening, self._is_idle, self._handover
        )
        self._wants_to_leave = False

    def run(self) -> int:
        """Serve until the server has ended; return its wait status. Never raises."""
        run = self._errors.run
        while True:
            run(self._reap)
            run(self._step)
            if self._ending.is_over():
                break
            run(self._report)
            for number in run(self._wait) or ():
                run(partial(self._handle, number), again=True)
        run(partial(self._report, "left" if self._ending.is_left else "stopped"))
        return self._ending.status or 0

    # -- one turn

    def _reap(self) -> None:
        for pid, status in self._children.reap():
            if pid == self._tracked.process.pid:
                self._died(status)
            else:
                reaper = self._children.reapers.pop(pid, None)
                if reaper is not None:
                    self._errors.run(partial(reaper, pid, status))

    def _step(self) -> None:
        """Go on with what is under way, then begin what is wanted."""
        self._tracked.is_executed()
        self._upgrade.step()
        self._reloads.step()
        if self._ending.status is None and self._tracked.has_vanished:
            self._died(UNKNOWN if self._ending.signal is None else 0)
        if self._is_idle():
            self._begin_what_is_wanted()
        if self._reloads.active is None:
            self._others.end_leftovers()

    def _is_idle(self) -> bool:
        return self._reloads.active is None and not self._ending.has_begun

    def _begin_what_is_wanted(self) -> None:
        if not self._tracked.ready and self._tracked.is_up():
            self._tracked.ready = True
            self._reports.ready(str(self._tracked))
        if self._wants_to_leave:
            self._ending.leave()
        elif self._upgrade.wanted and not self._upgrade.is_tried:
            self._upgrade.begin()
        elif self._reloads.wanted:
            self._reloads.begin()

    def _wait(self) -> list[int]:
        """Return the signals that have come; wait for one as long as nothing else is to do."""
        seconds = self._errors.run(self._pause)
        if self._errors.has_caught:
            seconds = GLANCE_SECONDS if seconds is None else min(seconds, GLANCE_SECONDS)
        self._errors.has_caught = False
        try:
            return self._signals.wait(seconds)
        except Exception:
            time.sleep(SLOW_STEP_SECONDS)  # the loop must not turn without a pause
            raise

    def _pause(self) -> Optional[float]:
        """Return how many seconds to sleep at most, None for as long as nothing happens."""
        reload = self._reloads.active
        if reload is not None:
            return STEP_SECONDS if reload.seconds < BRISK_SECONDS else SLOW_STEP_SECONDS
        if self._ending.has_begun or self._upgrade.is_tried or self._others.are_ending:
            return SLOW_STEP_SECONDS
        if not self._tracked.ready:
            return SLOW_STEP_SECONDS if self._tracked.age < BRISK_SECONDS else GLANCE_SECONDS
        return None if self._tracked.is_child else GLANCE_SECONDS

    def _handle(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._reloads.ask()
        elif number == signal.SIGUSR2:
            self._upgrade.wanted = True
        elif number in STOPS and self._options.leave:
            self._wants_to_leave = True
        elif number in STOPS:
            self._stop(number)
        elif number != signal.SIGCHLD:
            self._world.send(self._tracked.master(), number)

    # -- the end

    def _stop(self, number: int) -> None:
        if self._ending.signal is None:
            self._errors.run(self._reports.stopping)
        self._ending.stop(number)
        why = Failure(Fault.STOPPED, f"{name_of(number)} ends the server")
        self._errors.run(partial(self._reloads.abandon, why))

    def _died(self, status: int) -> None:
        """Follow the successor of the tracked process, which has ended, if there is one."""
        found = None
        if self._ending.signal is None:
            found = self._errors.run(self._others.inheritor, again=True)
        before = self._tracked.process
        if found is not None:
            self._tracked.succeed(found.process)
            self._reports.say(f"{before} ended, {found.process} serves in its place: {found.why}")
            return
        self._ending.status = status
        trouble = self._tracked.trouble()
        if trouble:
            self._reports.log(f"hotreload-run: {trouble}")
        self._errors.run(self._tracked.end_orphans)
        self._reloads.abandon(Failure(Fault.OLD_EXITED, f"the server ({before}) ended"))

    # -- what others are given

    def _handover(self) -> Handover:
        return Handover(
            self._tracked.process,
            self._tracked.generation,
            self._options.directory,
            self._tracked.ready,
            sorted(self._signals.mask),
            self._listening.opened,
            self._reports.counts,
            [signal.SIGHUP] if self._reloads.wanted else [],
        )

    def _report(self, state: str = "") -> None:
        """Write the state to the status file."""
        if self._ending.has_begun:
            state = state or "stopping"
        elif self._reloads.active is not None:
            state = state or "reloading"
        state = state or ("serving" if self._tracked.ready else "starting")
        self._reports.write(state, self._tracked.generation, self._tracked.process.pid)
