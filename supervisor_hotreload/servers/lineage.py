"""Proves which processes belong to a program: by what supervisord did, saw, or can check by
possession.

Three things prove it, each only for a process whose user ids are the master's:

- supervisord started it for the program;
- it was recorded as a child of such a process while that lived;
- it holds a listening socket that was recorded as the program's: a socket can only be
  inherited or handed over.

A process group, a title, an environment variable, a file name or the order of children
proves nothing. Arguments may only narrow a search: a successor runs its master's command
(gunicorn arbiter.reexec, unicorn http_server.reexec, nginx ngx_exec_new_binary).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Callable, NamedTuple, Optional

from supervisor_hotreload.servers.base import AnyFamily
from supervisor_hotreload.servers.command_line import INTERPRETERS, SHELLS, own_name
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World


class Master(NamedTuple):
    """What was seen of a master while it lived.

    :param image: differs between a process and its exec, equal in its forks; 0 when hidden.
    :param users: its four user ids.
    :param words: its arguments; a title may have overwritten them.
    """

    image: int
    users: tuple[int, ...] = ()
    words: tuple[str, ...] = ()


@dataclass
class Lineage:
    """The recorded processes and sockets of the generation that supervisord tracks.

    :param tracked: the supervised process.
    :param since: nothing of the program is older.
    :param group: its process group: signals go there, but it proves nothing.
    :param owns_group: supervisord made that group for this program.
    :param masters: the supervised process, and the master that it has started.
    :param sockets: the listening sockets that its master shares with its workers.
    :param workers: its workers at the last look, each with its four user ids.
    :param is_ours: its orphans become children of this process, a subreaper that has started it.
    :param family: its family, None while that is not known.
    """

    tracked: Process
    since: int = 0
    group: int = 0
    owns_group: bool = False
    masters: dict[Process, Master] = field(default_factory=dict)
    sockets: frozenset[int] = frozenset()
    workers: dict[Process, tuple[int, ...]] = field(default_factory=dict)
    family: Optional[AnyFamily] = None
    is_ours: bool = False

    @property
    def users(self) -> set[tuple[int, ...]]:
        """The four user ids of each of its masters and workers."""
        return {*self.workers.values(), *(master.users for master in self.masters.values())}

    @property
    def images(self) -> set[int]:
        return {master.image for master in self.masters.values()} - {0}

    @property
    def is_shell(self) -> bool:
        """Tell whether the supervised process is a shell, which waits for what it runs."""
        known = self.masters.get(self.tracked)
        return known is not None and os.path.basename("".join(known.words[:1])) in SHELLS

    def acts_as_master(self, world: World, process: Process) -> bool:
        """Tell whether the four user ids of *process* are those of one of the masters."""
        ids = world.ids(process)
        return ids is not None and any(ids.users == m.users for m in self.masters.values())

    def acts_as_member(self, world: World, process: Process) -> bool:
        """Tell whether the four user ids of *process* are those of a master or a worker.

        A fork of a master of root may have any.
        """
        ids = world.ids(process)
        if ids is None or ids.users in self.users:
            return ids is not None
        # a master of root may give its forks any user
        return ids.user is not None and (0,) * 4 in self.users and self.is_fork(world, process)

    def is_fork(self, world: World, process: Process) -> bool:
        """Tell whether *process* is a fork of a master."""
        return world.image(process) in self.images

    def add_master(self, world: World, master: Process) -> None:
        """Record a master that was proven to be one."""
        ids = world.ids(master)
        self.masters[master] = Master(
            world.image(master),
            ids.users if ids is not None else (),
            tuple(world.arguments(master)),
        )

    def refresh(self, world: World) -> bool:
        """Record the sockets and workers that the generation has now.

        :return: True when its sockets have changed.
        """
        before = self.sockets
        for master in self.masters:
            if not world.alive(master):
                continue
            found, workers = held_together(world, master)
            self.workers = {w: users for w, users in self.workers.items() if world.alive(w)}
            for worker in workers:
                ids = world.ids(worker)
                if ids is not None and ids.user is not None:
                    self.workers[worker] = ids.users
            if found:  # workers may have inherited others by chance: keep the known ones
                self.sockets = found & before or found
        return bool(self.sockets) and self.sockets != before


@dataclass(frozen=True)
class Inheritor:
    """The living process that takes the place of a tracked one that died.

    :param why: what proves it, as the end of a sentence.
    """

    process: Process
    why: str


def acts_alike(world: World, one: Process, other: Process) -> bool:
    """Tell whether two processes have the same four user ids."""
    ids, others = world.ids(one), world.ids(other)
    return ids is not None and others is not None and ids.users == others.users


def held_together(world: World, master: Process) -> tuple[frozenset[int], frozenset[Process]]:
    """Return the listening sockets that *master* shares with its workers, and these workers.

    A socket that supervisord itself holds may belong to several programs, and proves nothing.
    Without workers all sockets of the master count.
    """
    children = frozenset(world.children(master))
    image = world.image(master)
    workers = {child for child in children if image and world.image(child) == image}
    try:
        shared = world.held(master)
        shared -= world.own_sockets() if shared else frozenset()
    except Unreadable:
        return frozenset(), frozenset(workers)
    for child in children if shared else ():
        try:
            common = shared & world.held(child)
        except Unreadable:
            continue
        if common:
            shared = common
            workers.add(child)
    handed_on = world.handed_on(master, shared) if len(shared) > 1 else shared
    return handed_on or shared, frozenset(workers)


def workers_under(
    world: World, master: Process, image: int, sockets: frozenset[int]
) -> list[Process]:
    """Return the children of a living *master* that are its workers, without other programs that
    it has started.

    :param image: the master's; when it is hidden every child counts.
    :param sockets: those that it shares with its workers.
    """
    found = []
    for child in world.children(master):
        seen = world.image(child)
        if not image or not seen or seen == image or holds_some(world, child, sockets):
            found.append(child)
    return found


def holds_all(world: World, process: Process, sockets: frozenset[int]) -> bool:
    """Tell whether *process* holds all of *sockets*: where that is hidden, if there are none."""
    try:
        return sockets <= world.held(process)
    except Unreadable:
        return not sockets


def holds_some(world: World, process: Process, sockets: frozenset[int]) -> bool:
    """Tell whether *process* holds one of *sockets*; False where that is hidden."""
    try:
        return bool(sockets) and not sockets.isdisjoint(world.held(process))
    except Unreadable:
        return False


def find_inheritor(
    world: World,
    dead: Lineage,
    seen: Iterable[Process],
    taken: Callable[[int], bool],
    by_itself: bool = False,
) -> Optional[Inheritor]:
    """Return the inheritor of a generation whose supervised process has ended.

    :param seen: the masters of other generations, seen while it lived.
    :param taken: tells whether supervisord already tracks a pid, for any program.
    :param by_itself: it has exited, nobody has killed it.
    """
    shell = by_itself and dead.is_shell
    for master in dead.masters if not shell else ():  # a shell that exits has not waited for it
        if master != dead.tracked and world.alive(master) and not taken(master.pid):
            return Inheritor(master, "the master that it had started")
    for process in seen:
        if world.alive(process) and dead.acts_as_master(world, process):
            return Inheritor(process, "seen while the old master lived")
    for child in possible_orphans(world, dead, taken) if dead.sockets else ():
        if dead.acts_as_master(world, child) and is_successor(world, dead, child):
            return Inheritor(child, "a successor that holds the old master's sockets")
    return None


def successors(world: World, living: Lineage) -> list[Process]:
    """Return the successors that the masters of a living generation have started."""
    return [
        child
        for master in living.masters
        for child in world.children(master)
        if living.acts_as_master(world, child) and is_successor(world, living, child)
    ]


def is_successor(world: World, lineage: Lineage, process: Process) -> bool:
    """Tell whether *process* is a successor: an exec of the same command with all of the sockets.

    :param process: a child or an orphan of a master, with the same user ids.
    """
    family = lineage.family
    if not is_exec(world, process, lineage):
        return False
    if family is not None and not family.may_be_successor(world, process):
        return False
    if not holds_all(world, process, lineage.sockets):
        return False
    words = world.arguments(process)
    if any(same_command(words, master.words) for master in lineage.masters.values()):
        return True
    return family is not None and _has_only(world, lineage.sockets, process, words, family)


def _has_only(
    world: World, sockets: frozenset[int], process: Process, words: Sequence[str], family: AnyFamily
) -> bool:
    """Tell whether a server with a hidden or another command has only the *sockets* of the
    program. A sidecar that has inherited them by chance has one of its own too."""
    if not world.children(process):
        return own_name(words) in family.binaries and world.held(process) == sockets
    return family.is_master(world, process) and held_together(world, process)[0] == sockets


def workers_of(world: World, living: Lineage) -> list[Process]:
    """Return the workers of the masters of a living generation."""
    return [
        child
        for master in living.masters
        for child in world.children(master)
        if is_worker(world, living, child)
    ]


def orphaned_workers(
    world: World, dead: Lineage, taken: Callable[[int], bool], by_sockets: bool = True
) -> list[Process]:
    """Return the workers that a dead master has left, and every orphan that holds its sockets.

    :param by_sockets: False leaves out the latter: another generation may share the sockets.
    """
    known = dead if by_sockets else replace(dead, sockets=frozenset())
    return [
        child for child in possible_orphans(world, dead, taken) if is_worker(world, known, child)
    ]


def is_worker(world: World, lineage: Lineage, process: Process) -> bool:
    """Tell whether *process*, a child or an orphan of a master, is a worker: a fork of the master,
    or a process that holds its sockets. A worker that shuts down is one too."""
    if process in lineage.workers or lineage.is_fork(world, process):
        return True
    return holds_some(world, process, lineage.sockets)


def possible_orphans(
    world: World, dead: Lineage, taken: Callable[[int], bool]
) -> Iterator[Process]:
    """Yield the orphans with the user ids of a generation. This alone proves nothing.

    They are children of this process, or of its ancestors where the system has no subreaper.
    """
    users = {one[0] for one in dead.users if one}
    for child in world.orphanage(users, ours=dead.is_ours):
        if not taken(child.pid) and child.start >= dead.since and dead.acts_as_member(world, child):
            yield child


def is_exec(world: World, process: Process, lineage: Lineage) -> bool:
    """Tell whether *process* has executed a file itself, and is no fork of a master."""
    image = world.image(process)
    return bool(image) and image not in lineage.images


def same_command(words: Sequence[str], before: Sequence[str]) -> Optional[bool]:
    """Tell whether two processes run the same command, None when a title hides it.

    gunicorn leaves out the options of the interpreter, and executes the file of a module named
    by ``python -m`` (arbiter.setup).
    """
    if len(words) < 2 or len(before) < 2:
        return None  # a title is one word
    return _behind_interpreter(words) == _behind_interpreter(before)


def runs(words: Sequence[str], command: Sequence[str]) -> bool:
    """Tell whether a process with the arguments *words* runs *command*, directly or by the
    interpreter in the first line of its script."""
    tail = list(words[-len(command) :])
    return bool(command) and (
        len(tail) == len(command)
        and tail[1:] == list(command[1:])
        and os.path.basename(tail[0]) == os.path.basename(command[0])
    )


def _behind_interpreter(words: Sequence[str]) -> list[str]:
    """Return the arguments of the script or module that an interpreter runs."""
    if not INTERPRETERS.match(os.path.basename(words[0])):
        return list(words[1:])
    rest = list(words[1:])
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if option == "-m":
            return rest[1:]
        if option in ("-W", "-X"):
            del rest[:1]
    return rest[1:]
