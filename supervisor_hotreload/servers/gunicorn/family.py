"""gunicorn: USR2 re-execs the master, TERM ends a generation gracefully.

A foreground master ignores WINCH in every version from 19.9 to 27.0.1, and
QUIT cuts what is in flight: so TERM retires a master that has workers, and
QUIT only one that has none (gunicorn arbiter.handle_winch, handle_quit).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Optional

from supervisor_hotreload.core.model import Failure, Fault, Policy, Progress, Ready
from supervisor_hotreload.core.text import there_are
from supervisor_hotreload.servers.base import GUESS, REEXEC, Family
from supervisor_hotreload.servers.command_line import own_name
from supervisor_hotreload.servers.generation import Generation, walk
from supervisor_hotreload.servers.gunicorn.command import (
    BINARIES,
    bound,
    configured,
    daemonizes,
    options,
    options_of,
)
from supervisor_hotreload.servers.gunicorn.failed_fork import Forks
from supervisor_hotreload.servers.gunicorn.promotion import Promotion
from supervisor_hotreload.servers.gunicorn.start_context import (
    lost_path,
    must_hand_over,
    must_start_again,
)
from supervisor_hotreload.servers.gunicorn.workers import Workers, handed_over, sockets_of
from supervisor_hotreload.servers.launchers import LauncherEnd, must_spare_successor
from supervisor_hotreload.servers.lineage import same_command
from supervisor_hotreload.servers.program import Program
from supervisor_hotreload.servers.readiness import (
    STEADY,
    Accepting,
    Heartbeat,
    Notified,
    Probe,
    Settle,
    Then,
    Verdict,
    shares,
)
from supervisor_hotreload.servers.reexec import DRAIN_CEILING, QUICK, Reexec
from supervisor_hotreload.servers.signals import Rung, is_stopped, rung
from supervisor_hotreload.servers.trial import Trial, run_as
from supervisor_hotreload.system.command import RunAs
from supervisor_hotreload.system.endpoint import endpoint_probe
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World

DRAIN_MARGIN = 10.0
"""Seconds granted on top of a graceful_timeout that the command line tells."""

BOOT_GRACE = 2.0
"""Seconds a dismissed successor has to end its workers that never became ready."""

GRACEFUL_TIMEOUT = 30.0
"""gunicorn's default for --graceful-timeout."""


@dataclass
class GunicornGeneration(Generation):
    """A master with its workers as they were at one moment; the heartbeats tell them."""

    beats: frozenset[tuple[int, int]] = field(default_factory=frozenset)

    @property
    def workers(self) -> int:
        return len(self.beats) if self.readable else len(self.children)


def survey(world: World, tracked: Process, looks_right: bool) -> Optional[GunicornGeneration]:
    """Find the generation under the supervised process *tracked*.

    The master is the topmost process that shares a heartbeat file with a
    child of its own.

    :param looks_right: the configured command names gunicorn; believed only
        where the heartbeats cannot be read.
    :return: None when there is no gunicorn.
    """
    hidden: Optional[Process] = None
    for process, children in walk(world, tracked):
        try:
            beats = world.heartbeats(process)
            if beats and any(shares(world, beats, child) for child in children):
                return _generation(world, tracked, process, frozenset(beats), children)
        except Unreadable:
            if hidden is None and children:
                hidden = process
    if hidden is not None and looks_right:
        return _generation(world, tracked, hidden, None, world.children(hidden))
    return None


def _generation(
    world: World,
    tracked: Process,
    master: Process,
    beats: Optional[frozenset[tuple[int, int]]],
    children: list[Process],
) -> GunicornGeneration:
    return GunicornGeneration(
        tracked=tracked,
        master=master,
        image=world.image(master),
        readable=beats is not None,
        children=frozenset(children),
        beats=beats or frozenset(),
    )


