"""One supervised process, whose generations follow one another.

Four methods are changed on the one Subprocess instance, none on the class:
``finish`` finds an heir before supervisord declares the program dead,
``kill`` ends both generations, ``signal`` may turn HUP into a reload, and
``transition`` waits until a port is free before it spawns.
"""

from __future__ import annotations

import os
import signal
import traceback
from typing import Any, Callable, Optional, Protocol

from supervisor.options import make_namespec
from supervisor.states import ProcessStates, getProcessStateDescription

from supervisor_hotreload.identity import Process
from supervisor_hotreload.kinship import Lineage, find_heir, successors
from supervisor_hotreload.model import Failure
from supervisor_hotreload.world import World

HOLD = 5.0
"""Seconds that a dead program waits for an old generation that still drains: it
holds the port. Then the old one is told to hurry, and a while later is killed."""


class Desk(Protocol):
    """Where a program's reloads are looked after."""

    def relay(self, tracked: Tracked) -> bool:
        """Take a HUP for the program; False lets the signal through."""

    def stopped(self, tracked: Tracked, reason: str) -> None:
        """An operator ends the program: both generations."""

    def pidfile(self, tracked: Tracked) -> Optional[str]:
        """Return where the program writes its pid, if that is known."""


class Retired:
    """Stands in ``options.pidhistory`` for a process that is no longer tracked."""

    def __init__(self, owner: Tracked) -> None:
        self._owner = owner

    def finish(self, pid: int, sts: int) -> None:
        """Take note of its exit; supervisord.reap calls this, then forgets the pid."""
        self._owner.on_retired(pid, sts)


