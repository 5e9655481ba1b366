"""unicorn: USR2 starts a second master beside the first, QUIT ends a generation gracefully.

Read from lib/unicorn/http_server.rb of 6.0:

- ``reexec`` forks and execs the first command in the first directory (START_CTX, which
  believes PWD), and hands the sockets over in UNICORN_FD. It is ignored while a child of
  an earlier USR2 lives. The pidfile becomes ``.oldbin``, and itself again should the new
  master die.
- WINCH works without a terminal, but is not needed: on QUIT the workers finish too, each
  within ``timeout``. TERM and INT cut what is in flight: only a last resort here.
- A worker waits in select(2), not in epoll: so it is told by its signals instead.
  ``worker_loop`` traps USR1 once the application is loaded; until then
  ``init_worker_process`` has it ignored, like TTOU, which stays so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Optional

from supervisor_hotreload.core.model import Policy, Progress, Readiness, Ready
from supervisor_hotreload.core.text import there_are
from supervisor_hotreload.servers.base import REEXEC, AcceptingFamily
from supervisor_hotreload.servers.generation import (
    AcceptingGeneration,
    accepting_generation,
    shares_socket,
)
from supervisor_hotreload.servers.launchers import must_spare_successor
from supervisor_hotreload.servers.program import Program
from supervisor_hotreload.servers.readiness import STEADY, Falls, Probe, Verdict, probe
from supervisor_hotreload.servers.reexec import Reexec
from supervisor_hotreload.servers.signals import Rung, rung
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World

NAMES = frozenset({"unicorn", "unicorn_rails"})

STREAMS = ("0", "1", "2")

SETTLED = ("USR2", "HUP", "TTIN", "TTOU")
"""Signals that a worker ignores from a moment after USR1 on; its application may trap some."""

BOOT_GRACE = 2.0
"""Seconds a dismissed successor has to end its workers that never became ready."""


def looping(world: World, processes: list[Process]) -> list[Process]:
    """Return those of *processes* that are workers whose loop runs.

    :raises Unreadable: where the kernel does not tell which signals they handle.
    """
    return [process for process in processes if loops(world, process) and world.alive(process)]


def loops(world: World, process: Process) -> bool:
    """Tell whether *process* is a worker whose loop runs, by the signals that it handles.

    :raises Unreadable: where the kernel does not tell.
    """
    settled = any(world.catches(process, name) is False for name in SETTLED)
    usr1 = world.catches(process, "USR1")  # looked at last, for it was ignored first
    if usr1 is None and world.alive(process):
        raise Unreadable(f"{process}: its signals are hidden")
    return bool(usr1) and settled


class Looping:
    """Ready when the loop of as many workers runs as the old generation had.

    Fewer are enough when all that there are have been ready for a while: the
    new configuration may ask for fewer.
    """

    def __init__(self, world: World, expected: int) -> None:
        self._world = world
        self._expected = max(expected, 1)
        self._falls = Falls(expected)
        self._set: list[Process] = []
        self._since = world.now()

    def __call__(self, master: Process) -> Verdict:
        """Return Readiness, or how many workers of *master* are ready.

        :raises Failure: when they end again and again before they are.
        """
        children = self._world.children(master)
        ready = looping(self._world, children)
        self._falls.look(master, children, ready)
        now = self._world.now()
        if ready != self._set:
            self._set, self._since = ready, now
        steady = len(ready) == len(children) and now - self._since >= STEADY
        if len(ready) >= self._expected or (ready and steady):
            return Readiness(len(ready))
        total = max(self._expected, len(children))
        return Progress.of_workers(len(ready), total)


class UnicornReexec(Reexec):
    """One reload of one unicorn (protocol.Server), bound to its old generation."""

    def at_work(self, children: list[Process]) -> list[Process]:
        return looping(self._world, children)

    def is_successor(self, child: Process) -> bool:
        """An exec alone is no proof: with ``worker_exec`` a worker is one too."""
        return super().is_successor(child) and is_master(self._world, child)

    def dismissal(self, new: Process) -> Iterator[Rung]:
        """QUIT is heard only once what boots has booted: that has no requests, so end it."""
        yield rung(self._world, new, "QUIT", BOOT_GRACE)
        yield Rung(lambda: self._kill_what_boots(new), BOOT_GRACE)
        yield from super().dismissal(new)

    def _kill_what_boots(self, new: Process) -> None:
        children = self._world.children(new)
        try:
            at_work = self.at_work(children)
        except Unreadable:
            return
        for child in children:
            if child not in at_work:
                self._world.signal(child, "KILL")
        if not at_work:
            self._world.signal(new, "KILL")


class UnicornFamily(AcceptingFamily[AcceptingGeneration]):
    """Recognised by its command or its title, and by what its workers do with signals."""

    name = "unicorn"
    binaries = NAMES
    orphan_signal = ""
    strategies = {"reexec": REEXEC}  # noqa: RUF012 - a table, never changed

    def survey(
        self, world: World, tracked: Process, program: Program
    ) -> Optional[AcceptingGeneration]:
        named = self.is_named_in(program)

        def fits(process: Process) -> bool:
            return (named or is_master(world, process)) and obeys(world, process)

        return accepting_generation(world, tracked, fits, looping)

    def lacks(self, program: Program) -> str:
        return "unicorn workers yet: no child of its master has the application loaded"

    def readiness(self, old: AcceptingGeneration, policy: Policy) -> tuple[Ready, str]:
        if policy.ready.kind != "heartbeat" or not old.readable:
            return super().readiness(old, policy)
        return policy.ready, (
            f"a worker counts from the moment when it handles USR1, which it does once the "
            f"application is loaded; {there_are(old.workers, 'worker')}"
        )

    def admit(
        self, world: World, old: AcceptingGeneration, policy: Policy, program: Program
    ) -> None:
        must_spare_successor(world, program, old)

    def server(
        self, world: World, old: AcceptingGeneration, policy: Policy, program: Program
    ) -> UnicornReexec:
        return UnicornReexec(world, old, policy, self.probe(world, old, policy.ready))

    def probe(
        self, world: World, old: AcceptingGeneration, ready: Ready, expected: int = 0
    ) -> Probe:
        expected = max(expected, old.workers)
        return probe(world, ready, old, STEADY, Looping(world, expected), expected)

    def may_be_successor(self, world: World, process: Process) -> bool:
        """With ``worker_exec`` a worker is an exec too."""
        return is_master(world, process)

    def is_master(self, world: World, process: Process) -> bool:
        return is_master(world, process) and obeys(world, process) and shares_socket(world, process)


def obeys(world: World, process: Process) -> bool:
    """Tell whether *process* would not be ended by a USR2, as far as that is known."""
    return world.catches(process, "USR2") is not False


def is_master(world: World, process: Process) -> bool:
    return role(world, process) == "master"


def role(world: World, process: Process) -> str:
    """Return what *process* is to a unicorn: 'master', 'worker', or '' for nothing.

    Its title tells (``proc_name``). A master that boots has none yet, nor has a worker
    with ``worker_exec``; but that has a pipe to its master (worker_spawn, Worker#to_io),
    and a successor has not (reexec closes all but the sockets).
    """
    words = " ".join(world.arguments(process)).split()[:5]
    for word, following in zip(words, [*words[1:], ""]):
        if os.path.basename(word) in NAMES:
            worker = following.startswith("worker[") or _has_pipe(world, process)
            return "worker" if worker else "master"
    return ""


def _has_pipe(world: World, process: Process) -> bool:
    """Tell whether *process* shares a pipe with its parent that is no standard stream of both."""
    status = world.status(process.pid)
    parent = world.lookup(status.parent) if status is not None else None
    if parent is None or parent.pid == world.own_pid():
        return False
    try:
        both = [world.descriptors(one) for one in (process, parent)]
    except Unreadable:
        return False
    streams = {link for links in both for name, link in links.items() if name in STREAMS}
    one, other = ({link for link in links.values() if link[:5] == "pipe:"} for links in both)
    return bool((one & other) - streams)


FAMILY = UnicornFamily()
