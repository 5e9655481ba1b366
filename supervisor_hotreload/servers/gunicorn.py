"""gunicorn: USR2 re-execs the master, TERM ends a generation gracefully.

A foreground master ignores WINCH in every version from 19.9 to 27.0.1, and
QUIT cuts what is in flight: so TERM retires a master that has workers, and
QUIT only one that has none (gunicorn arbiter.handle_winch, handle_quit).
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Callable, Optional

from supervisor_hotreload.endpoints import Endpoint
from supervisor_hotreload.identity import Process, Unreadable
from supervisor_hotreload.model import Failure, Fault, Policy, Progress, Readiness, Ready
from supervisor_hotreload.probes import (
    STEADY,
    Accepting,
    Heartbeat,
    Notified,
    Settle,
    Then,
    Verdict,
    Watch,
    shares,
)
from supervisor_hotreload.servers import family
from supervisor_hotreload.servers.family import (
    DEPTH,
    GUESS,
    REEXEC,
    Family,
    Program,
    Rung,
    Trial,
    own_name,
    run_as,
    rung,
    stopped,
)
from supervisor_hotreload.servers.lineage import held_together, same_command, workers_under
from supervisor_hotreload.servers.upgrade import Upgrade
from supervisor_hotreload.system.command import RunAs
from supervisor_hotreload.world import World

DRAIN_CEILING = 3600.0
"""Seconds after which an old generation is hung: gunicorn ends its workers itself
after graceful_timeout, whatever that is, and is never cut short by us."""

DRAIN_MARGIN = 10.0
"""Seconds granted on top of a graceful_timeout that the command line tells."""

BOOT_GRACE = 2.0
"""Seconds a dismissed successor has to end its workers that never became ready."""

QUICK = 5.0
"""Seconds between a quick stop and SIGKILL, and after that."""

GRACEFUL_TIMEOUT = 30.0
"""gunicorn's default for --graceful-timeout."""

TIMEOUT = 30.0
"""gunicorn's default for --timeout; a worker touches its heartbeat twice in it."""

SWITCHES = 3
"""Turns of the master's loop after its parent is gone, until it is surely promoted."""

BLIND = 2.0
"""Seconds after which it is promoted for sure: its loop looks every second."""


@dataclass
class Generation(family.Generation):
    """A master with its workers as they were at one moment; the heartbeats tell them."""

    beats: frozenset[tuple[int, int]] = field(default_factory=frozenset)

    @property
    def workers(self) -> int:
        return len(self.beats) if self.readable else len(self.children)


def survey(world: World, tracked: Process, looks_right: bool) -> Optional[Generation]:
    """Find the generation under the supervised process *tracked*.

    The master is the topmost process that shares a heartbeat file with a
    child of its own.

    :param looks_right: the configured command names gunicorn; believed only
        where the heartbeats cannot be read.
    :return: None when there is no gunicorn.
    """
    level = [tracked]
    hidden: Optional[Process] = None
    for _ in range(DEPTH):
        below: list[Process] = []
        for process in level:
            children = world.children(process)
            try:
                beats = world.heartbeats(process)
                if beats and any(shares(world, beats, child) for child in children):
                    return _generation(world, tracked, process, frozenset(beats), children)
            except Unreadable:
                if hidden is None and children:
                    hidden = process
            below.extend(children)
        level = below
    if hidden is not None and looks_right:
        return _generation(world, tracked, hidden, None, world.children(hidden))
    return None


def _generation(
    world: World,
    tracked: Process,
    master: Process,
    beats: Optional[frozenset[tuple[int, int]]],
    children: list[Process],
) -> Generation:
    return Generation(
        tracked=tracked,
        master=master,
        image=world.image(master),
        readable=beats is not None,
        children=frozenset(children),
        beats=beats or frozenset(),
    )


