"""Who may inherit a program: its successor, never an orphaned worker.

Trust in this order: kinship, what its family proves, the pidfile. A process that a
pidfile names and that is no kin is nobody's heir.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Callable, Optional

from supervisor_hotreload import servers
from supervisor_hotreload.identity import Process
from supervisor_hotreload.world import World


@dataclass
class Lineage:
    """What is known of the generation that supervisord tracks.

    :param tracked: the supervised process.
    :param group: the process group of the program.
    :param made: supervisord made that group for it, nobody else is in it.
    :param images: what tells an exec from a fork, of every master known.
    :param told: its family believes what it is told: whoever holds a port is its worker.
    """

    tracked: Process
    group: int
    made: bool
    images: dict[Process, int]
    told: bool = False


@dataclass(frozen=True)
class Heir:
    """A living successor, and why it was believed to be one."""

    process: Process
    why: str


def find_heir(
    world: World,
    dead: Lineage,
    seen: Iterable[Process],
    taken: Callable[[int], bool],
    pidfile: Callable[[], Optional[str]],
) -> Optional[Heir]:
    """Return the successor of a generation whose supervised process has ended.

    :param seen: other generations seen while it lived.
    :param taken: tells whether supervisord tracks a pid already.
    :param pidfile: returns where the program writes its pid, if that is known.
    """
    for master in dead.images:
        if master != dead.tracked and world.alive(master) and not taken(master.pid):
            return Heir(master, "the master that it stood before")
    for process in seen:
        if world.alive(process):
            return Heir(process, "seen while the old master lived")
    kin = [child for child in orphans(world, dead) if not taken(child.pid)]
    for child in kin:
        if servers.leads(world, child) and execed(world, child, dead):
            return Heir(child, "an orphan of the old master with workers of its own")
    for child in kin:
        if execed(world, child, dead) and servers.reexeced(world, child, dead.images):
            return Heir(child, "an orphan of the old master, still booting")
    path = pidfile() if kin else None
    named = _named(world, path)
    for child in kin:
        if child.pid in named and execed(world, child, dead):
            return Heir(child, f"an orphan of the old master that {path} names")
    return None


def successors(world: World, living: Lineage) -> list[Process]:
    """Return the successors that the masters of a living generation have forked."""
    return [
        child
        for master in living.images
        for child in world.children(master)
        if execed(world, child, living)
        and (servers.leads(world, child) or servers.reexeced(world, child, living.images))
    ]


def workers_of(world: World, living: Lineage) -> list[Process]:
    """Return the workers of the masters of a living generation."""
    return [
        child
        for master in living.images
        for child in world.children(master)
        if _works(world, child, living)
    ]


def workers_left(world: World, dead: Lineage) -> list[Process]:
    """Return the workers that a dead master has left: they still hold its port."""
    return [
        child
        for child in orphans(world, dead)
        if _works(world, child, dead) and not servers.leads(world, child)
    ]


def _works(world: World, process: Process, lineage: Lineage) -> bool:
    if lineage.told and servers.listens(world, process):
        return True
    return servers.works(world, process)


def orphans(world: World, dead: Lineage) -> list[Process]:
    """Return what the program's process group has left: children of us, or of our ancestors
    where this system has no subreaper."""
    found = []
    for child in world.orphanage():
        status = world.status(child.pid)
        ours = status is not None and status.group == dead.group
        if ours and child.start >= dead.tracked.start:
            found.append(child)
    return found


def execed(world: World, process: Process, dead: Lineage) -> bool:
    """Tell whether *process* is an exec of its own, not a fork of a dead master.

    Where the kernel does not tell, it passes: the other tests have to do.
    """
    status = world.status(process.pid)
    if status is None:
        return False
    return not status.image or status.image not in dead.images.values()


def _named(world: World, pidfile: Optional[str]) -> set[int]:
    named: set[int] = set()
    for path in (pidfile, f"{pidfile}.2") if pidfile else ():
        try:
            named.add(world.read_pid(path))
        except ValueError:
            continue
    return named