class GunicornReexec(Reexec):
    """One reload of one gunicorn program, bound to its old generation.

    :param program: where it is known, what a re-exec needs is looked at with its rights.
    """

    name = "gunicorn"

    def __init__(
        self,
        world: World,
        old: GunicornGeneration,
        policy: Policy,
        command: str,
        program: Optional[Program] = None,
    ) -> None:
        super().__init__(world, old, policy, probe(world, old, policy.ready, old.workers))
        self._generation = old
        self._program = program
        self._forks = Forks(world, old.master, old.image)
        self._options = options(command)
        self._workers_of_master: dict[Process, Workers] = {}
        self._workers_of(old.master).look()
        self._wrapper = LauncherEnd(world, old)
        self._promotion = Promotion(world, old.master, policy.pidfile)
        self._idle_since: Optional[float] = None
        self._links: frozenset[str] = frozenset()
        self._given_up = self._was_ready = False

    # -- before adoption

    def reexec(self) -> None:
        if self._program is not None:
            must_start_again(self._world, self._old.master, self._program)
        self._forks.look()
        super().reexec()

    def successor(self) -> Optional[Process]:
        """Return the successor; a fork that has failed to become it is ended, for the old
        master ignores every other USR2 as long as that lives.

        :raises Failure: NO_SUCCESSOR when it has failed.
        """
        new = super().successor()
        if new is not None or self.before is None:
            return new
        born = self._born_since()
        if self._given_up:
            self._workers_of(self._old.master).kill(self._forks.waiting(born))
        elif (fork := self._forks.failed(born)) is not None:
            self._world.signal(fork, "KILL")
            raise Failure(
                Fault.NO_SUCCESSOR,
                f"the fork of {self._old.master} that was to execute the successor ({fork}) "
                f"has failed before that (the hook pre_exec, a directory or a file: the "
                f"program's log tells); such a fork tells the old workers to quit, so it was "
                f"killed, and the old master starts others{self._lost_path()}",
            )
        return None

    def _lost_path(self) -> str:
        """Return what to do where a failed fork has removed a unix socket (arbiter.stop)."""
        lost = None
        if self._program is not None:
            lost = lost_path(self._world, self._old.master, self._program)
        return f"; it has removed {lost}, nobody gets in: restart the program" if lost else ""

    def recall(self) -> bool:
        self._given_up = True
        return super().recall()

    def is_successor(self, child: Process) -> bool:
        if not super().is_successor(child):
            return False
        if self._sockets:
            return True  # it was born since it was asked for, and holds them all
        before = self._world.arguments(self._old.master)
        return same_command(self._world.arguments(child), before) is not False

    def ready(self, new: Process) -> Verdict:
        self._must_live(new)
        for master in (self._old.master, new):  # whoever dies, its workers are known
            self._workers_of(master).look()
        if is_stopped(self._world, new):
            return Progress("the successor is stopped by a signal")
        verdict = self._probe(new)
        self._was_ready = self._was_ready or bool(verdict)
        return verdict

    def baked(self, new: Process, seconds: float) -> object:
        self._must_live(new)
        for master in (self._old.master, new):  # whoever dies, its workers are known
            self._workers_of(master).look()
        if is_stopped(self._world, new):
            raise Failure(Fault.BAKE_FAILED, f"the successor ({new}) is stopped by a signal")
        over = super().baked(new, seconds)
        asleep = next((w for w in self._workers(new) if is_stopped(self._world, w)), None)
        if asleep is not None:
            raise Failure(Fault.BAKE_FAILED, f"{asleep}, a worker of {new}, is stopped by a signal")
        return over

    def _workers(self, master: Process) -> list[Process]:
        children = self._world.children(master)
        try:
            beats = self._world.heartbeats(master)
        except Unreadable:
            return children
        return [child for child in children if shares(self._world, beats, child)]

    def _workers_of(self, master: Process) -> Workers:
        """Return the workers of *master*; its successor is a child of it too."""
        if master not in self._workers_of_master:
            self._workers_of_master[master] = Workers(self._world, master, self._grace())
        workers = self._workers_of_master[master]
        workers.outsider = self._new if master == self._old.master else None
        return workers

    def _grace(self) -> float:
        return self._number("graceful-timeout", GRACEFUL_TIMEOUT)

    # -- the ladders

    def retirement(self) -> Iterator[Rung]:
        """TERM, or QUIT where no worker is left; gunicorn's own limit comes first."""
        old = self._old.master
        if self._new is not None:  # a successor holds them all
            self._links = frozenset(f"socket:[{inode}]" for inode in self._sockets)
            self._links = self._links or self._handed_over(self._new)
        first = "TERM" if self._workers_of(old).look() else "QUIT"
        yield rung(self._world, old, first, self._patience())
        yield rung(self._world, old, "QUIT", QUICK)
        yield Rung(lambda: self._kill(old), QUICK)

    def dismissal(self, new: Process) -> Iterator[Rung]:
        """TERM: workers that are ready have requests; those that are not have none."""
        yield rung(self._world, new, "TERM", BOOT_GRACE)
        workers = self._workers_of(new)
        unready = workers.unready()
        serves = self._was_ready or len(unready) < len(workers.look())
        yield Rung(lambda: workers.kill(unready), self._patience() if serves else QUICK)
        yield rung(self._world, new, "QUIT", QUICK)
        yield Rung(lambda: self._kill(new), QUICK)

    def _patience(self) -> float:
        """Return the seconds that a generation with requests in flight has to finish them."""
        if self._policy.drain_timeout is not None:
            return self._policy.drain_timeout
        told = "graceful-timeout" in self._options  # else gunicorn's own limit, whatever it is
        return self._grace() + DRAIN_MARGIN if told else DRAIN_CEILING

    def _kill(self, master: Process) -> None:
        workers = self._workers_of(master)
        workers.kill([master, *workers.look()])

    # -- after adoption

    def retired(self) -> object:
        """Return truthy when the old master, and a shell before it, are gone."""
        if self._new is not None:
            self._must_live(self._new)
        workers = self._workers_of(self._old.master)
        if workers.look() or self._world.alive(self._old.master):
            workers.urge()
            left = len(workers.workers())
            return Progress(f"{left} old worker{'' if left == 1 else 's'} left", 0, left)
        return self._wrapper.ended()

    def dismissed(self, new: Process) -> bool:
        """Return True when the successor and its workers are gone."""
        left = self._workers_of(new).look()
        self._workers_of(new).urge()
        return not self._world.alive(new) and not left

    def promoted(self, new: Process) -> bool:
        """Tell whether *new* is a master like any other, and serves."""
        self._must_live(new)
        self._must_listen(new)
        over = self._wrapper.forgotten() and self._promotion.over(new)
        return over and self._serves(new)

    def _serves(self, new: Process) -> bool:
        """Tell whether a worker of *new* is ready still, or again soon; True where it is hidden.

        :raises Failure: NOT_READY when that takes too long.
        """
        try:
            if any(beat.flipped for beat in self._world.heartbeats(new).values()):
                return True
        except Unreadable:
            return True
        now = self._world.now()
        if self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since > QUICK:
            raise Failure(Fault.NOT_READY, f"no worker of the successor ({new}) is ready any more")
        return False

    def _must_listen(self, new: Process) -> None:
        """Fail when the new master has closed its sockets: it has been told to end as well."""
        if self._links and not self._handed_over(new) and self._world.alive(new):
            raise Failure(
                Fault.SUCCESSOR_EXITED,
                f"the successor ({new}) ends already and accepts nothing: it was told to end "
                f"when the old master ended, by what stands before that or by somebody",
            )

    def _handed_over(self, master: Process) -> frozenset[str]:
        """Return the sockets that *master* listens on, as links; none where they are hidden."""
        try:
            if self._links:
                return self._links & sockets_of(self._world, master)
            return handed_over(self._world, master, self._workers(master))
        except Unreadable:
            return self._links

    # -- what the command line tells

    def _number(self, name: str, default: float) -> float:
        try:
            return float(self._options.get(name, default)) or default
        except ValueError:
            return default


