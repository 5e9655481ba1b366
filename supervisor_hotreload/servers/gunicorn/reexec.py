"""One reload of one gunicorn by USR2.

TERM ends a generation gracefully. A master in the foreground ignores WINCH in every version
from 19.9 to 27.0.1, and QUIT cuts the requests in flight: only a master without workers gets
QUIT (gunicorn arbiter.handle_winch, handle_quit).
"""

from __future__ import annotations

from contextlib import suppress
from typing import Optional

from supervisor_hotreload.core.model import Failure, Fault, Policy
from supervisor_hotreload.servers.gunicorn.command import configured, options
from supervisor_hotreload.servers.gunicorn.failed_fork import Forks
from supervisor_hotreload.servers.gunicorn.heartbeat import GunicornGeneration, shares
from supervisor_hotreload.servers.gunicorn.start_context import lost_path, must_start_again
from supervisor_hotreload.servers.lineage import same_command
from supervisor_hotreload.servers.program import Program
from supervisor_hotreload.servers.readiness import Probe
from supervisor_hotreload.servers.reexec import DRAIN_CEILING_SECONDS, Reexec
from supervisor_hotreload.servers.signals import QUICK_SECONDS
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World

DRAIN_MARGIN_SECONDS = 10.0
"""Seconds on top of a graceful_timeout of the command line: gunicorn's own limit comes first."""

SLEEPS = 3
"""Sleeps of the master's loop after its parent is gone, until it is certainly promoted."""

LOOP_SECONDS = 2.0
"""Seconds after which it is certainly promoted: its loop looks every second."""

GRACEFUL_TIMEOUT_SECONDS = 30.0
"""gunicorn's default for --graceful-timeout."""


class GunicornReexec(Reexec):
    """One reload of one gunicorn, bound to its old generation."""

    graceful_signal = "TERM"
    quick_signal = "QUIT"
    orphan_signal = "TERM"

    def __init__(
        self, world: World, old: GunicornGeneration, policy: Policy, probe: Probe, program: Program
    ) -> None:
        self._graceful_timeout = _seconds(options(configured(program)).get("graceful-timeout"))
        super().__init__(world, old, policy, probe)
        self._program = program
        self._forks = Forks(world, old.master, old.image)
        self._orphaned_at: Optional[float] = None
        self._sleeps: Optional[int] = None
        self._idle_since: Optional[float] = None
        self._given_up = False

    def reexec(self) -> None:
        must_start_again(self._world, self._old.master, self._program)
        self._forks.look()
        super().reexec()

    def successor(self) -> Optional[Process]:
        """Return the successor. A fork that has failed to become it is killed: while it lives
        the old master ignores every other USR2.

        :raises Failure: NO_SUCCESSOR when it has failed.
        """
        new = super().successor()
        if new is not None or self.before is None:
            return new
        born = self._born()
        if self._given_up:
            self._workers_of(self._old.master).kill(self._forks.waiting(born))
        elif (fork := self._forks.failed(born)) is not None:
            self._world.signal(fork, "KILL")
            raise Failure(
                Fault.NO_SUCCESSOR,
                f"the fork of {self._old.master} ({fork}) failed before it executed the "
                f"successor: the hook pre_exec, a directory or a file is wrong, the program's log "
                f"has the reason. Such a fork tells the old workers to quit; it was killed, and "
                f"the old master replaces them{self._lost_path()}",
            )
        return None

    def _lost_path(self) -> str:
        """Return the cure where a failed fork has removed a unix socket (arbiter.stop)."""
        lost = lost_path(self._world, self._old.master, self._program)
        return f". It has removed {lost}: no client gets in, restart the program" if lost else ""

    def recall(self) -> bool:
        self._given_up = True
        return super().recall()

    def is_successor(self, child: Process) -> bool:
        if not super().is_successor(child):
            return False
        if self._sockets:
            return True
        before = self._world.arguments(self._old.master)
        return same_command(self._world.arguments(child), before) is not False

    def serving_workers(self, master: Process) -> list[Process]:
        children = self._world.children(master)
        try:
            beats = self._world.heartbeats(master)
        except Unreadable:
            return children
        return [child for child in children if shares(self._world, beats, child)]

    def unready(self, master: Process, workers: list[Process]) -> list[Process]:
        """Return the workers that have never touched their heartbeat file."""
        return [worker for worker in workers if self._has_never_touched(worker)]

    def _has_never_touched(self, worker: Process) -> bool:
        try:
            beats = self._world.heartbeats(worker)
        except Unreadable:
            return False
        return not any(beat.flipped for beat in beats.values())

    def patience(self, limit: float) -> float:
        """Return the seconds that workers have; without any setting gunicorn's own limit, which
        a configuration file may name, comes first."""
        if self._policy.drain_timeout is not None:
            return self._policy.drain_timeout
        if self._graceful_timeout is not None:
            return self._graceful_timeout + DRAIN_MARGIN_SECONDS
        return DRAIN_CEILING_SECONDS

    @property
    def grace(self) -> float:
        return self._graceful_timeout or GRACEFUL_TIMEOUT_SECONDS

    def is_promoted(self, new: Process) -> bool:
        """Tell whether *new* has seen that its parent is gone (arbiter.maybe_promote_master), and
        one of its workers is ready. A SIGCHLD wakes the loop of one that has not."""
        if not super().is_promoted(new):
            return False
        if not self._has_noticed(new):
            self._world.signal(new, "CHLD")
            return False
        return self._serves(new)

    def _has_noticed(self, new: Process) -> bool:
        """Tell whether the loop of *new* has run since its parent is gone.

        A promoted master writes its pid to the pidfile, and does not before. Without a pidfile
        its loop has to have gone to sleep again.
        """
        pidfile = self._policy.pidfile
        if pidfile is not None:
            with suppress(ValueError):
                if self._world.read_pid(pidfile, self._world.ids(new)) == new.pid:
                    return True
        now, sleeps = self._world.now(), self._world.sleeps(new)
        if self._orphaned_at is None:
            self._orphaned_at, self._sleeps = now, sleeps
        if pidfile is None and sleeps is not None and self._sleeps is not None:
            return sleeps >= self._sleeps + SLEEPS
        return now - self._orphaned_at > LOOP_SECONDS

    def _serves(self, new: Process) -> bool:
        """Tell whether a worker of *new* is ready; True when that is hidden.

        :raises Failure: NOT_READY when none becomes ready again in time.
        """
        try:
            if any(beat.flipped for beat in self._world.heartbeats(new).values()):
                return True
        except Unreadable:
            return True
        now = self._world.now()
        if self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since > QUICK_SECONDS:
            raise Failure(Fault.NOT_READY, f"no worker of the successor ({new}) is ready any more")
        return False


def _seconds(value: Optional[str]) -> Optional[float]:
    """Return a positive number of seconds, None for any other value."""
    try:
        return float(value or 0) or None
    except ValueError:
        return None
