"""Who listens and who accepts, also where a user writes forged names into the tables."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from supervisor_hotreload.system import descriptors, sock_diag, sockets
from supervisor_hotreload.system.budget import Budgets
from supervisor_hotreload.system.descriptors import Descriptors
from supervisor_hotreload.system.linux import State, state_of
from supervisor_hotreload.system.process import Process, Unreadable, lookup
from supervisor_hotreload.system.sockets import Sockets, SocketView
from tests.harness.timing import calculation

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


def refuse(*_: object) -> Iterator[bytes]:
    raise sock_diag.Refused(1)


@pytest.fixture(params=["sock_diag", "tables"])
def source(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the kernel is asked, and where it is not."""
    if request.param == "tables":
        monkeypatch.setattr(sock_diag, "_answers", refuse)
        monkeypatch.setattr(sockets, "_answers_about_tcp", lambda: False)
        monkeypatch.setattr(sockets, "CONNECTIONS", 1_000_000)  # other tests leave very many
    return str(request.param)


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize("rest", ["b", "0: 1 2 3", "x: y z 00010000 1 2 9", "\r", "", "\xff"])
def test_a_name_with_a_line_feed_in_it_tears_nothing(rest: str) -> None:
    with bound(f"\0a{os.getpid()}\n{rest}"), bound(f"\0good{os.getpid()}", True) as good:
        found = sockets.listening(os.getpid())
        assert found[inode(good)] == f"@good{os.getpid()}"
        assert 9 not in found


def test_a_torn_name_is_not_believed(source: str) -> None:
    with bound(f"\0torn{os.getpid()}\nb", True) as torn:
        true = f"@torn{os.getpid()}\nb" if source == "sock_diag" else ""
        assert sockets.listening(os.getpid())[inode(torn)] == true


@pytest.mark.usefixtures("source")
def test_a_forged_line_makes_no_listener_of_a_socket_that_is_none() -> None:
    with bound(f"\0quiet{os.getpid()}") as quiet:
        line = FORGED.format(inode=inode(quiet), path="x")
        with bound(f"\0a\n{line}"):
            assert inode(quiet) not in sockets.listening(os.getpid())


def test_a_forged_line_gives_no_other_name_to_a_listener(source: str) -> None:
    with bound(f"\0loud{os.getpid()}", True) as loud:
        line = FORGED.format(inode=inode(loud), path="/run/stats")
        with bound(f"\0a\n{line}"):
            true = f"@loud{os.getpid()}" if source == "sock_diag" else ""
            assert sockets.listening(os.getpid())[inode(loud)] == true


