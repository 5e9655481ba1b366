"""One supervised process, whose generations follow one another.

Five methods are changed on the one Subprocess instance, none on the class:
``finish`` finds an heir before supervisord declares the program dead,
and reports that only when all of it is gone, ``kill`` ends both generations,
``signal`` may turn HUP into a reload, ``transition`` gives a program that is
down a regular look, and ``spawn`` takes note of what was spawned.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any, Callable, Optional, Protocol

from supervisor.options import make_namespec
from supervisor.states import ProcessStates, getProcessStateDescription

from supervisor_hotreload import servers
from supervisor_hotreload.adoption.watching import UNKNOWN_STATUS, Watch
from supervisor_hotreload.identity import Process
from supervisor_hotreload.kinship import (
    Lineage,
    find_heir,
    successors,
    workers_left,
    workers_of,
)
from supervisor_hotreload.model import Failure
from supervisor_hotreload.servers import Program
from supervisor_hotreload.system.credentials import NOBODY, Ids, ids_of
from supervisor_hotreload.world import World

HOLD = 5.0
"""Seconds that a dead program waits for what is left of it and holds its port. Then
that is told to hurry, and as long after is killed."""

LATE = 120.0
"""Seconds for which a successor that nobody waits for any more is ended when it comes, and
that it then has to end before it is killed."""


@dataclass
class Kept:
    """An exit that is not reported yet.

    :param status: the wait status of the process that was tracked.
    :param since: when that was.
    :param rungs: how many signals the rest has been sent.
    """

    status: int
    since: float
    rungs: int = 0


@dataclass
class Unwanted:
    """What comes although the reload that asked for it was given up.

    :param before: children of the old master from before: none of them was asked for.
    :param until: when what comes is another's, or what has come is killed.
    :param late: what has come, and was told to end.
    """

    before: Container[Process]
    until: float
    late: list[Process] = field(default_factory=list)


class Desk(Protocol):
    """Where a program's reloads are looked after."""

    def relay(self, tracked: Tracked) -> bool:
        """Take a HUP for the program; False lets the signal through."""

    def stopped(self, tracked: Tracked, reason: str) -> None:
        """An operator ends the program: both generations."""

    def pidfile(self, tracked: Tracked) -> Optional[str]:
        """Return where the program writes its pid, if that is known."""

    def notify_socket(self, tracked: Tracked) -> str:
        """Return where the program is to say that it is ready, '' where it need not."""

    def runs(self, tracked: Tracked) -> None:
        """The program has been started and is RUNNING."""

    def inherited(self, tracked: Tracked) -> None:
        """The old master has died and its successor is the program's own now."""

    def adopts_orphans(self, tracked: Tracked) -> bool:
        """Tell whether what an earlier supervisord has left is to be adopted."""

    def strategy(self, tracked: Tracked) -> str:
        """Return how the program is to be reloaded, as it is set."""

    def orphan_taken(self, tracked: Tracked) -> None:
        """What an earlier supervisord has left is the program's own now."""


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
        self.notify_socket = ""
        self._world = world
        self._desk = desk
        self._watch: Optional[Watch] = None
        self._options = process.config.options
        self._lineage: Optional[Lineage] = None
        self._kept: Optional[Kept] = None
        self._unwanted: Optional[Unwanted] = None
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
        return lineage is not None and lineage.tracked.pid == self.pid and self._watch is not None

    @property
    def outlived(self) -> bool:
        """Tell whether the program is dead but for a rest of it that ends, too."""
        return self._kept is not None

    @property
    def watched(self) -> bool:
        """Tell whether the tracked process is no child of supervisord's."""
        return bool(self.pid) and not self._world.is_child(self.pid)

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
    def program(self) -> Program:
        """Return the program as it is configured."""
        config = self.process.config
        return Program(
            name=self.name,
            command=str(config.command),
            directory=self.directory,
            environment=dict(config.environment or {}),
            stopsignal=signal.Signals(config.stopsignal).name[3:],
            user=config.uid,
            rights=self.rights,
        )

    @property
    def rights(self) -> Ids:
        """Return with whose rights the program's files are read: those of its process, where
        that is the configured user or, of a program of root, has become a lesser one."""
        user = os.geteuid() if self.process.config.uid is None else self.process.config.uid
        seen = ids_of(self.pid) if self.pid else None
        if seen is not None and seen.user is not None and user in (seen.user, 0):
            return seen
        return Ids.of_user(user, os.getegid() if user == 0 else NOBODY)

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
        status = self._world.status(self.pid) if self.pid else None
        if status is None:
            return
        process = status.process
        own = self._world.status(self._world.own_pid())
        image = 0 if own is not None and status.image == own.image else status.image
        if self._lineage is None or self._lineage.tracked != process:
            made = status.group == process.pid
            self._begin(Lineage(process, status.group, made, {process: image}))
        elif not self._lineage.images.get(process):
            self._lineage.images[process] = image  # not that of a fork that is yet to exec

    def listen(self) -> None:
        """Have a socket for what the program says of itself, if that is asked for."""
        self.notify_socket = self._guarded(lambda: self._desk.notify_socket(self), "")

    def _note_spawn(self) -> None:
        """Remember a process that supervisord has just forked, before it has exec'd."""
        process = self._world.lookup(self.pid) if self.pid else None
        if process is not None:
            self._begin(Lineage(process, process.pid, True, {process: 0}))

    def _begin(self, lineage: Lineage) -> None:
        self.generation = 1
        self._lineage = lineage

    def remember(self, master: Process, told: bool = False) -> None:
        """Remember the master of the running generation, which a shell may stand before.

        :param told: its family believes what it is told.
        """
        self.note()
        status = self._world.status(master.pid)
        if self._lineage is not None and status is not None:
            self._lineage.images[master] = status.image
            self._lineage.told = told or self._lineage.told

    def adopt(self, new: Process) -> None:
        """Make *new* the process that supervisord tracks. The point of no return.

        ``laststart`` stays: uptime goes on counting, and Subprocess.finish
        asserts STARTING for a program that seems to have started just now.
        """
        self.note()
        if self.pid != new.pid:
            self._inherit_from(new, gone=False)

    def _inherit_from(self, new: Process, gone: bool) -> None:
        """Let *new* follow the tracked process, which has been reaped already if *gone*."""
        old = self._lineage
        self._let_go(gone)
        if old is None or new not in old.images:  # else only what stood before it is gone
            self.successor = None
            self.generation += 1
        if old is not None:
            self.elders.extend({old.tracked, *old.images})
        self._take(new, old.group if old is not None else 0, old is not None and old.made)

    def _let_go(self, gone: bool) -> None:
        """Track the tracked process no longer; whoever reaps it deletes its entry."""
        if gone:
            return
        if self._world.is_child(self.pid):
            self._options.pidhistory[self.pid] = Retired(self)
        else:
            del self._options.pidhistory[self.pid]  # nobody will reap it here

    def take_orphan(self, process: Process, started: float, pipes: dict[str, Any]) -> None:
        """Take what an earlier supervisord has left for the program, before autostart.

        :param started: seconds since the epoch.
        :param pipes: the reading ends of what it logs to.
        """
        subprocess, options = self.process, self._options
        make_pipes = options.make_pipes
        options.make_pipes = lambda stderr=True: pipes
        try:
            made = subprocess.config.make_dispatchers(subprocess)
        finally:
            options.make_pipes = make_pipes
        subprocess.dispatchers, subprocess.pipes = made
        subprocess.laststart = started
        subprocess.killing = subprocess.administrative_stop = False
        subprocess.spawnerr = subprocess.exitstatus = None
        status = self._world.status(process.pid)
        group = status.group if status is not None else 0
        self._take(process, group, group == process.pid)
        subprocess.change_state(ProcessStates.STARTING)

    def _take(self, process: Process, group: int, made: bool) -> None:
        """Let supervisord track *process*. Every adoption passes here."""
        self._watch_over(process)
        self._options.pidhistory[process.pid] = self.process
        self.process.pid = process.pid
        self._lineage = Lineage(process, group, made, {process: self._world.image(process)})

    def _watch_over(self, process: Process) -> None:
        """Learn of its exit, which may go to another parent: the old master still lives."""
        if self._watch is not None:
            self._watch.close()
        self._watch = Watch(self._options, process, lambda: self._ended(process))

    def _ended(self, process: Process) -> None:
        """The watched *process* has ended: tell supervisord as its own reap() would."""
        self._watch = None
        if self._world.is_child(process.pid) or self.pid != process.pid:
            return  # it is a child after all: supervisord reaps it with its real status
        self.process.finish(process.pid, UNKNOWN_STATUS)
        self._options.pidhistory.pop(process.pid, None)

    def on_retired(self, pid: int, sts: int) -> None:
        code = os.waitstatus_to_exitcode(sts)
        how = f"exit status {code}" if code >= 0 else f"terminated by signal {-code}"
        self.logger.info(f"hotreload: {self.name}: the old generation (pid {pid}) ended ({how})")
        elder = next((elder for elder in self.elders if elder.pid == pid), None)
        lineage = self._lineage
        if code < 0 and elder is not None and lineage is not None:
            dead = Lineage(elder, lineage.group, lineage.made, {}, lineage.told)
            self._guarded(lambda: self._dismiss_orphans(dead), None)

    # -- the five seams

    def _hook(self) -> None:
        process = self.process
        finish, kill = process.finish, process.kill
        send, transition, spawn = process.signal, process.transition, process.spawn

        def hooked_finish(pid: int, sts: int) -> None:
            if self._guarded(lambda: self._inherit(pid), False):
                return
            if not self._guarded(lambda: self._outlived(pid, sts), False):
                finish(pid, sts if self._kept is None else self._kept.status)
                self._guarded(self._forget, None)

        def hooked_kill(sig: int) -> Any:
            others = self._guarded(lambda: self._others(sig), [])
            result = kill(sig)
            if self.process.state == ProcessStates.STOPPING:
                self.elders += [other for other in others if other not in self.elders]
                self._guarded(lambda: self._desk.stopped(self, "stopped by an operator"), None)
                self._guarded(lambda: self._end_all(others, sig), None)
            return result

        def hooked_signal(sig: int) -> Any:
            if sig != signal.SIGHUP:
                return send(sig)
            taken, refusal = self._guarded(self._relay, (False, None))
            return refusal if taken else send(sig)

        def hooked_transition() -> None:
            self._guarded(self._tend, None)
            transition()

        def hooked_spawn() -> Any:
            self.listen()
            pid = spawn()
            self._guarded(self._note_spawn, None)
            return pid

        process.finish, process.kill, process.spawn = hooked_finish, hooked_kill, hooked_spawn
        process.signal, process.transition = hooked_signal, hooked_transition

    def _guarded(self, function: Callable[[], Any], otherwise: Any) -> Any:
        """Call *function*; if it raises, log that and let supervisord do what it always did."""
        try:
            return function()
        except Exception:  # noqa: BLE001 - it would end supervisord
            self.logger.critical(f"hotreload: {self.name}: {traceback.format_exc()}")
            return otherwise

    def _relay(self) -> tuple[bool, Optional[str]]:
        """Return whether a HUP was taken, and why it was refused if it was."""
        try:
            return self._desk.relay(self), None
        except Failure as failure:
            return True, failure.reason

    def _inherit(self, pid: int) -> bool:
        """The tracked process *pid* was reaped: adopt its heir if there is one."""
        if self._lineage is None or self._lineage.tracked.pid != pid:
            return False
        ending = bool(self.process.killing)
        seen = [self.successor] if self.successor is not None else []
        if ending:  # STOPPED has to wait for them all
            seen += self.living_elders()
        heir = find_heir(self._world, self._lineage, seen, self._taken, self._pidfile)
        if heir is None:
            return False
        follows = heir.process not in self._lineage.images  # else only a shell is gone
        dead = self._lineage
        self._inherit_from(heir.process, gone=True)
        if follows:
            self._desk.inherited(self)
            self._dismiss_orphans(dead)
        self.elders = [elder for elder in self.elders if elder != heir.process]
        if ending:
            self._end_all([heir.process], self.process.config.stopsignal)
        else:
            self.logger.warn(
                f"hotreload: {self.name}: pid {pid} ended; {heir.process}, {heir.why}, lives and "
                f"is adopted, nothing is spawned"
            )
        return True

    def _dismiss_orphans(self, dead: Lineage) -> None:
        """Let the workers that a killed master has left finish what they have, and end: they
        would go on serving what they have loaded. They are elders until they are gone.
        """
        known = {*self.elders, self.successor, self.current()}
        for worker in workers_left(self._world, dead):
            farewell = servers.farewell(self._world, worker)
            if farewell and worker not in known:
                self._world.signal(worker, farewell)
                self.elders.append(worker)

    def successors(self) -> list[Process]:
        """Return the successors that the tracked generation has forked."""
        return successors(self._world, self._lineage) if self._lineage is not None else []

    def _pidfile(self) -> Optional[str]:
        try:
            return self._desk.pidfile(self)
        except Failure:
            return None  # a setting is bad: kinship has to do

    def _outlived(self, pid: int, sts: int) -> bool:
        """Tell whether something of the program outlives its tracked process *pid*.

        An old generation that still drains, or the workers of a master that was
        killed, hold the port: they are tracked until they are gone, so that a
        stop reaches them, and only then is the exit reported and nothing is
        spawned against a port that is held.
        """
        if self._lineage is None or self._lineage.tracked.pid != pid:
            return False
        orphaned = workers_left(self._world, self._lineage)
        self._end_all(orphaned, signal.SIGTERM)
        left = self.living_elders() + orphaned
        left = [process for process in left if process.pid != pid]
        if not left:
            return False
        if self._kept is None:
            self._kept = Kept(sts, self._world.now())
            names = ", ".join(map(str, left))
            self.logger.warn(
                f"hotreload: {self.name}: pid {pid} ended; its exit is reported, and nothing is "
                f"spawned, once {names} of it is gone and holds the port no more"
            )
        self.elders = left[1:]
        self._let_go(gone=True)
        self._take(left[0], self._lineage.group, self._lineage.made)
        return True

    def _forget(self) -> None:
        """The program has ended: what was known of it holds no more."""
        if self._watch is not None:
            self._watch.close()
        self._watch = self._kept = self._lineage = None

    def _tend(self) -> None:
        """Look after what needs time; called at every turn of supervisord's loop."""
        if self._lineage is not None and not self._lineage.images.get(self._lineage.tracked):
            self.note()
        if self._kept is not None:
            self._hurry(self._kept)
        if self._unwanted is not None:
            self._end_late(self._unwanted)

    def _end_late(self, unwanted: Unwanted) -> None:
        """End the successor that was not waited for: TERM, in the end KILL."""
        over = self._world.now() >= unwanted.until
        if unwanted.late:
            unwanted.late = [late for late in unwanted.late if self._world.alive(late)]
            if over:
                self._end_all(unwanted.late, signal.SIGKILL)
            if over or not unwanted.late:
                self._unwanted = None
        elif over:
            self._unwanted = None
        else:
            late = [child for child in self.successors() if child not in unwanted.before]
            if not late:
                return
            unwanted.late, unwanted.until = late, self._world.now() + LATE
            self.logger.warn(
                f"hotreload: {self.name}: {late[0]}, the successor of a reload that was given "
                f"up, has come after all and is ended"
            )
            self._end_all(late, signal.SIGTERM)

    def _hurry(self, kept: Kept) -> None:
        """The program is down until the rest of it has ended: QUIT, then SIGKILL."""
        age = self._world.now() - kept.since
        for number, (after, sig) in enumerate(((HOLD, signal.SIGQUIT), (2 * HOLD, signal.SIGKILL))):
            if age > after and kept.rungs == number:
                kept.rungs += 1
                current = self.current()
                self._end_all([*self.living_elders(), *([current] if current else [])], sig)

    def give_up_on_successor(self, before: Container[Process]) -> None:
        """End a successor that comes although the reload has stopped waiting for it.

        A USR2 cannot be recalled: a master that was busy may honour it later.

        :param before: children of the old master from before that USR2.
        """
        self._unwanted = Unwanted(before, self._world.now() + LATE)

    def want_successor(self) -> None:
        """Let one that comes now live: a reload waits for it."""
        self._unwanted = None

    def _taken(self, pid: int) -> bool:
        return self._options.pidhistory.get(pid) is self.process

    def _others(self, sig: int) -> list[Process]:
        """Return every living generation of the program but the tracked one.

        SIGKILL lets a master tell its workers nothing: they count as others then.
        """
        others = self.living_elders() + self.successors()
        if self.successor is not None and self.successor not in others:
            others.append(self.successor)
        if sig == signal.SIGKILL and self._lineage is not None:
            others += workers_of(self._world, self._lineage)
        return others

    def _end_all(self, masters: list[Process], sig: int) -> None:
        """Send the stop signal to the other generations; SIGKILL takes their workers along."""
        for master in masters:
            workers = self._world.children(master) if sig == signal.SIGKILL else []
            self._world.send(master, sig)
            self._world.signal(master, "CONT")  # a stopped process hears nothing else
            for worker in workers:
                if not self._taken(worker.pid):
                    self._world.send(worker, sig)

    # -- process groups

    def signal_alone(self, sig: int) -> None:
        """Signal a watched process: its pid may be somebody else's by now."""
        if self._lineage is None or not self._world.send(self._lineage.tracked, sig):
            raise ProcessLookupError(3, "No such process")

    def signal_group(self, sig: int) -> None:
        """Signal the process group that an adopted process is really in.

        A re-exec'd master keeps the group of the first one, so ``-pid`` is no
        group. One that has left it for another's is signalled alone.
        """
        status = self._world.status(self.pid)
        if status is None or self._lineage is None or status.process != self._lineage.tracked:
            raise ProcessLookupError(3, "No such process")
        process = status.process
        group = status.group
        if self._lineage.made and group == self._lineage.group and group != os.getpgrp():
            os.killpg(group, sig)
        else:
            for member in [*self._world.children(process), process]:
                self._world.send(member, sig)
