"""A master with its workers, and which of its children they are."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Callable, Optional, TypeVar

from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World

DEPTH = 8
"""How many processes deep the master is looked for, shells and wrappers before it included."""

BUDGET = 64
"""How many processes are looked at in that, at most: supervisord waits meanwhile."""


@dataclass
class Generation:
    """A master with its workers as they were at one moment.

    :param tracked: the supervised process; a shell may stand before the master.
    :param image: tells an exec from a fork, 0 where it cannot be seen.
    :param readable: False where the kernel hides the master's descriptors.
    """

    tracked: Process
    master: Process
    image: int
    readable: bool
    children: frozenset[Process]

    @property
    def workers(self) -> int:
        return len(self.children)


def walk(world: World, top: Process) -> Iterator[tuple[Process, list[Process]]]:
    """Yield *top* and what is below it, with the children of each, level by level: at most
    DEPTH levels, and BUDGET processes."""
    level = [top]
    left = BUDGET
    for _ in range(DEPTH):
        below: list[Process] = []
        for process in level[:left]:
            children = world.children(process)
            yield process, children
            below.extend(children)
        left -= len(level)
        if left <= 0:
            return
        level = below


def accepting(world: World, processes: list[Process]) -> list[Process]:
    """Return those of *processes* that accept connections.

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

    :param known: their addresses.
    :param apart: ports, as the kernel writes them, from which others than workers accept.
    """
    return any(known[inode].rpartition(":")[2] not in apart for inode in sockets)


Refined = TypeVar("Refined", bound="AcceptingGeneration")


@dataclass
class AcceptingGeneration(Generation):
    """A generation whose workers are told by what they accept from.

    :param accepting: the children that do; all children where that cannot be seen.
    :param apart: ports, as the kernel writes them, from which others than workers accept.
    """

    accepting: frozenset[Process] = frozenset()
    apart: frozenset[str] = frozenset()

    @property
    def workers(self) -> int:
        return len(self.accepting)

    def refined(self, kind: Callable[..., Refined], **more: object) -> Refined:
        """Return this as a *kind* of AcceptingGeneration, with what a family knows *more* of it."""
        return kind(
            **{one.name: getattr(self, one.name) for one in fields(AcceptingGeneration)}, **more
        )


def accepting_generation(
    world: World,
    tracked: Process,
    fits: Callable[[Process], bool] = lambda process: True,
    at_work: Callable[[World, list[Process]], list[Process]] = accepting,
) -> Optional[AcceptingGeneration]:
    """Return the generation of the topmost process under *tracked* that *fits* and has
    children that accept connections.

    Where nothing can be seen, the topmost one that fits and has children.

    :param at_work: returns those of some processes that accept, or raises Unreadable.
    """
    hidden: Optional[AcceptingGeneration] = None
    for process, children in walk(world, tracked):
        if not children or not fits(process):
            continue
        image = world.image(process)
        try:
            ready = frozenset(at_work(world, children))
        except Unreadable:
            everyone = frozenset(children)
            hidden = hidden or AcceptingGeneration(
                tracked, process, image, False, everyone, everyone
            )
            continue
        if ready:
            return AcceptingGeneration(tracked, process, image, True, frozenset(children), ready)
    return hidden


def refreshed(world: World, old: AcceptingGeneration) -> AcceptingGeneration:
    """Return *old* as it is now: a worker may have been replaced for its age since."""
    children = frozenset(world.children(old.master))
    ended = old.accepting - children
    born = sorted(children - old.children, key=lambda child: child.start)
    try:
        known = world.listening(old.master)
        born = [c for c in born if counts(world.sockets(c, known).held, known, old.apart)]
    except Unreadable:
        pass  # then every child counts as before
    heirs = born if not old.readable else born[: len(ended)]
    workers = (old.accepting & children).union(heirs)
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
