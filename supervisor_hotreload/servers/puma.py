"""puma in cluster mode: USR1 replaces its workers one by one, USR2 executes the master anew.

From puma's docs/signals.md, docs/restart.md and lib/puma/cluster.rb of 5.6:

- USR1 (phased restart) stops the first worker, forks its replacement, waits until that has
  loaded the application, and goes on with the next worker. The master changes to its
  directory again, by PWD. With preload_app puma restarts as on USR2 instead.
- USR2 (hot restart) lets all workers finish, then executes the master in the same process. The
  listening sockets stay open, so clients wait and none is refused.
- A worker waits in select(2), which the kernel does not show. But its server creates a reactor
  once the application is loaded (Server#run, Reactor#initialize): an epoll descriptor that the
  master does not have. With ``queue_requests false`` there is no reactor, and no proof.
- TERM is a graceful stop of the master and of an orphaned worker.
"""

from __future__ import annotations

from typing import Optional

from supervisor_hotreload.core.model import Policy
from supervisor_hotreload.servers.base import AcceptingFamily, Strategy
from supervisor_hotreload.servers.generation import (
    AcceptingGeneration,
    accepting_generation,
    shares_socket,
)
from supervisor_hotreload.servers.in_place import InPlaceReload
from supervisor_hotreload.servers.program import Program, mentions
from supervisor_hotreload.system.descriptors import EPOLL
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World

WORKER = "puma: cluster worker"
"""The beginning of a worker's title (cluster/worker.rb, run)."""

STRATEGY_SIGNALS = {"chain": "USR1", "graceful": "USR2"}
"""The signal of each strategy."""


class PumaReload(InPlaceReload):
    """One reload of one puma, bound to its old generation."""

    forks_first = False


class PumaFamily(AcceptingFamily[AcceptingGeneration]):
    """Recognised by the titles of a master's workers, with whom it shares its sockets, and by
    the signals that it handles."""

    name = "puma"
    counts_when = "it has loaded the application and its reactor runs"
    binaries = frozenset({"puma"})
    strategies = {  # noqa: RUF012 - a table, never changed
        "chain": Strategy(True, False, "USR1: one worker after the other (phased restart)"),
        "graceful": Strategy(True, False, "USR2: the workers finish, the master execs itself"),
    }

    def survey(
        self, world: World, tracked: Process, program: Program
    ) -> Optional[AcceptingGeneration]:
        return accepting_generation(
            world, tracked, lambda process: self.is_master(world, process), serving
        )

    def lacks(self, program: Program) -> str:
        return (
            "puma workers yet: no worker of its master has loaded the application (puma can be "
            "reloaded in cluster mode, with --workers, and with its queue_requests)"
        )

    def best_strategy(self, world: World, old: AcceptingGeneration, program: Program) -> str:
        """Return 'chain' unless the command says that the master preloads the application."""
        return "graceful" if mentions(program.command, ("--preload",)) else "chain"

    def in_place(
        self, world: World, old: AcceptingGeneration, policy: Policy, program: Program
    ) -> PumaReload:
        name = STRATEGY_SIGNALS[policy.strategy]
        return PumaReload(world, old, policy, lambda: world.signal(old.master, name))

    def is_master(self, world: World, process: Process) -> bool:
        handles = all(
            world.catches(process, name) is not False for name in STRATEGY_SIGNALS.values()
        )
        if not handles or is_worker(world, process):
            return False
        children = world.children(process)
        return any(is_worker(world, c) for c in children) and shares_socket(world, process)


def is_worker(world: World, process: Process) -> bool:
    """Tell whether the title of *process* is that of a worker."""
    return " ".join(world.arguments(process)).startswith(WORKER)


def serving(world: World, processes: list[Process]) -> list[Process]:
    """Return those of *processes* that are workers whose reactor runs.

    :raises Unreadable: when the kernel hides their descriptors.
    """
    return [p for p in processes if is_worker(world, p) and _has_reactor(world, p)]


def _has_reactor(world: World, worker: Process) -> bool:
    """Tell whether *worker* has an epoll descriptor that it has not inherited."""
    master = world.parent(worker)
    inherited = world.descriptors(master) if master is not None else {}
    own = world.descriptors(worker)
    return any(link == EPOLL and inherited.get(name) != EPOLL for name, link in own.items())


FAMILY = PumaFamily()