class Clock:
    """A world's clock that the test moves."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def view_of(clock: Clock) -> SocketView:
    return SocketView(Descriptors(clock), clock)


@pytest.fixture
def me() -> Process:
    found = lookup(os.getpid())
    assert found is not None
    return found


@pytest.fixture(params=[0, 300], ids=["few", "many"])
def crowd(request: pytest.FixtureRequest) -> Iterator[None]:
    """Open so many more descriptors."""
    made = [os.open(os.devnull, os.O_RDONLY) for _ in range(request.param)]
    yield
    for number in made:
        os.close(number)


@pytest.mark.usefixtures("crowd")
def test_what_is_remembered_is_looked_at_again(me: Process) -> None:
    clock = Clock()
    view = view_of(clock)
    view.sockets(me, {})
    clock.time += 0.02
    with bound(f"\0m{os.getpid()}", True) as listener, select.epoll() as poll:
        number = inode(listener)
        assert view.listening(me)[number] == f"@m{os.getpid()}"
        known = {number: ""}
        assert view.sockets(me, known) == Sockets(frozenset([number]), frozenset())
        poll.register(listener)
        clock.time += 0.02
        assert view.sockets(me, known).accepted == {number}
        poll.unregister(listener)
        assert view.sockets(me, known).accepted == set()
    clock.time += 0.02
    assert view.sockets(me, known).held == set()


@pytest.mark.usefixtures("crowd")
def test_a_number_that_is_used_again_is_found_in_a_second(me: Process) -> None:
    clock = Clock()
    view = view_of(clock)
    with open(os.devnull) as before:
        number = before.fileno()
        view.sockets(me, {})
    with bound(f"\0again{os.getpid()}", True) as listener:
        assert listener.fileno() == number
        clock.time += 1.1
        assert view.sockets(me, {inode(listener): ""}).held == {inode(listener)}


@pytest.fixture
def thousands() -> Iterator[list[int]]:
    """Open 1,800 more descriptors; those that the test adds are closed as well."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))
    made = [os.open(os.devnull, os.O_RDONLY)]
    made += [os.dup(made[0]) for _ in range(1800)]
    yield made
    for number in made:
        os.close(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_process_with_very_many_descriptors_is_not_read(
    me: Process, thousands: list[int]
) -> None:
    clock = Clock()
    view = view_of(clock)
    view.sockets(me, {})
    more = [os.dup(thousands[0]) for _ in range(2400)]
    thousands += more
    clock.time += 0.02
    view.sockets(me, {})  # what was seen a moment ago counts
    clock.time += 1.0
    with pytest.raises(Unreadable, match="more than 4096"):
        view.sockets(me, {})
    with pytest.raises(Unreadable, match="more than 4096"):
        Descriptors(clock).heartbeats(me)
    for number in more:
        os.close(number)
    del thousands[-len(more) :]
    clock.time += 1.1
    view.sockets(me, {})


@contextlib.contextmanager
def children(count: int) -> Iterator[list[Process]]:
    """Fork processes that have our descriptors."""
    pids = []
    try:
        for _ in range(count):
            pids.append(os.fork())
            if pids[-1] == 0:
                signal.pause()
                os._exit(0)
        yield [found for pid in pids if (found := lookup(pid)) is not None]
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@pytest.mark.usefixtures("thousands")
def test_one_look_costs_so_much_and_no_more() -> None:
    """A hundred children with 1,800 descriptors each took seconds of supervisord's loop."""
    with children(100) as crowd, bound(f"\0c{os.getpid()}", True) as listener:
        assert len(crowd) == 100
        clock = Clock()
        view = view_of(clock)
        complaints, took = [], []
        for _ in range(3):
            clock.time += 0.02
            began = time.thread_time()
            for child in crowd:
                try:
                    view.sockets(child, {inode(listener): ""})
                except Unreadable as error:
                    complaints.append(str(error))
            took.append(time.thread_time() - began)
    assert min(took) < 15 * calculation(), took  # 50 ms on a quiet machine
    assert len(complaints) >= 3 * 90
    assert all(re.match(r"/proc/\d+/fd: |the \d+ desc", text) for text in complaints), complaints


def test_what_was_spent_comes_back_and_is_one_users() -> None:
    clock = Clock()
    budgets = Budgets(clock)
    budgets.of(1).spend(4096, "all")
    with pytest.raises(Unreadable, match=r"^more: not looked at"):
        budgets.of(1).spend(1, "more")
    budgets.of(2).spend(4096, "another user's")
    clock.time += 0.02
    budgets.of(1).spend(900, "again")
    for user in range(10_000):
        budgets.of(user)
    assert len(budgets._of) <= 257
    with pytest.raises(Unreadable):
        budgets.of(2).spend(4096, "not forgotten")


BLIND = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace", sys.executable, "-c"]
"""Root in a container of Docker's: it lacks CAP_SYS_PTRACE."""

LOOK = """
import os, select, socket, sys, tempfile, time
from supervisor_hotreload.system.process import lookup
from supervisor_hotreload.system.world import World
unix = socket.socket(socket.AF_UNIX)
unix.bind(f"\\0p{os.getpid()}")
unix.listen()
reader, writer = os.pipe()
pid = os.fork()
if pid == 0:
    DROP
    poll = select.epoll()
    poll.register(unix)
    beat, path = tempfile.mkstemp(prefix="wgunicorn-")
    os.unlink(path)
    os.write(writer, b"x")
    time.sleep(60)
os.read(reader, 1)
world, child = World(), lookup(pid)
try:
    found = world.sockets(child, world.listening(child))
    print(len(found.held), len(found.accepted), len(world.heartbeats(child)))
except Exception as error:
    print(error)
finally:
    os.kill(pid, 9)
"""

AS_NOBODY = "os.setgroups([]); os.setgid(65534); os.setuid(65534)"

DUMPABLE = "; import ctypes; ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)"
"""What the exec of another file does: the process may be looked at by its user."""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize(
    ("before", "drop", "seen"),
    [
        (BLIND, AS_NOBODY + DUMPABLE, r"1 1 1"),
        (BLIND, AS_NOBODY, r"/proc/\d+/fd: permission denied"),
        (BLIND[-2:], AS_NOBODY, r"1 1 1"),
        (BLIND[-2:], "pass", r"1 1 1"),
    ],
    ids=["no ptrace", "not dumpable", "root", "same user"],
)
def test_a_process_is_looked_at_with_its_own_rights(
    before: list[str], drop: str, seen: str
) -> None:
    line = [*before, LOOK.replace("DROP", drop)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=20, check=True)
    assert re.fullmatch(seen, done.stdout.strip()), done


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_another_network_namespace() -> None:
    """The tables are read for a program in its own network."""
    code = (
        "import os, socket\n"
        "s = socket.create_server(('', 8000)); u = socket.socket(socket.AF_UNIX)\n"
        "u.bind('\\0there'); u.listen()\n"
        "print(os.fstat(s.fileno()).st_ino, os.fstat(u.fileno()).st_ino, flush=True); input()"
    )
    command = ["unshare", "--net", sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as peer:
        assert peer.stdout is not None
        tcp, unix = map(int, peer.stdout.readline().split())
        found = sockets.listening(peer.pid)
        peer.communicate(b"\n")
    assert found == {tcp: "00000000:1F40", unix: "@there"}


@pytest.mark.usefixtures("source")
def test_too_many_listeners_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sock_diag, "ENTRIES", 3)
    monkeypatch.setattr(sockets, "LINES", 3)
    held = [bound(f"\0many{os.getpid()}.{n}", True) for n in range(5)]
    with pytest.raises(Unreadable, match="more than 3"):
        sockets.listening(os.getpid())
    for unix in held:
        unix.close()


def test_which_file_a_socket_is_bound_to(tmp_path: pathlib.Path) -> None:
    path, other = str(tmp_path / "s"), str(tmp_path / "other")
    with bound(path, True) as unix, bound(other, True):
        assert sockets.is_bound_to(inode(unix), path)
        assert not sockets.is_bound_to(inode(unix), other)
        assert not sockets.is_bound_to(1, path)
        os.rename(other, path)
        assert not sockets.is_bound_to(inode(unix), path)


def test_the_tables_are_read_once_a_tick(me: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, read = Clock(), []
    view = view_of(clock)
    monkeypatch.setattr(sockets, "listening", lambda pid: read.append(pid) or {})
    for _ in range(3):
        view.listening(me)
    assert len(read) == 1
    clock.time += 0.02
    view.listening(me)
    assert len(read) == 2


def test_a_look_that_takes_long_is_made_more_seldom(
    me: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100,000 unix sockets of any user make the kernel's answer take 50 ms."""
    looks: list[int] = []

    def slow(pid: int) -> dict[int, str]:
        looks.append(pid)
        began = time.thread_time()
        while time.thread_time() - began < 0.05:
            pass
        return {1: "@one"}

    monkeypatch.setattr(sockets, "listening", slow)
    clock = Clock()
    view = view_of(clock)
    for _ in range(20):
        assert view.listening(me) == {1: "@one"}
        clock.time += 0.025
    assert len(looks) == 1
    clock.time += 60.0
    assert view.listening(me) == {1: "@one"}
    assert len(looks) == 2


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_other_side_of_a_connection(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    other_side(socket.create_server((host, 0), family=family), host)


@pytest.mark.usefixtures("source")
def test_the_other_side_of_a_connection_to_both_families() -> None:
    both = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    other_side(both, "127.0.0.1")


@pytest.mark.usefixtures("source")
def test_a_connection_that_waits_for_data() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
        with socket.create_connection(listener.getsockname()) as client:
            assert sockets.server_side(client) is None


def other_side(listener: socket.socket, host: str) -> None:
    address = host, listener.getsockname()[1]
    with listener, socket.create_connection(address) as client:
        assert sockets.server_side(client) == 0
        with listener.accept()[0] as server:
            assert sockets.server_side(client) == inode(server)


def test_the_state_of_a_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    os.utime(path, ns=(1, 1_234_567_891_234))
    path.chmod(0o641)
    seen = path.stat()
    for link in (str(path), f"/proc/self/fd/{os.open(path, os.O_RDONLY)}"):
        assert state_of(link) == State(
            seen.st_mode, seen.st_dev, seen.st_ino, seen.st_mtime_ns, seen.st_ctime_ns
        )
    os.close(int(link.rpartition("/")[2]))
    with pytest.raises(FileNotFoundError):
        state_of(str(tmp_path / "other"))


def test_what_is_hidden_for_a_moment_is_looked_at_again(
    me: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork of a supervisord that has changed its user is hidden until it has exec'd."""
    hidden = [True]
    real = descriptors.looking

    def looking(ids: Any, look: Any) -> Any:
        if hidden:
            raise PermissionError
        return real(ids, look)

    monkeypatch.setattr(descriptors, "looking", looking)
    seen = Descriptors(Clock())
    with pytest.raises(Unreadable, match="permission denied"):
        seen.links(me)
    hidden.clear()
    assert seen.links(me)
