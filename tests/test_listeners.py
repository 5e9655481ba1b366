"""Who listens, as the kernel's tables tell it: everybody may write names into them."""

from __future__ import annotations

import os
import resource
import select
import socket
import sys
from collections.abc import Iterator

import pytest

from supervisor_hotreload import listeners
from supervisor_hotreload.identity import Process, Unreadable, heartbeats, lookup
from supervisor_hotreload.listeners import Sockets

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")

FORGED = "00000000deadbeef: 00000002 00000000 00010000 0001 01 {inode} {path}"


def bound(name: str, listen: bool = False) -> socket.socket:
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(name)
    if listen:
        unix.listen()
    return unix


def inode(unix: socket.socket) -> int:
    return os.fstat(unix.fileno()).st_ino


@pytest.mark.parametrize("rest", ["b", "0: 1 2 3", "x: y z 00010000 1 2 9", "\r", "", "\xff"])
def test_a_name_with_a_line_feed_in_it_tears_nothing(rest: str) -> None:
    with bound(f"\0a{os.getpid()}\n{rest}"), bound(f"\0good{os.getpid()}", True) as good:
        found = listeners.listening(os.getpid())
        assert found[inode(good)] == f"@good{os.getpid()}"
        assert 9 not in found


def test_a_forged_line_makes_no_listener_of_a_socket_that_is_none() -> None:
    with bound(f"\0quiet{os.getpid()}") as quiet:
        line = FORGED.format(inode=inode(quiet), path="x")
        with bound(f"\0a\n{line}"):
            assert inode(quiet) not in listeners.listening(os.getpid())


def test_a_forged_line_gives_no_other_name_to_a_listener() -> None:
    with bound(f"\0loud{os.getpid()}", True) as loud:
        line = FORGED.format(inode=inode(loud), path="/run/stats")
        with bound(f"\0a\n{line}"):
            assert listeners.listening(os.getpid())[inode(loud)] == ""


class Clock:
    """A world's clock that moves when it is told to."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def me() -> Process:
    found = lookup(os.getpid())
    assert found is not None
    return found


@pytest.fixture(params=[0, 300], ids=["few", "many"])
def crowd(request: pytest.FixtureRequest) -> Iterator[None]:
    """Hold so many descriptors more."""
    made = [os.open(os.devnull, os.O_RDONLY) for _ in range(request.param)]
    yield
    for number in made:
        os.close(number)


@pytest.mark.usefixtures("crowd")
def test_what_is_remembered_is_looked_at_again(me: Process) -> None:
    clock, memory = Clock(), listeners.Memory()
    memory.sockets(me, {}, clock)
    clock.time += 0.02
    with bound(f"\0m{os.getpid()}", True) as listener, select.epoll() as poll:
        number = inode(listener)
        assert memory.listening(me, clock)[number] == f"@m{os.getpid()}"
        known = {number: ""}
        assert memory.sockets(me, known, clock) == Sockets(frozenset([number]), frozenset())
        poll.register(listener)
        clock.time += 0.02
        assert memory.sockets(me, known, clock).accepted == {number}
        poll.unregister(listener)
        assert memory.sockets(me, known, clock).accepted == set()
    clock.time += 0.02
    assert memory.sockets(me, known, clock).held == set()


@pytest.mark.usefixtures("crowd")
def test_a_number_that_is_used_again_is_found_in_a_second(me: Process) -> None:
    clock, memory = Clock(), listeners.Memory()
    with open(os.devnull) as before:
        number = before.fileno()
        memory.sockets(me, {}, clock)
    with bound(f"\0again{os.getpid()}", True) as listener:
        assert listener.fileno() == number
        clock.time += 1.1
        assert memory.sockets(me, {inode(listener): ""}, clock).held == {inode(listener)}


def test_a_process_with_very_many_descriptors_is_not_read(me: Process) -> None:
    clock, memory = Clock(), listeners.Memory()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))
    made = [os.open(os.devnull, os.O_RDONLY)]
    try:
        made += [os.dup(made[0]) for _ in range(3000)]
        memory.sockets(me, {}, clock)
        made += [os.dup(made[0]) for _ in range(1200)]
        clock.time += 0.02
        with pytest.raises(Unreadable, match="more than 4096"):
            memory.sockets(me, {}, clock)
        with pytest.raises(Unreadable, match="more than 4096"):
            heartbeats(os.getpid())
    finally:
        for number in made:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    clock.time += 1.1
    memory.sockets(me, {}, clock)


def test_the_tables_are_read_once_a_tick(me: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, memory, read = Clock(), listeners.Memory(), []
    monkeypatch.setattr(listeners, "listening", lambda pid: read.append(pid) or {})
    for _ in range(3):
        memory.listening(me, clock)
    assert len(read) == 1
    clock.time += 0.02
    memory.listening(me, clock)
    assert len(read) == 2


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_other_side_of_a_connection(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    other_side(socket.create_server((host, 0), family=family), host)


def test_the_other_side_of_a_connection_to_both_families() -> None:
    both = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    other_side(both, "127.0.0.1")


def test_a_connection_that_waits_for_data() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
        with socket.create_connection(listener.getsockname()) as client:
            assert listeners.server_side(client) is None


def other_side(listener: socket.socket, host: str) -> None:
    address = host, listener.getsockname()[1]
    with listener, socket.create_connection(address) as client:
        assert listeners.server_side(client) == 0
        with listener.accept()[0] as server:
            assert listeners.server_side(client) == inode(server)
