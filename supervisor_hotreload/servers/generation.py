"""A master with its workers, and which of its children are workers that serve."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Callable, Optional, TypeVar

from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World

WALK_LEVELS = 8
"""Levels of processes in which the master is looked for, shells and wrappers included."""

WALK_PROCESSES = 64
"""Processes in which the master is looked for: supervisord waits meanwhile."""

AtWork = Callable[[World, list[Process]], list[Process]]
"""Returns those of some processes that are workers and serve.

It raises Unreadable when the kernel hides that.
"""


@dataclass
class Generation:
    """A master with its workers as they were at one moment.

    :param tracked: the supervised process; a shell may stand between it and the master.
    :param image: differs between a process and its exec, equal in its forks; 0 when hidden.
    :param readable: False when the kernel hides the master's descriptors.
    """

    tracked: Process
    master: Process
    image: int
    readable: bool
    children: frozenset[Process]

    @property
    def workers(self) -> int:
        """Return how many workers there are."""
        return len(self.children)


def walk(world: World, top: Process) -> Iterator[tuple[Process, list[Process]]]:
    """Yield *top* and its descendants, level by level, each with its children.

    At most WALK_LEVELS levels and WALK_PROCESSES processes are looked at.
    """
    level = [top]
    left = WALK_PROCESSES
    for _ in range(WALK_LEVELS):
        below: list[Process] = []
        for process in level[:left]:
            children = world.children(process)
            yield process, children
            below.extend(children)
        left -= len(level)
        if left <= 0:
            return
        level = below


def accepting_workers(world: World, processes: list[Process]) -> list[Process]:
    """Return those of *processes* that accept connections: epoll watches a listening socket.

    :raises Unreadable: when the kernel hides the descriptors of a living one.
    """
    if not processes:
        return []
    known = world.listening(processes[0])
    return [p for p in processes if world.sockets(p, known).accepted and world.alive(p)]


def shares_socket(world: World, process: Process) -> bool:
    """Tell whether *process* shares a listening socket with a child of its own."""
    try:
        known = world.listening(process)
        own = world.sockets(process, known).held
        children = world.children(process)
        return bool(own) and any(own & world.sockets(child, known).held for child in children)
    except Unreadable:
        return False


def counts(sockets: Iterable[int], known: Mapping[int, str], apart: Container[str]) -> bool:
    """Tell whether one of *sockets* is a worker's.

    :param known: the address of each socket.
    :param apart: the ports on which processes listen that are no workers, as the kernel
        writes them.
    """
    return any(known[inode].rpartition(":")[2] not in apart for inode in sockets)


Subclass = TypeVar("Subclass", bound="AcceptingGeneration")


@dataclass
class AcceptingGeneration(Generation):
    """A generation whose workers are those children of the master that serve.

    :param accepting: the children that serve; all children when that is hidden.
    :param apart: see :func:`counts`.
    :param at_work: tells which children serve.
    """

    accepting: frozenset[Process] = frozenset()
    apart: frozenset[str] = frozenset()
    at_work: AtWork = accepting_workers

    @property
    def workers(self) -> int:
        return len(self.accepting)

    def refined(self, kind: Callable[..., Subclass], **more: object) -> Subclass:
        """Return this generation as a *kind* of AcceptingGeneration, with *more* fields."""
        names = [one.name for one in fields(AcceptingGeneration)]
        return kind(**{name: getattr(self, name) for name in names}, **more)


def accepting_generation(
    world: World,
    tracked: Process,
    fits: Callable[[Process], bool] = lambda process: True,
    at_work: AtWork = accepting_workers,
) -> Optional[AcceptingGeneration]:
    """Return the generation of the topmost process under *tracked* that *fits* and has a child
    at work.

    When the kernel hides who is at work, it is the topmost process that fits and has children.
    """
    hidden: Optional[AcceptingGeneration] = None
    for process, children in walk(world, tracked):
        if not children or not fits(process):
            continue
        everyone = frozenset(children)
        found = AcceptingGeneration(
            tracked, process, world.image(process), True, everyone, at_work=at_work
        )
        try:
            found.accepting = frozenset(at_work(world, children))
        except Unreadable:
            hidden = hidden or replace(found, readable=False, accepting=everyone)
            continue
        if found.accepting:
            return found
    return hidden


def refreshed(world: World, old: AcceptingGeneration) -> AcceptingGeneration:
    """Return *old* as it is now: the master may have replaced a worker since, for its age."""
    children = frozenset(world.children(old.master))
    ended = old.accepting - children
    born = sorted(children - old.children, key=lambda child: child.start)
    try:
        known = world.listening(old.master)
        born = [c for c in born if counts(world.sockets(c, known).held, known, old.apart)]
    except Unreadable:
        pass  # then every child counts as before
    replacements = born if not old.readable else born[: len(ended)]
    workers = (old.accepting & children).union(replacements)
    return replace(old, children=children, accepting=workers)


def helpers(world: World, old: AcceptingGeneration) -> frozenset[Process]:
    """Return the children that hold the workers' socket and do not accept from it."""
    others = old.children - old.accepting
    if not others or not old.readable:
        return frozenset()
    try:
        known = world.listening(old.master)
        held = {child: world.sockets(child, known).held for child in others}
    except Unreadable:
        return frozenset()
    return frozenset(child for child in others if counts(held[child], known, old.apart))
