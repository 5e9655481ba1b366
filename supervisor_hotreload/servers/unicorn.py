"""unicorn: USR2 starts a second master beside the first, QUIT ends a generation gracefully.

From lib/unicorn/http_server.rb of 6.0:

- ``reexec`` forks and execs the first command in the first directory (START_CTX, which
  uses PWD), and hands the sockets over in UNICORN_FD. It is ignored while a child of
  an earlier USR2 lives. The pidfile becomes ``.oldbin``, and itself again when the new
  master dies.
- WINCH works without a terminal, but is not needed: on QUIT the workers finish too, each
  within ``timeout``. TERM and INT cut the requests in flight.
- A worker waits in select(2), which the kernel does not show, but its signals do.
  ``worker_loop`` traps USR1 once the application is loaded. Before that
  ``init_worker_process`` ignores it, and TTOU, which stays ignored.
"""

from __future__ import annotations

import os
from typing import Optional

from supervisor_hotreload.core.model import Policy
from supervisor_hotreload.servers.base import REEXEC, AcceptingFamily
from supervisor_hotreload.servers.generation import (
    AcceptingGeneration,
    accepting_generation,
    shares_socket,
)
from supervisor_hotreload.servers.launchers import must_spare_successor
from supervisor_hotreload.servers.program import Program
from supervisor_hotreload.servers.reexec import Reexec
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World

UNICORN_NAMES = frozenset({"unicorn", "unicorn_rails"})

STREAMS = ("0", "1", "2")

IGNORED_SOON = ("USR2", "HUP", "TTIN", "TTOU")
"""Signals that a worker ignores from a moment after USR1 on; its application may trap some."""


def looping(world: World, processes: list[Process]) -> list[Process]:
    """Return those of *processes* that are workers whose loop runs.

    :raises Unreadable: where the kernel hides which signals they handle.
    """
    return [process for process in processes if loops(world, process) and world.alive(process)]


def loops(world: World, process: Process) -> bool:
    """Tell from its signals whether *process* is a worker whose loop runs.

    :raises Unreadable: where the kernel hides them.
    """
    ignores = any(world.catches(process, name) is False for name in IGNORED_SOON)
    usr1 = world.catches(process, "USR1")  # looked at last, because it was ignored first
    if usr1 is None and world.alive(process):
        raise Unreadable(f"{process}: its signals are hidden")
    return bool(usr1) and ignores


class UnicornReexec(Reexec):
    """One reload of one unicorn, bound to its old generation."""

    orphan_signal = ""

    def is_successor(self, child: Process) -> bool:
        """With ``worker_exec`` a worker is an exec too."""
        return super().is_successor(child) and is_master(self._world, child)

    def unready(self, master: Process, workers: list[Process]) -> list[Process]:
        """Return the workers whose loop does not run, and a master without any other worker: it
        boots, and obeys no signal before it has booted."""
        try:
            ready = self._at_work(self._world, workers)
        except Unreadable:
            return []
        boots = [worker for worker in workers if worker not in ready]
        return boots if ready else [*boots, master]


class UnicornFamily(AcceptingFamily[AcceptingGeneration]):
    """Recognised by its command or its title, and by the signals that its workers handle."""

    name = "unicorn"
    binaries = UNICORN_NAMES
    orphan_signal = ""
    counts_when = "it handles USR1, which it does once the application is loaded"
    strategies = {"reexec": REEXEC}  # noqa: RUF012 - a table, never changed

    def survey(
        self, world: World, tracked: Process, program: Program
    ) -> Optional[AcceptingGeneration]:
        is_named = self.is_named_in(program)

        def fits(process: Process) -> bool:
            return (is_named or is_master(world, process)) and survives_usr2(world, process)

        return accepting_generation(world, tracked, fits, looping)

    def lacks(self, program: Program) -> str:
        return "unicorn workers yet: no child of its master has the application loaded"

    def admit(
        self, world: World, old: AcceptingGeneration, policy: Policy, program: Program
    ) -> None:
        must_spare_successor(world, program, old)

    def server(
        self, world: World, old: AcceptingGeneration, policy: Policy, program: Program
    ) -> UnicornReexec:
        probe = self.probe(world, old, policy.ready)
        return UnicornReexec(world, old, policy, probe, old.at_work)

    def may_be_successor(self, world: World, process: Process) -> bool:
        """With ``worker_exec`` a worker is an exec too."""
        return is_master(world, process)

    def is_master(self, world: World, process: Process) -> bool:
        return (
            is_master(world, process)
            and survives_usr2(world, process)
            and shares_socket(world, process)
        )


def survives_usr2(world: World, process: Process) -> bool:
    """Tell whether USR2 would not end *process*, as far as the kernel shows that."""
    return world.catches(process, "USR2") is not False


def is_master(world: World, process: Process) -> bool:
    """Tell whether *process* is named unicorn and is no worker.

    Its title names its role (``proc_name``). A master that boots has no title yet, nor has a
    worker with ``worker_exec``. But the latter has a pipe to its master (worker_spawn,
    Worker#to_io), and a successor has none (reexec closes all but the sockets).
    """
    words = " ".join(world.arguments(process)).split()[:5]
    for word, following in zip(words, [*words[1:], ""]):
        if os.path.basename(word) in UNICORN_NAMES:
            return not (following.startswith("worker[") or _has_pipe(world, process))
    return False


def _has_pipe(world: World, process: Process) -> bool:
    """Tell whether *process* shares a pipe with its parent that is no standard stream of both."""
    parent = world.parent(process)
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
