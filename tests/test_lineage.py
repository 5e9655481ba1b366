"""What proves that a process belongs to a program, and what does not."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass, replace
from typing import Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor_hotreload.servers import FAMILIES
from supervisor_hotreload.servers.lineage import (
    Lineage,
    find_inheritor,
    held_together,
    orphaned_workers,
    same_command,
    successors,
)
from supervisor_hotreload.system.credentials import Ids
from supervisor_hotreload.system.process import Process, Status, Unreadable
from supervisor_hotreload.system.world import World

APP = (1000,) * 4
WORDS = ("python", "gunicorn", "app:app")


@dataclass(frozen=True)
class Seen:
    """A process as it is, and as a hostile one may make itself look."""

    pid: int
    parent: int = 1
    users: tuple[int, ...] = APP
    image: int = 7
    sockets: Optional[frozenset[int]] = frozenset()
    words: tuple[str, ...] = WORDS
    start: int = 100
    group: int = 10
    beats: bool = True

    @property
    def process(self) -> Process:
        return Process(self.pid, self.start)


class Few(World):
    """A handful of processes under supervisord, which is pid 1."""

    def __init__(self, *seen: Seen, own: frozenset[int] = frozenset()) -> None:
        super().__init__()
        self.all = {one.pid: one for one in seen}
        self.own = own

    def own_pid(self) -> int:
        return 1

    def own_sockets(self) -> frozenset[int]:
        return self.own

    def lookup(self, pid: int) -> Optional[Process]:
        return self.all[pid].process if pid in self.all else None

    def status(self, pid: int) -> Optional[Status]:
        one = self.all.get(pid)
        if one is None:
            return None
        return Status(one.process, "S", one.parent, one.group, one.group, one.image)

    def alive(self, process: Process) -> bool:
        return self.lookup(process.pid) == process

    def ids(self, process: Process) -> Optional[Ids]:
        return Ids(self.all[process.pid].users, APP) if self.alive(process) else None

    def children(self, process: Process) -> list[Process]:
        return [one.process for one in self.all.values() if one.parent == process.pid]

    def orphanage(self, users: Collection[int], ours: bool = False) -> list[Process]:
        return self.children(Process(1, 0))

    def held(self, process: Process) -> frozenset[int]:
        sockets = self.all[process.pid].sockets
        if sockets is None:
            raise Unreadable("hidden")
        return sockets

    def arguments(self, process: Process) -> list[str]:
        return list(self.all[process.pid].words)

    def handed_on(self, process: Process, sockets: Container[int]) -> frozenset[int]:
        return frozenset(one for one in self.held(process) if one in sockets)

    def heartbeats(self, process: Process) -> dict[tuple[int, int], object]:  # type: ignore[override] # only asked for
        return {(1, 1): object()} if self.all[process.pid].beats else {}


MASTER = Seen(10, image=5, sockets=frozenset({1, 2}), start=50)
WORKER = Seen(11, parent=10, image=5, sockets=frozenset({1, 2}))
NEXT = Seen(20, parent=10, image=6, sockets=frozenset({1, 2, 9}))
"""A successor, which has a socket more (gunicorn's control socket)."""


def lineage(*more: Seen) -> Lineage:
    world = Few(MASTER, WORKER, *more)
    known = Lineage(MASTER.process, MASTER.start, family=FAMILIES[0])
    known.add_master(world, MASTER.process)
    known.refresh(world)
    return known


def free(_pid: int) -> bool:
    return False


def test_a_successor_holds_all_sockets_of_its_master() -> None:
    known = lineage()
    assert known.sockets == {1, 2}
    assert successors(Few(MASTER, WORKER, NEXT), known) == [NEXT.process]
    orphan = replace(NEXT, parent=1)
    found = find_inheritor(Few(orphan), known, [], free)
    assert found is not None
    assert found.process == orphan.process


NO_SUCCESSORS = {
    "another user's": replace(NEXT, users=(1001,) * 4),
    "root's": replace(NEXT, users=(0,) * 4),
    "an exec of a setuid file": replace(NEXT, users=(1000, 0, 0, 0)),
    "one socket missing": replace(NEXT, sockets=frozenset({1})),
    "other sockets": replace(NEXT, sockets=frozenset({3, 4})),
    "hidden sockets": replace(NEXT, sockets=None),
    "a fork of the master": replace(NEXT, image=5),
    "a hidden image": replace(NEXT, image=0),
    "another command": replace(NEXT, words=("python", "gunicorn", "side:app")),
}


@pytest.mark.parametrize("kind", NO_SUCCESSORS)
@pytest.mark.parametrize("parent", [10, 1], ids=["child", "orphan"])
def test_who_is_no_successor(kind: str, parent: int) -> None:
    """It has the group, the heartbeat files, workers, all that can be made up."""
    known, one = lineage(), replace(NO_SUCCESSORS[kind], parent=parent)
    below = Seen(30, parent=20, users=one.users, image=one.image, sockets=one.sockets)
    if parent == 10:
        assert successors(Few(MASTER, WORKER, one, below), known) == []
    else:
        assert find_inheritor(Few(one, below), known, [], free) is None


def test_one_that_is_older_than_the_program_is_not_its() -> None:
    older = replace(NEXT, parent=1, start=MASTER.start - 1)
    assert find_inheritor(Few(older), lineage(), [], free) is None


def test_one_that_another_program_has_is_not_taken() -> None:
    orphan = replace(NEXT, parent=1)
    assert find_inheritor(Few(orphan), lineage(), [], lambda pid: pid == orphan.pid) is None


def test_one_that_was_seen_has_to_act_as_the_same_user_still() -> None:
    known = lineage()
    assert find_inheritor(Few(NEXT), known, [NEXT.process], free) is not None
    setuid = replace(NEXT, users=(1000, 0, 0, 0))
    assert find_inheritor(Few(setuid), known, [setuid.process], free) is None


def test_without_recorded_sockets_nothing_proves_an_orphan() -> None:
    known = lineage()
    known.sockets = frozenset()
    assert find_inheritor(Few(replace(NEXT, parent=1)), known, [], free) is None


def test_a_title_hides_the_command_and_the_sockets_do() -> None:
    world = Few(replace(MASTER, words=("gunicorn: master [app]",)), WORKER)
    known = Lineage(MASTER.process, MASTER.start, family=FAMILIES[0])
    known.add_master(world, MASTER.process)
    known.refresh(world)
    booting = replace(NEXT, parent=1, sockets=frozenset({1, 2}))
    assert find_inheritor(Few(booting), known, [], free) is not None
    worker = replace(WORKER, parent=20, image=6)
    ready = replace(NEXT, parent=1, words=("gunicorn: master [app]",))
    assert find_inheritor(Few(ready, worker), known, [], free) is not None
    sidecar = replace(worker, sockets=frozenset({1, 2, 9}))
    assert find_inheritor(Few(ready, sidecar), known, [], free) is None
    helper = replace(NEXT, parent=1, words=("sleep", "1000"), beats=False)
    assert find_inheritor(Few(helper), known, [], free) is None


def test_a_socket_that_supervisord_holds_too_proves_nothing() -> None:
    shared, _ = held_together(Few(MASTER, WORKER, own=frozenset({1})), MASTER.process)
    assert shared == {2}


def test_a_socket_that_workers_do_not_share_is_not_the_program_s() -> None:
    control = replace(MASTER, sockets=frozenset({1, 2, 9}))
    assert held_together(Few(control, WORKER), MASTER.process)[0] == {1, 2}


@pytest.mark.parametrize(
    ("left", "is_left"),
    [
        (WORKER, True),
        (replace(WORKER, pid=12, image=8, sockets=frozenset({2})), True),  # worker_exec
        (replace(WORKER, pid=12, users=(1001,) * 4), False),
        (replace(WORKER, pid=12, users=(0,) * 4), False),
        (replace(WORKER, pid=12, image=8, sockets=frozenset({3})), False),
        (replace(WORKER, pid=12, image=8, sockets=None), False),
    ],
)
def test_what_a_dead_master_leaves(left: Seen, is_left: bool) -> None:
    orphan = replace(left, parent=1)
    found = orphaned_workers(Few(orphan), lineage(), free)
    assert found == ([orphan.process] if is_left else [])


words = st.lists(st.text(max_size=9), max_size=5)


@given(words, words)
def test_commands_are_compared_whatever_they_are(one: list[str], other: list[str]) -> None:
    assert same_command(one, other) in (True, False, None)
    assert same_command(one, one) in (True, None)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (["python", "-m", "gunicorn", "a"], ["python", "/x/gunicorn/__main__.py", "a"], True),
        (["python", "gunicorn", "a"], ["python", "gunicorn", "b"], False),
        (["python", "-u", "-W", "ignore", "gunicorn", "a"], ["python", "gunicorn", "a"], True),
        (["python3", "-s", "-m", "gunicorn", "a"], ["python3", "__main__.py", "a"], True),
        (["gunicorn: master [a]"], ["python", "gunicorn", "b"], None),
        ([], ["python", "gunicorn", "b"], None),
    ],
)
def test_one_command(one: Iterable[str], other: Iterable[str], same: Optional[bool]) -> None:
    assert same_command(list(one), list(other)) is same


def test_a_family_that_renews_itself_in_place_has_no_successors() -> None:
    """Its workers may be execs of the master's command (HAProxy), and outlive that."""
    generic = FAMILIES[-1]
    assert all(strategy.in_place for strategy in generic.strategies.values())
    known = replace(lineage(), family=generic)
    assert successors(Few(MASTER, WORKER, NEXT), known) == []
    orphan = replace(NEXT, parent=1)
    assert find_inheritor(Few(orphan), known, [], free) is None
    assert orphaned_workers(Few(orphan), known, free) == [orphan.process]