def probe(world: World, old: GunicornGeneration, ready: Ready, expected: int) -> Probe:
    """Return what tells when as many workers as *old* has are ready."""
    if ready.kind == "settle":
        return Settle(world, expected, ready.seconds)
    if ready.kind == "accepting":
        return Accepting(world, expected, (), STEADY)
    beats: Probe = Heartbeat(world, expected)
    if not old.readable:
        beats = Settle(world, expected, STEADY)
    if ready.kind == "heartbeat":
        return beats
    if ready.kind == "notify":
        return Notified(world, beats, old.children)
    return Then(beats, endpoint_probe(world, ready, world.ids(old.master)))


def resembles(arguments: list[str], before: list[str]) -> bool:
    """Tell whether *arguments* are those of a gunicorn, or those of the old master."""
    return arguments == before or any(
        "gunicorn" in os.path.basename(argument) for argument in arguments[:3]
    )


class GunicornFamily(Family[GunicornGeneration]):
    """Recognised by the heartbeat files that a master shares with its workers."""

    name = "gunicorn"
    binaries = BINARIES
    orphan_signal = ""
    strategies = {"reexec": REEXEC}  # noqa: RUF012 - a table, never changed

    def survey(
        self, world: World, tracked: Process, program: Program
    ) -> Optional[GunicornGeneration]:
        return survey(world, tracked, self.is_named_in(program))

    def lacks(self, program: Program) -> str:
        return (
            "gunicorn workers yet: no process under it shares a heartbeat file with a child of its "
            "own"
        )

    def pidfile(self, program: Program) -> Optional[str]:
        told = options(configured(program)).get("pid")
        return os.path.join(program.directory, told) if told else None

    def readiness(self, old: GunicornGeneration, policy: Policy) -> tuple[Ready, str]:
        if policy.ready.kind != "heartbeat":
            return super().readiness(old, policy)
        if old.readable:
            return policy.ready, (
                f"ready = heartbeat: a worker counts once it has loaded the application and "
                f"touches its heartbeat file; {there_are(old.workers, 'worker')}"
            )
        return GUESS, (
            f"warning: the heartbeat of pid {old.master.pid} cannot be read "
            f"(/proc/{old.master.pid}/fd: permission denied); ready = {GUESS} is used "
            f"instead, which is a guess"
        )

    def addresses(self, program: Program) -> list[str]:
        return bound(program)

    def admit(
        self, world: World, old: GunicornGeneration, policy: Policy, program: Program
    ) -> None:
        must_hand_over(world, program.name, old)
        must_spare_successor(world, program, old)
        must_start_again(world, old.master, program)

    def why_not_running(self, program: Program) -> str:
        if not daemonizes(program):
            return ""
        return (
            "its command lets gunicorn leave supervisord (--daemon): what supervisord has started "
            "ends at once; take --daemon away"
        )

    def trial(self, world: World, old: GunicornGeneration, program: Program) -> Optional[Trial]:
        """Load what gunicorn loads, as its workers do; None where the command is not its own:
        a script or a shell would start a second one, on the address of the first.
        """
        words = program.words
        if own_name(words) not in self.binaries:
            return None
        loaded = [child for child in old.children if _has_loaded(world, child)]
        user = run_as(world, old, loaded, program, _named_user(program))
        return Trial((*words, "--check-config"), "gunicorn --check-config", user)

    def server(
        self, world: World, old: GunicornGeneration, policy: Policy, program: Program
    ) -> GunicornReexec:
        return GunicornReexec(world, old, policy, configured(program), program)

    def probe(
        self, world: World, old: GunicornGeneration, ready: Ready, expected: int = 0
    ) -> Probe:
        return probe(world, old, ready, max(expected, old.workers))

    def is_master(self, world: World, process: Process) -> bool:
        """It shares a heartbeat file with a child of its own."""
        try:
            beats = world.heartbeats(process)
        except Unreadable:
            return False
        return bool(beats) and any(shares(world, beats, child) for child in world.children(process))

    def may_be_booting(self, world: World, process: Process) -> bool:
        try:
            return not world.heartbeats(process)
        except Unreadable:
            return False


def _has_loaded(world: World, worker: Process) -> bool:
    """Tell whether *worker* runs its loop: a fork is root's until it has changed its user."""
    try:
        beats = world.heartbeats(worker)
    except Unreadable:
        return True  # not ours to read: it has changed it
    return bool(beats) and all(beat.flipped for beat in beats.values())


def _named_user(program: Program) -> RunAs:
    """Return the user that the command names: a configuration file may be anybody's."""
    words = program.words
    while words and own_name(words[:1]) not in FAMILY.binaries:
        words = words[1:]  # an interpreter has options of its own
    given = options(program.environment.get("GUNICORN_CMD_ARGS", ""))
    named = {**given, **options_of(words[1:])}
    return RunAs(named.get("user"), named.get("group"))


FAMILY = GunicornFamily()