class Crew:
    """The workers of one master, also after it has died and left them orphaned.

    :param grace: seconds that orphaned workers have to finish their requests.
    """

    def __init__(self, world: World, master: Process, grace: float) -> None:
        self.outsider: Optional[Process] = None
        self._world = world
        self._master = master
        self._grace = grace
        self._image = world.image(master)
        self._sockets, _ = held_together(world, master)
        self._seen: set[Process] = set()
        self._orphaned_at: Optional[float] = None

    def look(self) -> list[Process]:
        """Return those that live, oldest first."""
        self._seen.update(workers_under(self._world, self._master, self._image, self._sockets))
        self._seen = {w for w in self._seen if w != self.outsider and self._world.alive(w)}
        return sorted(self._seen, key=lambda worker: worker.start)

    def urge(self) -> None:
        """See to it that it ends: what is stopped by a signal hears no other.

        Without a master nobody tells workers to stop: TERM at once, KILL after the grace.
        """
        if self._world.alive(self._master):
            if stopped(self._world, self._master):
                self._world.signal(self._master, "CONT")
            return
        now = self._world.now()
        if self._orphaned_at is None:
            self._orphaned_at = now
            for worker in self._seen:
                self._world.signal(worker, "TERM")
        elif now - self._orphaned_at > self._grace:
            for worker in self._seen:
                self._world.signal(worker, "KILL")


