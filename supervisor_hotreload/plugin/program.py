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
from dataclasses import dataclass, replace
from typing import Any, Callable, Optional, Protocol

from supervisor.options import make_namespec
from supervisor.states import ProcessStates, getProcessStateDescription

from supervisor_hotreload.core.model import Failure, Fault
from supervisor_hotreload.plugin.exit_watch import UNKNOWN_STATUS, Watch
from supervisor_hotreload.plugin.log import Log
from supervisor_hotreload.servers import AnyFamily, Program, lineage
from supervisor_hotreload.servers.lineage import Lineage
from supervisor_hotreload.system.credentials import NOBODY, Ids, ids_of
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World

HOLD = 5.0
"""Seconds that a dead program waits for what is left of it and holds its port. Then
that is told to hurry, and as long after is killed."""

LATE = 120.0
"""Seconds for which a successor that nobody waits for any more is ended when it comes."""

ENDING = ((0.0, signal.SIGTERM), (30.0, signal.SIGQUIT), (35.0, signal.SIGKILL))
"""What such a successor is sent, after how many seconds: it may have requests."""

FIRST_LOOK, LAST_LOOK = 1.0, 600.0
"""Seconds between looks at a program that has no listening socket yet, the shortest and the
longest: most programs never have one."""

LOOK_LATER = 1.3
"""How much longer it is to each next look; the first ten or so are FIRST_LOOK apart."""


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
    :param until: when what comes is another's.
    """

    before: Container[Process]
    until: float


class Observer(Protocol):
    """Where a program's reloads are looked after."""

    def relay(self, tracked: SupervisedProgram) -> bool:
        """Take a HUP for the program; False lets the signal through."""

    def stopped(self, tracked: SupervisedProgram, reason: str) -> None:
        """An operator ends the program: both generations."""

    def notify_socket(self, tracked: SupervisedProgram) -> str:
        """Return where the program is to say that it is ready, '' where it need not."""

    def runs(self, tracked: SupervisedProgram) -> None:
        """The program has been started and is RUNNING."""

    def inherited(self, tracked: SupervisedProgram) -> None:
        """The old master has died and its successor is the program's own now."""

    def adopts_orphans(self, tracked: SupervisedProgram) -> bool:
        """Tell whether what an earlier supervisord has left is to be adopted."""

    def strategy(self, tracked: SupervisedProgram) -> str:
        """Return how the program is to be reloaded, as it is set."""

    def orphan_taken(self, tracked: SupervisedProgram) -> None:
        """What an earlier supervisord has left is the program's own now."""

    def proven(self, tracked: SupervisedProgram) -> None:
        """What proves whose the program's processes are has changed."""


class Retired:
    """Stands in ``options.pidhistory`` for a process that is no longer tracked."""

    def __init__(self, owner: SupervisedProgram) -> None:
        self._owner = owner

    def finish(self, pid: int, sts: int) -> None:
        """Take note of its exit; supervisord.reap calls this, then forgets the pid."""
        self._owner.on_retired(pid, sts)


