"""Lets supervisord track a process that it has not spawned: pid, pidhistory, exit watch."""

from __future__ import annotations

import os
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, Callable, Optional

from supervisor.states import ProcessStates

from supervisor_hotreload.core.model import Failure, Fault
from supervisor_hotreload.plugin.generations import Generations
from supervisor_hotreload.plugin.loop import UNKNOWN_STATUS, ExitWatch
from supervisor_hotreload.plugin.process_view import ProcessView
from supervisor_hotreload.servers.lineage import Lineage
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World


class Adoption:
    """Replaces the process that supervisord tracks for one program.

    :param send: sends a signal to some masters, SIGKILL to their workers too.
    :param on_change: called when the processes that are proven to be the program's change.
    :param on_inherited: called when the inheritor of a dead master has been adopted.
    """

    def __init__(
        self,
        view: ProcessView,
        world: World,
        generations: Generations,
        send: Callable[[Iterable[Process], int], None],
        on_change: Callable[[], None],
        on_inherited: Callable[[], None],
    ) -> None:
        self._view = view
        self._process = view.process
        self._options = view.process.config.options
        self._world = world
        self._generations = generations
        self._send = send
        self._on_change = on_change
        self._on_inherited = on_inherited
        self._watch: Optional[ExitWatch] = None

    @property
    def adopted(self) -> bool:
        """Whether supervisord tracks a process that it has not spawned."""
        known = self._generations.lineage
        return known is not None and known.tracked.pid == self._view.pid and self._watch is not None

    def adopt(self, new: Process) -> None:
        """Make *new* the process that supervisord tracks, while the old master lives.

        ``laststart`` stays: the uptime goes on, and Subprocess.finish asserts STARTING for a
        program that seems to have been started just now.

        :raises Failure: when *new* acts as another user than the master does.
        """
        self._generations.note(self._view.pid)
        if not self._generations.may_adopt(new):
            raise Failure(
                Fault.NO_SUCCESSOR,
                f"{new} acts as another user than the master of {self._view.name}: it is not "
                f"adopted",
            )
        if self._view.pid != new.pid:
            self._release()
            self.take(self._generations.follow(new))

    def inherit(self, pid: int, status: int) -> bool:
        """Adopt the inheritor of the tracked process *pid*, which has ended.

        :param status: its wait status.
        :return: False when there is no inheritor.
        """
        dead = self._generations.lineage
        if dead is None or dead.tracked.pid != pid:
            return False
        stopping = bool(self._process.killing)
        found = self._generations.inheritor(status, stopping)
        if found is None:
            return False
        inheritor = found.process
        self.take(self._generations.follow(inheritor))
        if inheritor not in dead.masters:  # else only the shell before the master has ended
            self._on_inherited()
            self._generations.retire_workers(dead)
        if stopping:
            self._send([inheritor], self._process.config.stopsignal)
        else:
            self._view.logger.warn(
                f"hotreload: {self._view.name}: pid {pid} ended; supervisord adopts {inheritor}, "
                f"{found.why}, and spawns nothing"
            )
        return True

    def adopt_orphan(self, process: Process, started: float, pipes: dict[str, Any]) -> None:
        """Make *process*, which supervisord takes for down, the one that it tracks.

        :param started: seconds since the epoch.
        :param pipes: the reading ends of the pipes that it logs to.
        """
        self._start(started, pipes)
        status = self._world.status(process.pid)
        group = status.group if status is not None else 0
        taken = Lineage(process, process.start, group, group == process.pid)
        taken.add_master(self._world, process)
        taken.refresh(self._world)
        self.take(taken)
        self._process.change_state(ProcessStates.STARTING)

    def take(self, lineage: Lineage) -> None:
        """Let supervisord track the process of *lineage*. Every adoption passes here.

        A pidfd watches that process: while the old master lives, its exit goes there.
        """
        process = lineage.tracked
        self.stop_watching()
        self._watch = ExitWatch(self._options, process, lambda: self._on_watched_exit(process))
        self._options.pidhistory[process.pid] = self._process
        self._process.pid = process.pid
        self._generations.take(lineage)
        self._on_change()

    def stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.close()
        self._watch = None

    def _release(self) -> None:
        """Let supervisord no longer track the process that it tracks, which lives."""
        pid = self._view.pid
        if self._world.is_child(pid):
            # supervisord.reap calls its finish, then it removes the pid
            self._options.pidhistory[pid] = SimpleNamespace(finish=self._on_retired_exit)
        else:
            del self._options.pidhistory[pid]  # another parent reaps it

    def _on_watched_exit(self, process: Process) -> None:
        """Report the exit of *process* to supervisord, as its own reap() does."""
        self._watch = None
        if self._world.is_child(process.pid) or self._view.pid != process.pid:
            return  # supervisord reaps it after all, and gets the real status
        self._process.finish(process.pid, UNKNOWN_STATUS)
        self._options.pidhistory.pop(process.pid, None)

    def _on_retired_exit(self, pid: int, sts: int) -> None:
        code = os.waitstatus_to_exitcode(sts)
        how = f"exit status {code}" if code >= 0 else f"terminated by signal {-code}"
        name, log = self._view.name, self._view.logger
        log.info(f"hotreload: {name}: the old generation (pid {pid}) ended ({how})")
        log.guarded(lambda: self._generations.on_retired_exit(pid, code < 0), None, name)

    def _start(self, started: float, pipes: dict[str, Any]) -> None:
        """Give the Subprocess the state that it has after a spawn, without a spawn."""
        process, options = self._process, self._options
        make_pipes = options.make_pipes
        options.make_pipes = lambda stderr=True: pipes
        try:
            made = process.config.make_dispatchers(process)
        finally:
            options.make_pipes = make_pipes
        process.dispatchers, process.pipes = made
        process.laststart = started
        process.killing = process.administrative_stop = False
        process.spawnerr = process.exitstatus = None