class Gunicorn(Upgrade):
    """One reload of one gunicorn program, bound to its old generation."""

    name = "gunicorn"

    def __init__(self, world: World, old: Generation, policy: Policy, command: str) -> None:
        super().__init__(world, old, policy, probe(world, old, policy.ready))
        self._generation = old
        self._options = options(command)
        self._crews: dict[Process, Crew] = {}
        self._crew(old.master).look()
        self._watch: Optional[Watch] = None
        self._baked_since: Optional[float] = None
        self._ended_at: Optional[float] = None
        self._asleep: Optional[int] = None
        self._orphaned_at: Optional[float] = None

    # -- before adoption

    def is_successor(self, child: Process) -> bool:
        before = self._world.arguments(self._old.master)
        alike = same_command(self._world.arguments(child), before)
        return alike is not False and super().is_successor(child)

    def ready(self, new: Process) -> Verdict:
        self._must_live(new)
        for master in (self._old.master, new):  # whoever dies, its workers are known
            self._crew(master).look()
        if stopped(self._world, new):
            return Progress("the successor is stopped by a signal")
        return self._told(new)

    def baked(self, new: Process, seconds: float) -> object:
        self._must_live(new)
        for master in (self._old.master, new):  # whoever dies, its workers are known
            self._crew(master).look()
        if stopped(self._world, new):
            raise Failure(Fault.BAKE_FAILED, f"the successor ({new}) is stopped by a signal")
        now = self._world.now()
        if self._baked_since is None:
            self._baked_since = now
        complaint = self._complaint(new)
        if complaint is not None:
            raise Failure(Fault.BAKE_FAILED, f"the successor ({new}): {complaint}")
        done = now - self._baked_since >= seconds
        return Readiness(self._old.workers) if done else False

    def _complaint(self, new: Process) -> Optional[str]:
        """Return what is wrong with a successor that was ready, None when nothing is."""
        if not self._old.readable:
            return None if self._told(new) else "it lost workers"
        if self._watch is None:
            self._watch = Watch(self._world, new, self._number("timeout", TIMEOUT))
        return self._watch.complaint()

    def _crew(self, master: Process) -> Crew:
        """Return the workers of *master*; its successor is a child of it too."""
        if master not in self._crews:
            self._crews[master] = Crew(self._world, master, self._grace())
        crew = self._crews[master]
        crew.outsider = self._new if master == self._old.master else None
        return crew

    def _grace(self) -> float:
        return self._number("graceful-timeout", GRACEFUL_TIMEOUT)

    # -- the ladders

    def retirement(self) -> Iterator[Rung]:
        """TERM, or QUIT where no worker is left; gunicorn's own limit comes first."""
        old = self._old.master
        first = "TERM" if self._crew(old).look() else "QUIT"
        patience = self._policy.drain_timeout
        if patience is None:
            told = "graceful-timeout" in self._options
            patience = self._grace() + DRAIN_MARGIN if told else DRAIN_CEILING
        yield rung(self._world, old, first, patience)
        yield rung(self._world, old, "QUIT", QUICK)
        yield Rung(lambda: self._kill(old), QUICK)

    def dismissal(self, new: Process) -> Iterator[Rung]:
        """TERM: workers that are ready have requests; those that are not have none."""
        yield rung(self._world, new, "TERM", BOOT_GRACE)
        yield Rung(
            lambda: self._kill_unready(new),
            self._policy.drain_timeout or self._grace() + DRAIN_MARGIN,
        )
        yield Rung(lambda: self._kill(new), QUICK)

    def _kill_unready(self, master: Process) -> None:
        for worker in self._crew(master).look():
            try:
                beats = self._world.heartbeats(worker)
            except Unreadable:
                continue
            if not any(beat.flipped for beat in beats.values()):
                self._world.signal(worker, "KILL")

    def _kill(self, master: Process) -> None:
        workers = self._crew(master).look()
        self._world.signal(master, "KILL")
        for worker in workers:
            self._world.signal(worker, "KILL")

    # -- after adoption

    def retired(self) -> object:
        """Return truthy when the old master, and a shell before it, are gone."""
        if self._new is not None:
            self._must_live(self._new)
        left = self._crew(self._old.master).look()
        if self._world.alive(self._old.master) or left:
            self._crew(self._old.master).urge()
            return Progress(
                f"{len(left)} old worker{'' if len(left) == 1 else 's'} left", 0, len(left)
            )
        return self._wrapper_ended()

    def _wrapper_ended(self) -> bool:
        """Tell whether a shell before the old master is gone, which ends by itself or is ended."""
        wrapper = self._old.tracked
        if not self._world.alive(wrapper):
            return True
        now = self._world.now()
        if self._ended_at is None:
            self._ended_at = now
        elif now - self._ended_at > QUICK:
            self._world.signal(wrapper, "TERM" if now - self._ended_at < 2 * QUICK else "KILL")
        return False

    def dismissed(self, new: Process) -> bool:
        """Return True when the successor and its workers are gone."""
        left = self._crew(new).look()
        self._crew(new).urge()
        return not self._world.alive(new) and not left

    def promoted(self, new: Process) -> bool:
        """Tell whether *new* has seen that its parent is gone (gunicorn maybe_promote_master).

        Its loop looks once a second; a SIGCHLD wakes it. Then the pidfile
        names it, or, where there is none, the loop has gone to sleep again.
        """
        self._must_live(new)
        status = self._world.status(new.pid)
        if status is None or status.parent == self._old.master.pid:
            return False
        if self._names(new):
            return True
        now = self._world.now()
        asleep = self._world.sleeps(new)
        if self._orphaned_at is None:
            self._orphaned_at, self._asleep = now, asleep
        if self._policy.pidfile is None and asleep is not None and self._asleep is not None:
            turned = asleep >= self._asleep + SWITCHES
        else:
            turned = now - self._orphaned_at > BLIND
        if not turned:
            self._world.signal(new, "CHLD")
        return turned

    def _names(self, new: Process) -> bool:
        """Tell whether the pidfile names *new*; before the promotion there is none."""
        if self._policy.pidfile is None:
            return False
        try:
            return self._world.read_pid(self._policy.pidfile) == new.pid
        except ValueError:
            return False

    # -- what the command line tells

    def _number(self, name: str, default: float) -> float:
        try:
            return float(self._options.get(name, default)) or default
        except ValueError:
            return default


def probe(world: World, old: Generation, ready: Ready) -> Callable[[Process], Verdict]:
    """Return what tells when as many workers as *old* has are ready."""
    if ready.kind == "settle":
        return Settle(world, old.workers, ready.seconds)
    if ready.kind == "accepting":
        return Accepting(world, old.workers, (), STEADY)
    beats: Callable[[Process], Verdict] = Heartbeat(world, old.workers)
    if not old.readable:
        beats = Settle(world, old.workers, STEADY)
    if ready.kind == "heartbeat":
        return beats
    if ready.kind == "notify":
        return Notified(world, beats, old.children)
    return Then(beats, Endpoint(world, ready))


def resembles(arguments: list[str], before: list[str]) -> bool:
    """Tell whether *arguments* are those of a gunicorn, or those of the old master."""
    return arguments == before or any(
        "gunicorn" in os.path.basename(argument) for argument in arguments[:3]
    )


