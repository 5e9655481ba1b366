"""nginx: HUP reads the configuration again, USR2 starts a new binary beside the old one.

Of 'Upgrading Executable on the Fly' (nginx's documentation, Controlling nginx)
the step WINCH is left out: with 'daemon off' nginx ignores it until it has been
upgraded once (ngx_signal_handler: ngx_daemonized), and QUIT lets the workers
finish as well. nginx ignores USR2 while its parent is the process that started
it; a QUIT after that would end the service: so it is refused before, and QUIT
goes only to a master whose successor is adopted.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any, Callable, Optional

from supervisor_hotreload.identity import Process, Unreadable
from supervisor_hotreload.model import Failure, Fault, Policy, Progress, Readiness
from supervisor_hotreload.probes import STEADY, Verdict, accepting, shared
from supervisor_hotreload.servers.family import (
    Crew,
    Family,
    Program,
    Renewal,
    Rung,
    Strategy,
    Trial,
    crew,
    probe,
)
from supervisor_hotreload.world import World

DRAIN_CEILING = 3600.0
"""Seconds after which old workers that still drain are told to end at once."""

DISMISSAL = 30.0
"""Seconds that the workers of a successor have to finish their requests."""

QUICK = 5.0
"""Seconds between a quick stop and SIGKILL, and after that."""

STUB = "hotreload-orphan"


class Upgrade:
    """One binary upgrade (protocol.Server), bound to the old generation."""

    def __init__(self, world: World, old: Crew, policy: Policy, program: Program) -> None:
        self._world = world
        self._old = old
        self._policy = policy
        self._program = program
        self._probe: Callable[[Process], Verdict] = probe(world, policy.ready, old, STEADY)
        self._new: Optional[Process] = None
        self._watched: Optional[tuple[float, list[Process]]] = None
        self._asked = False

    def reexec(self) -> None:
        """Let the stub leave first: nginx obeys only when its parent has changed."""
        if stub_of(self._world, self._old, self._program) is not None:
            self._world.signal(self._old.tracked, "USR2")
        else:
            self._ask()

    def _ask(self) -> None:
        self._asked = True
        self._world.signal(self._old.master, "USR2")

    def successor(self) -> Optional[Process]:
        """Return the child of the old master that has exec'd the new binary."""
        if not self.serving():
            raise Failure(Fault.OLD_EXITED, f"the old master ({self._old.master}) exited")
        if not self._asked and stub_of(self._world, self._old, self._program) is None:
            self._ask()
        born = [c for c in self._world.children(self._old.master) if c not in self._old.children]
        self._new = next((child for child in born if self._has_execed(child)), None)
        return self._new

    def expect(self, new: Process) -> None:
        """Know *new* for the successor, which was there before this reload."""
        self._new = new

    def _has_execed(self, child: Process) -> bool:
        status = self._world.status(child.pid)
        return status is not None and bool(status.image) and status.image != self._old.image

    def ready(self, new: Process) -> Verdict:
        self._must_live(new)
        return self._probe(new)

    def baked(self, new: Process, seconds: float) -> object:
        self._must_live(new)
        now = self._world.now()
        if self._watched is None:
            self._watched = now, self._workers(new)
        since, workers = self._watched
        dead = [worker for worker in workers if not self._world.alive(worker)]
        if dead:
            raise Failure(
                Fault.BAKE_FAILED, f"the successor ({new}): {dead[0]}, one of its workers, died"
            )
        return Readiness(len(workers)) if now - since >= seconds else False

    def _workers(self, master: Process) -> list[Process]:
        children = self._world.children(master)
        try:
            return accepting(self._world, children)
        except Unreadable:
            return children

    def serving(self) -> bool:
        return self._world.alive(self._old.master)

    def recall(self) -> None:
        """A stopped master has the USR2 still before it: let it come, then end what comes."""
        status = self._world.status(self._old.master.pid)
        if status is not None and status.state in "Tt":
            self._world.signal(self._old.master, "CONT")

    def _must_live(self, new: Process) -> None:
        if not self._world.alive(new):
            raise Failure(Fault.SUCCESSOR_EXITED, f"the successor ({new}) exited")

    def retirement(self) -> Iterator[Rung]:
        """QUIT: the workers finish what they have, then the master ends."""
        old = self._old.master
        yield self._rung(old, "QUIT", self._policy.drain_timeout or DRAIN_CEILING)
        yield self._rung(old, "TERM", QUICK)
        yield Rung(lambda: self._kill(old), QUICK)

    def dismissal(self, new: Process) -> Iterator[Rung]:
        """QUIT: its workers have requests; those of the old one have never stopped."""
        yield self._rung(new, "QUIT", self._policy.drain_timeout or DISMISSAL)
        yield self._rung(new, "TERM", QUICK)
        yield Rung(lambda: self._kill(new), QUICK)

    def _rung(self, master: Process, name: str, patience: float) -> Rung:
        def send() -> None:
            self._world.signal(master, name)
            self._world.signal(master, "CONT")  # a stopped process hears nothing else

        return Rung(send, patience)

    def _kill(self, master: Process) -> None:
        workers = [child for child in self._world.children(master) if child != self._new]
        for process in (master, *workers):
            self._world.signal(process, "KILL")

    def retired(self) -> object:
        """Return truthy when the old master is gone, which waits for its workers."""
        if self._new is not None:
            self._must_live(self._new)
        master = self._old.master
        left = [child for child in self._world.children(master) if child != self._new]
        return not self._world.alive(master) or Progress(
            f"{len(left)} old worker{'' if len(left) == 1 else 's'} left", 0, len(left)
        )

    def dismissed(self, new: Process) -> bool:
        return not self._world.alive(new)

    def promoted(self, new: Process) -> bool:
        """Tell whether *new* would hear a USR2: its parent is no longer the old master."""
        self._must_live(new)
        status = self._world.status(new.pid)
        return status is not None and status.parent != self._old.master.pid