class Tracked:
    """The program's own process as supervisord sees it, and its other generations.

    :param process: supervisor's Subprocess.
    :param desk: told what happens to the program.
    """

    def __init__(self, process: Any, world: World, desk: Desk) -> None:
        self.process = process
        self.generation = 1
        self.successor: Optional[Process] = None
        self.elders: list[Process] = []
        self._world = world
        self._desk = desk
        self._options = process.config.options
        self._lineage: Optional[Lineage] = None
        self._held_since: Optional[float] = None
        self._hook()

    @property
    def name(self) -> str:
        return str(make_namespec(self.group, self.process.config.name))

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    @property
    def adopted(self) -> bool:
        """Tell whether the tracked process is one that supervisord did not spawn."""
        lineage = self._lineage
        return lineage is not None and lineage.tracked.pid == self.pid and self.generation > 1

    @property
    def running(self) -> bool:
        return bool(self.process.state == ProcessStates.RUNNING)

    @property
    def starting(self) -> bool:
        return bool(self.process.state in (ProcessStates.STARTING, ProcessStates.BACKOFF))

    @property
    def state(self) -> str:
        """Return supervisord's word for the state of the program."""
        return str(getProcessStateDescription(self.process.state))

    @property
    def group(self) -> str:
        return str(self.process.group.config.name)

    @property
    def command(self) -> str:
        """Return the configured command, after the arguments that gunicorn takes from the
        environment (GUNICORN_CMD_ARGS), which give way to it."""
        config = self.process.config
        more = (config.environment or {}).get("GUNICORN_CMD_ARGS", "")
        return f"{more} {config.command}".strip()

    @property
    def directory(self) -> str:
        return str(self.process.config.directory or os.getcwd())

    @property
    def logger(self) -> Any:
        return self._options.logger

    def current(self) -> Optional[Process]:
        """Return the process that supervisord tracks."""
        return self._world.lookup(self.pid) if self.pid else None

    def living_elders(self) -> list[Process]:
        """Return what still lives of the generations before the tracked one."""
        self.elders = [elder for elder in self.elders if self._world.alive(elder)]
        return list(self.elders)

    # -- adoption

    def note(self) -> None:
        """Remember what tells the running generation from its successors."""
        process = self.current()
        if process is None:
            return
        status = self._world.status(process.pid)
        if status is None:
            return
        if self._lineage is None or self._lineage.tracked != process:
            self.generation = 1
            self._lineage = Lineage(process, status.group, {process: status.image})

    def remember(self, master: Process) -> None:
        """Remember the master of the running generation, which a shell may stand before."""
        self.note()
        status = self._world.status(master.pid)
        if self._lineage is not None and status is not None:
            self._lineage.images[master] = status.image

    def adopt(self, new: Process) -> None:
        """Make *new* the process that supervisord tracks. The point of no return.

        ``laststart`` stays: uptime goes on counting, and Subprocess.finish
        asserts STARTING for a program that seems to have started just now.
        """
        if self.pid == new.pid:
            return
        self.note()
        history = self._options.pidhistory
        old = self._lineage
        if self._world.status(self.pid) is not None:
            history[self.pid] = Retired(self)
        history[new.pid] = self.process
        self.process.pid = new.pid
        self.successor = None
        self.generation += 1
        if old is not None:
            self.elders.extend({old.tracked, *old.images})
        status = self._world.status(new.pid)
        self._lineage = Lineage(
            tracked=new,
            group=old.group if old is not None else 0,
            images={new: status.image if status is not None else 0},
        )

    def on_retired(self, pid: int, sts: int) -> None:
        code = os.waitstatus_to_exitcode(sts)
        how = f"exit status {code}" if code >= 0 else f"terminated by signal {-code}"
        self.logger.info(f"hotreload: {self.name}: the old generation (pid {pid}) ended ({how})")

    # -- the four seams

    def _hook(self) -> None:
        process = self.process
        finish, kill = process.finish, process.kill
        send, transition = process.signal, process.transition

        def hooked_finish(pid: int, sts: int) -> None:
            if not self._guarded(lambda: self._inherit(pid), False):
                finish(pid, sts)

        def hooked_kill(sig: int) -> Any:
            others = self._guarded(self._others, [])
            result = kill(sig)
            if self.process.state == ProcessStates.STOPPING:
                self._guarded(lambda: self._desk.stopped(self, "stopped by an operator"), None)
                self._guarded(lambda: self._end_all(others, sig), None)
            return result

        def hooked_signal(sig: int) -> Any:
            try:
                if sig == signal.SIGHUP and self._guarded(lambda: self._desk.relay(self), False):
                    return None
            except Failure as refusal:
                return refusal.reason
            return send(sig)

        def hooked_transition() -> None:
            if not self._guarded(self._holds, False):
                transition()

        process.finish, process.kill = hooked_finish, hooked_kill
        process.signal, process.transition = hooked_signal, hooked_transition

    def _guarded(self, function: Callable[[], Any], otherwise: Any) -> Any:
        """Call *function*; if it raises, log that and let supervisord do what it always did."""
        try:
            return function()
        except Failure:
            raise
        except Exception:  # noqa: BLE001 - it would end supervisord
            self.logger.critical(f"hotreload: {self.name}: {traceback.format_exc()}")
            return otherwise

    def _inherit(self, pid: int) -> bool:
        """The tracked process *pid* was reaped: adopt its heir if there is one."""
        if self._lineage is None or self._lineage.tracked.pid != pid:
            return False  # it never got as far as RUNNING
        ending = bool(self.process.killing)
        seen = [self.successor] if self.successor is not None else []
        if ending:  # STOPPED has to wait for them all
            seen += self.living_elders()
        heir = find_heir(self._world, self._lineage, seen, self._taken, self._pidfile())
        if heir is None:
            return False
        self.adopt(heir.process)
        self.elders = [elder for elder in self.elders if elder != heir.process]
        if ending:
            self._end_all([heir.process], self.process.config.stopsignal)
        else:
            self.logger.warn(
                f"hotreload: {self.name}: pid {pid} ended; {heir.process}, {heir.why}, lives and "
                f"is adopted, nothing is spawned"
            )
        return True

    def _pidfile(self) -> Optional[str]:
        try:
            return self._desk.pidfile(self)
        except Failure:
            return None  # a setting is bad: kinship has to do

    def _taken(self, pid: int) -> bool:
        return self._options.pidhistory.get(pid) is self.process

    def _others(self) -> list[Process]:
        """Return every living generation of the program but the tracked one."""
        others = self.living_elders()
        if self._lineage is not None:
            others += successors(self._world, self._lineage)
        if self.successor is not None and self.successor not in others:
            others.append(self.successor)
        return others

    def _end_all(self, masters: list[Process], sig: int) -> None:
        """Send the stop signal to the other generations; SIGKILL takes their workers along."""
        name = signal.Signals(sig).name[3:]
        for master in masters:
            workers = self._world.children(master) if name == "KILL" else []
            self._world.signal(master, name)
            self._world.signal(master, "CONT")  # a stopped process hears nothing else
            for worker in workers:
                if not self._taken(worker.pid):
                    self._world.signal(worker, name)

    def _holds(self) -> bool:
        """Tell whether a dead program has to wait: an old generation holds its port."""
        waiting = self.process.state == ProcessStates.EXITED and self.process.config.autorestart
        elders = self.living_elders() if waiting else []
        if not elders:
            self._held_since = None
            return False
        now = self._world.now()
        if self._held_since is None:
            self._held_since = now
            names = ", ".join(map(str, elders))
            self.logger.warn(
                f"hotreload: {self.name}: not spawned again before the old generation ({names}) "
                f"is gone, it holds the port"
            )
        elif now - self._held_since > 2 * HOLD:
            self._end_all(elders, signal.SIGKILL)
        elif now - self._held_since > HOLD:
            self._end_all(elders, signal.SIGQUIT)
        return True

    # -- process groups

    def signal_group(self, sig: int) -> None:
        """Signal the process group that an adopted process is really in.

        A re-exec'd master keeps the group of the first one, so ``-pid`` is no
        group. One that has left it for another's is signalled alone.
        """
        process = self.current()
        status = self._world.status(self.pid)
        if process is None or status is None or self._lineage is None:
            raise ProcessLookupError(3, "No such process")
        group = status.group
        if group in (self.pid, self._lineage.group) and group != os.getpgrp():
            os.killpg(group, sig)
        else:
            name = signal.Signals(sig).name[3:]
            for member in [*self._world.children(process), process]:
                self._world.signal(member, name)