class SupervisedProgram:
    """The program's own process as supervisord sees it, and its other generations.

    :param process: supervisor's Subprocess.
    :param observer: told what happens to the program.
    """

    def __init__(self, process: Any, world: World, observer: Observer) -> None:
        self.process = process
        self.generation = 1
        self.successor: Optional[Process] = None
        self.previous: list[Process] = []
        self.notify_socket = ""
        self.given_socket: Optional[str] = None
        """What the running process was given; None where an earlier supervisord started it."""
        self._world = world
        self._observer = observer
        self._watch: Optional[Watch] = None
        self._options = process.config.options
        self._lineage: Optional[Lineage] = None
        self._past: dict[Process, Lineage] = {}
        self._kept: Optional[Kept] = None
        self._unwanted: Optional[Unwanted] = None
        self._ending: dict[Process, Kept] = {}
        self._look_at: Optional[float] = None
        self._look_again = 0.0
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
        known = self._lineage
        return known is not None and known.tracked.pid == self.pid and self._watch is not None

    @property
    def exit_is_held(self) -> bool:
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
    def logger(self) -> Log:
        return Log(self._options.logger)

    def current(self) -> Optional[Process]:
        """Return the process that supervisord tracks."""
        return self._world.lookup(self.pid) if self.pid else None

    def previous_generations(self) -> list[Process]:
        """Return what still lives of the generations before the tracked one."""
        self.previous = [elder for elder in self.previous if self._world.alive(elder)]
        return list(self.previous)

    # -- adoption

    def note(self) -> None:
        """Remember what tells the running generation from its successors."""
        status = self._world.status(self.pid) if self.pid else None
        if status is None:
            return
        process = status.process
        if self._lineage is None or self._lineage.tracked != process:
            made = status.group == process.pid
            self._begin(Lineage(process, process.start, status.group, made, is_ours=True))
        known = self._known
        if process not in known.masters or not known.masters[process].image:
            own = self._world.lookup(self._world.own_pid())
            known.add_master(self._world, process)
            seen = known.masters[process]
            if own is not None and seen.image == self._world.image(own):
                known.masters[process] = seen._replace(image=0)  # a fork that is yet to exec

    @property
    def _known(self) -> Lineage:
        assert self._lineage is not None, "nothing is tracked"
        return self._lineage

    def listen(self) -> None:
        """Have a socket for what the program says of itself, if that is asked for."""
        self.notify_socket = self._guarded(lambda: self._observer.notify_socket(self), "")

    def _note_spawn(self) -> None:
        """Remember a process that supervisord has just forked, before it has exec'd."""
        process = self._world.lookup(self.pid) if self.pid else None
        if process is not None:
            self._begin(Lineage(process, process.start, process.pid, True, is_ours=True))

    def _begin(self, begun: Lineage) -> None:
        self.generation = 1
        self._lineage = begun
        self._past.clear()
        self._look_soon()

    def _look_soon(self) -> None:
        """Look at what the program listens on, now and then until it does."""
        self._look_at, self._look_again = self._world.now() + FIRST_LOOK, LOOK_LATER / 10

    def look(self) -> None:
        """Record what will prove whose the program's processes are, while they live."""
        self.note()
        if self._lineage is None:
            return
        self._observer.runs(self)
        if self._lineage.refresh(self._world):
            self._observer.proven(self)
        if self._lineage.sockets:
            self._look_at = None

    def remember(self, master: Process, family: Optional[AnyFamily] = None) -> None:
        """Remember the master of the running generation, which a shell may stand before."""
        self.note()
        if self._lineage is not None:
            self._lineage.add_master(self._world, master)
            self._lineage.family = family or self._lineage.family
            if self._lineage.refresh(self._world):
                self._observer.proven(self)

    def proofs(self) -> list[tuple[Process, frozenset[int]]]:
        """Return the processes that the next supervisord may take, and their sockets: the
        tracked one, its successor, those before it that drain."""
        sockets = self._lineage.sockets if self._lineage is not None else frozenset()
        current = self.current()
        found = [current] if current is not None and not self.exit_is_held else []
        if self.successor is not None:
            found.append(self.successor)
        found += [elder for elder in self.previous_generations() if elder not in found]
        return [(process, sockets) for process in found]

    def adopt(self, new: Process) -> None:
        """Make *new* the process that supervisord tracks. The point of no return.

        ``laststart`` stays: uptime goes on counting, and Subprocess.finish
        asserts STARTING for a program that seems to have started just now.

        :raises Failure: when *new* acts as another user than the master does.
        """
        self.note()
        if self._lineage is not None and not self._lineage.acts_as_master(self._world, new):
            raise Failure(
                Fault.NO_SUCCESSOR,
                f"{new} is another user's than the master of {self.name}: it is not adopted",
            )
        if self.pid != new.pid:
            self._inherit_from(new, gone=False)

    def _inherit_from(self, new: Process, gone: bool) -> None:
        """Let *new* follow the tracked process, which has been reaped already if *gone*."""
        old = self._lineage
        self._let_go(gone)
        if old is None or new not in old.masters:  # else only what stood before it is gone
            self.successor = None
            self.generation += 1
        if old is None:
            self._take(Lineage(new, new.start))
            return
        self.previous.extend({old.tracked, *old.masters})
        self._past.update(dict.fromkeys((old.tracked, *old.masters), old))
        if new in old.masters:
            self._take(replace(old, tracked=new))
            return
        self._take(
            Lineage(
                new,
                old.since,
                old.group,
                old.owns_group,
                sockets=old.sockets,
                family=old.family,
                is_ours=old.is_ours,
            )
        )

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
        taken = Lineage(process, process.start, group, group == process.pid)
        taken.add_master(self._world, process)
        taken.refresh(self._world)
        self._take(taken)
        subprocess.change_state(ProcessStates.STARTING)

    def _take(self, known: Lineage) -> None:
        """Let supervisord track a process. Every adoption passes here."""
        process = known.tracked
        self._watch_over(process)
        self._options.pidhistory[process.pid] = self.process
        self.process.pid = process.pid
        self._lineage = known
        known.add_master(self._world, process)
        self._look_soon()
        self._observer.proven(self)

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
        elder = next((elder for elder in self.previous if elder.pid == pid), None)
        dead = self._past.pop(elder, None) if elder is not None else None
        if code < 0 and dead is not None:
            self._guarded(lambda: self._dismiss_orphans(dead), None)

    # -- the five seams

    def _hook(self) -> None:
        process = self.process
        finish, kill = process.finish, process.kill
        send, transition, spawn = process.signal, process.transition, process.spawn

        def hooked_finish(pid: int, sts: int) -> None:
            if self._guarded(lambda: self._inherit(pid, sts), False):
                return
            if not self._guarded(lambda: self._outlived(pid, sts), False):
                finish(pid, sts if self._kept is None else self._kept.status)
                self._guarded(self._forget, None)

        def hooked_kill(sig: int) -> Any:
            self._guarded(self._record_workers, None)
            others = self._guarded(lambda: self._others(sig), [])
            result = kill(sig)
            if self.process.state == ProcessStates.STOPPING:
                self.previous += [other for other in others if other not in self.previous]
                self._guarded(lambda: self._observer.stopped(self, "stopped by an operator"), None)
                self._guarded(lambda: self._end_all(others, sig), None)
            return result

        def hooked_signal(sig: int) -> Any:
            if sig != signal.SIGHUP:
                return send(sig)
            taken, refusal = self._guarded(self._relay, (False, None))
            if not taken:
                self._look_soon()  # it may listen elsewhere then
            return refusal if taken else send(sig)

        def hooked_transition() -> None:
            self._guarded(self._tend, None)
            transition()

        def hooked_spawn() -> Any:
            self.listen()
            self.given_socket = self.notify_socket
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
            return self._observer.relay(self), None
        except Failure as failure:
            return True, failure.reason

    def _inherit(self, pid: int, status: int) -> bool:
        """The tracked process *pid* was reaped: adopt its heir if there is one."""
        if self._lineage is None or self._lineage.tracked.pid != pid:
            return False
        ending = bool(self.process.killing)
        seen = [self.successor] if self.successor is not None else []
        if ending:  # STOPPED has to wait for them all
            seen += self.previous_generations()
        exited = os.WIFEXITED(status)
        found = lineage.find_inheritor(self._world, self._lineage, seen, self._taken, exited)
        if found is None:
            return False
        dead, inheritor = self._lineage, found.process
        self._inherit_from(inheritor, gone=True)
        if inheritor not in dead.masters:  # else only a shell is gone
            self._observer.inherited(self)
            self._dismiss_orphans(dead)
        self.previous = [elder for elder in self.previous if elder != inheritor]
        if ending:
            self._end_all([inheritor], self.process.config.stopsignal)
        else:
            self.logger.warn(
                f"hotreload: {self.name}: pid {pid} ended; {inheritor}, {found.why}, lives and "
                f"is adopted, nothing is spawned"
            )
        return True

    def _dismiss_orphans(self, dead: Lineage) -> None:
        """Let the workers that a killed master has left finish what they have, and end: they
        would go on serving what they have loaded. They are elders until they are gone.
        """
        known = {*self.previous, self.successor, self.current()}
        asked = dead.family.orphan_signal if dead.family is not None else "TERM"
        for worker in lineage.orphaned_workers(self._world, dead, self._taken, by_sockets=False):
            if asked and worker not in known:
                self._world.signal(worker, asked)
                self.previous.append(worker)

    def successors(self) -> list[Process]:
        """Return the successors that the tracked generation has forked."""
        return lineage.successors(self._world, self._lineage) if self._lineage is not None else []

    def _record_workers(self) -> None:
        if self._lineage is not None:
            self._lineage.refresh(self._world)

    def _outlived(self, pid: int, sts: int) -> bool:
        """Tell whether something of the program outlives its tracked process *pid*.

        An old generation that still drains, or the workers of a master that was
        killed, hold the port: they are tracked until they are gone, so that a
        stop reaches them, and only then is the exit reported and nothing is
        spawned against a port that is held.
        """
        if self._lineage is None or self._lineage.tracked.pid != pid:
            return False
        orphaned = lineage.orphaned_workers(self._world, self._lineage, self._taken)
        self._end_all(orphaned, signal.SIGTERM)
        left = self.previous_generations() + orphaned
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
        self._kept.rungs = 0  # the one that is tracked now has heard nothing yet
        self.previous = left[1:]
        self._let_go(gone=True)
        self._take(replace(self._lineage, tracked=left[0]))
        return True

    def _forget(self) -> None:
        """The program has ended: what was known of it holds no more."""
        if self._watch is not None:
            self._watch.close()
        self._watch = self._kept = self._lineage = self._look_at = None
        self._past.clear()
        self._observer.proven(self)

    def _tend(self) -> None:
        """Look after what needs time; called at every turn of supervisord's loop."""
        now = self._world.now()
        if self._look_at is not None and now >= self._look_at:
            self._look_again *= LOOK_LATER
            again = self._look_again <= LAST_LOOK
            self._look_at = now + max(FIRST_LOOK, self._look_again) if again else None
            self.look()
        if self._kept is not None:
            self._hurry(self._kept)
        if self._ending:
            self._go_on_ending(now)
        if self._unwanted is not None:
            self._end_late(self._unwanted, now)

    def end_previous(self) -> None:
        """End what is left of earlier generations, which nobody retires any more."""
        now = self._world.now()
        for process in self.previous_generations():
            self._ending.setdefault(process, Kept(0, now))
        self._go_on_ending(now)

    def _end_late(self, unwanted: Unwanted, now: float) -> None:
        """End the successor that was not waited for."""
        late = [child for child in self.successors() if child not in unwanted.before]
        if late or now >= unwanted.until:
            self._unwanted = None
        for process in late:
            self._ending[process] = Kept(0, now)
            self.logger.warn(
                f"hotreload: {self.name}: {process}, the successor of a reload that was given "
                f"up, has come after all and is ended"
            )
        self._go_on_ending(now)

    def _go_on_ending(self, now: float) -> None:
        """Send what is to end an ever stronger signal until it is gone."""
        for process, end in list(self._ending.items()):
            if not self._world.alive(process):
                del self._ending[process]
                continue
            while end.rungs < len(ENDING) and now - end.since >= ENDING[end.rungs][0]:
                self._end_all([process], ENDING[end.rungs][1])
                end.rungs += 1

    def _hurry(self, kept: Kept) -> None:
        """The program is down until the rest of it has ended: QUIT, then SIGKILL."""
        age = self._world.now() - kept.since
        for number, (after, sig) in enumerate(((HOLD, signal.SIGQUIT), (2 * HOLD, signal.SIGKILL))):
            if age > after and kept.rungs == number:
                kept.rungs += 1
                current = self.current()
                self._end_all([*self.previous_generations(), *([current] if current else [])], sig)

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
        """Tell whether supervisord tracks *pid*, for whatever program, or has had it retired."""
        return pid in self._options.pidhistory

    def _others(self, sig: int) -> list[Process]:
        """Return every living generation of the program but the tracked one.

        SIGKILL lets a master tell its workers nothing: they count as others then.
        """
        others = self.previous_generations() + self.successors()
        if self.successor is not None and self.successor not in others:
            others.append(self.successor)
        if sig == signal.SIGKILL and self._lineage is not None:
            others += lineage.workers_of(self._world, self._lineage)
        return others

    def _end_all(self, masters: list[Process], sig: int) -> None:
        """Send the stop signal to the other generations; SIGKILL takes their workers along."""
        for master in masters:
            workers = self._world.children(master) if sig == signal.SIGKILL else []
            self._world.send(master, sig)
            self._world.signal(master, "CONT")  # a stopped process hears nothing else
            for worker in workers:
                if self._options.pidhistory.get(worker.pid) is not self.process:
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
        if self._lineage.owns_group and group == self._lineage.group and group != os.getpgrp():
            os.killpg(group, sig)
        else:
            for member in [*self._world.children(process), process]:
                self._world.send(member, sig)