class NginxFamily(Family):
    """Recognised by its name; its workers by what they accept from."""

    name = "nginx"
    strategies = {  # noqa: RUF012 - a table, never changed
        "graceful": Strategy(True, True, "HUP: new workers with the configuration as it is now"),
        "upgrade": Strategy(False, True, "USR2: a new binary beside the old one"),
    }

    def names(self, program: Program) -> bool:
        return _start(program) is not None

    def survey(self, world: World, tracked: Process, program: Program) -> Optional[Crew]:
        return crew(world, tracked, lambda process: _is_nginx(world, process))

    def lacks(self, program: Program) -> str:
        return "nginx workers yet: no child of its master accepts connections"

    def admit(self, world: World, old: Crew, policy: Policy, program: Program) -> None:
        """Refuse an upgrade that nginx would ignore, with the cure."""
        if policy.strategy != "upgrade" or stub_of(world, old, program) is not None:
            return
        status = world.status(old.master.pid)
        starters = {old.tracked.pid} if old.tracked != old.master else set()
        if status is not None and status.group == old.master.pid:
            starters.add(world.own_pid())  # supervisord gives what it spawns a group of its own
        if status is not None and status.parent in starters:
            raise Failure(
                Fault.NOT_RELOADABLE,
                f"{program.name}: {old.master} ignores USR2 while its parent is the one that has "
                f"started it; nothing was sent. Start it once by: command = {STUB} "
                f"{program.command}",
            )

    def trial(self, world: World, old: Crew, program: Program) -> Optional[Trial]:
        start = _start(program)
        if start is None:
            return None
        words = (*program.words[start:], "-t")
        return Trial(words, "nginx -t", world.owner(old.master))

    def server(self, world: World, old: Crew, policy: Policy, program: Program) -> Any:
        if policy.strategy == "upgrade":
            return Upgrade(world, old, policy, program)
        return Renewal(world, old, policy, lambda: world.signal(old.master, "HUP"), STEADY)

    def leads(self, world: World, process: Process) -> bool:
        return _is_nginx(world, process) and shared(world, process)

    def reexeced(self, world: World, process: Process, masters: Iterable[Process]) -> bool:
        """nginx hands its sockets to a successor by name (ngx_exec_new_binary)."""
        return _is_nginx(world, process) and "NGINX" in world.environment(process)

    def works(self, world: World, process: Process) -> bool:
        title = " ".join(world.arguments(process)[:1])
        return _is_nginx(world, process) and title.startswith("nginx: worker process")


def stub_of(world: World, old: Crew, program: Program) -> Optional[Process]:
    """Return the stub that stands between supervisord and the master, None where none does.

    The operator's own command says that it is one.
    """
    status = world.status(old.master.pid)
    words = [os.path.basename(word) for word in program.words]
    named = STUB in words[:3] or "supervisor_hotreload.orphan" in words[:3]
    if not named or old.tracked == old.master or status is None:
        return None
    return old.tracked if status.parent == old.tracked.pid else None


def _start(program: Program) -> Optional[int]:
    """Return where nginx's own words begin in a program's command."""
    for position, word in enumerate(program.words[:5]):
        if os.path.basename(word) == "nginx":
            return position
    return None


def _is_nginx(world: World, process: Process) -> bool:
    if world.program(process) == "nginx":
        return True
    return any(word.startswith("nginx: ") for word in world.arguments(process)[:1])


FAMILY = NginxFamily()