SHORT = {"-p": "pid", "-t": "timeout", "-u": "user", "-g": "group"}
"""gunicorn's short options that matter here (gunicorn config)."""


def options(command: str) -> dict[str, str]:
    """Return the long options with a value that a configured command has."""
    try:
        words = shlex.split(command)
    except ValueError:
        return {}
    found: dict[str, str] = {}
    for word, value in zip(words, [*words[1:], ""]):
        if word.startswith("--"):
            name, equals, rest = word[2:].partition("=")
            found[name] = rest if equals else value
        elif word[:2] in SHORT:
            found[SHORT[word[:2]]] = word[2:].lstrip("=") or value
    return found


class GunicornFamily(Family):
    """Recognised by the heartbeat files that a master shares with its workers."""

    name = "gunicorn"
    binaries = frozenset({"gunicorn", "gunicorn3", "gunicorn_paster"})
    farewell = ""
    strategies = {"reexec": REEXEC}  # noqa: RUF012 - a table, never changed

    def survey(self, world: World, tracked: Process, program: Program) -> Optional[Generation]:
        return survey(world, tracked, self.names(program))

    def lacks(self, program: Program) -> str:
        return (
            "gunicorn workers yet: no process under it shares a heartbeat file with a child of its "
            "own"
        )

    def pidfile(self, program: Program) -> Optional[str]:
        told = options(configured(program)).get("pid")
        return os.path.join(program.directory, told) if told else None

    def readiness(self, old: Generation, policy: Policy) -> tuple[Ready, str]:
        if policy.ready.kind != "heartbeat":
            return super().readiness(old, policy)
        if old.readable:
            return policy.ready, (
                f"ready = heartbeat: a worker counts once it has loaded the application and "
                f"touches its heartbeat file; there are {old.workers}"
            )
        return GUESS, (
            f"warning: the heartbeat of pid {old.master.pid} cannot be read "
            f"(/proc/{old.master.pid}/fd: permission denied); ready = {GUESS} is used "
            f"instead, which is a guess"
        )

    def addresses(self, program: Program) -> list[str]:
        words = program.words
        found = []
        for word, value in zip(words, [*words[1:], ""]):
            if word in ("-b", "--bind"):
                found.append(value)
            elif word.startswith("--bind="):
                found.append(word[7:])
            elif word.startswith("-b"):
                found.append(word[2:])
        if not found:
            port = program.environment.get("PORT")
            return [f":{port}" if port else "127.0.0.1:8000"]
        paths = [one[5:] for one in found if one.startswith("unix:")]
        others = [one for one in found if not one.startswith("unix:")]
        return [*others, *(os.path.join(program.directory, path) for path in paths)]

    def trial(self, world: World, old: Generation, program: Program) -> Optional[Trial]:
        """Load what gunicorn loads, as its workers do; None where the command is not its own:
        a script or a shell would start a second one, on the address of the first.
        """
        words = program.words
        if own_name(words) not in self.binaries:
            return None
        loaded = [child for child in old.children if _has_loaded(world, child)]
        user = run_as(world, old, loaded, program, _named_user(program))
        return Trial((*words, "--check-config"), "gunicorn --check-config", user)

    def server(self, world: World, old: Generation, policy: Policy, program: Program) -> Gunicorn:
        return Gunicorn(world, old, policy, configured(program))

    def leads(self, world: World, process: Process) -> bool:
        """It shares a heartbeat file with a child of its own."""
        try:
            beats = world.heartbeats(process)
        except Unreadable:
            return False
        return bool(beats) and any(shares(world, beats, child) for child in world.children(process))

    def boots(self, world: World, process: Process) -> bool:
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
    named = {**given, **options(shlex.join(words[1:]))}
    return RunAs(named.get("user"), named.get("group"))


def configured(program: Program) -> str:
    """Return a program's command, after the arguments that gunicorn takes from the
    environment (GUNICORN_CMD_ARGS), which give way to it."""
    more = program.environment.get("GUNICORN_CMD_ARGS", "")
    return f"{more} {program.command}".strip()


FAMILY = GunicornFamily()
