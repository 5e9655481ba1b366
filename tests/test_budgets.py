"""However many processes others start, they cost supervisord next to nothing."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator

import psutil
import pytest

from supervisor_hotreload.plugin import option_hooks
from supervisor_hotreload.plugin.generations import Generations
from supervisor_hotreload.plugin.signals import end_masters, signal_adopted
from supervisor_hotreload.plugin.unwanted import Unwanted
from supervisor_hotreload.servers.lineage import Lineage
from supervisor_hotreload.system import peek, process, world
from supervisor_hotreload.system.credentials import Ids, ids_of
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World
from tests.harness.house import House
from tests.harness.timing import calculation
from tests.harness.waiting import wait_until

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="starts another user's processes")


@contextlib.contextmanager
def sleepers(count: int, user: int) -> Iterator[list[int]]:
    made = [subprocess.Popen(["sleep", "1000"], user=user, group=user) for _ in range(count)]
    try:
        yield [child.pid for child in made]
    finally:
        for child in made:
            child.kill()
            child.wait()


def test_reaped_orphans_take_one_line_a_minute_and_a_single_one_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = types.SimpleNamespace(pidhistory={}, waitpid=iter([(5, 0), (0, 0)] * 2).__next__)
    now, logged = [100.0], []
    log = types.SimpleNamespace(info=logged.append)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    option_hooks.hook_waitpid(options, lambda: True, log)  # type: ignore[arg-type]
    options.waitpid()
    assert logged == []
    now[0] += option_hooks.ORPHAN_LINE_SECONDS
    options.waitpid()
    assert logged == ["hotreload: reaped orphaned processes of programs: 2"]


@needs_root
def test_the_orphans_of_other_users_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    real = process.lookup
    monkeypatch.setattr(world, "lookup", lambda pid: looked.append(pid) or real(pid))
    here = World()
    here.subreaper = True
    with sleepers(20, 65534) as pids:
        found = here.orphanage({1}, ours=True)
        assert not {child.pid for child in found} & {*pids}
        assert not {*looked} & {*pids}
        found = here.orphanage({65534}, ours=True)
        assert {child.pid for child in found} >= {*pids}
        monkeypatch.setattr(world, "ORPHANS", 10)
        assert here.orphanage({65534}, ours=True) == []


def test_the_children_of_few_threads_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = process.read_whole
    monkeypatch.setattr(
        process, "read_whole", lambda path, *more: read.append(path) or real(path, *more)
    )
    end = threading.Event()
    threads = [threading.Thread(target=end.wait) for _ in range(100)]
    for thread in threads:
        thread.start()
    try:
        with sleepers(1, os.getuid()) as pids:
            assert pids[0] in [child.pid for child in process.children_of(os.getpid())]
    finally:
        end.set()
        for thread in threads:
            thread.join()
    tasks = {path for path in read if path.endswith("/children")}
    assert len(tasks) == process.THREADS


def test_a_process_with_very_many_children_is_not_read() -> None:
    with sleepers(5, os.getuid()), pytest.raises(Unreadable, match="more than 3 children"):
        process.children_of(os.getpid(), 3)


def test_a_process_with_very_many_children_gets_its_signals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stop and SIGKILL reach it although its children are not looked at."""

    def refuse(pid: int) -> list[Process]:
        raise Unreadable(f"pid {pid} has more than 1024 children")

    monkeypatch.setattr(world, "children_of", refuse)
    here = World()
    with sleepers(3, os.getuid()) as pids:
        one, other, previous = map(process_of, pids)
        end_masters(here, [one], signal.SIGKILL, 0)
        alone = Lineage(other, other.start)
        signal_adopted(here, alone, -other.pid, signal.SIGTERM, os.kill)
        generations = Generations(here, lambda pid: False)
        generations.note_spawn(other.pid)
        generations.note_master(other, None)
        generations.add_previous([previous])
        assert generations.others(signal.SIGKILL) == [previous]
        wait_until(lambda: not here.alive(one) and not here.alive(other))


def test_late_successors_that_cannot_be_looked_for_hold_nothing_up() -> None:
    """supervisord's loop asks at every turn: an exception would be logged each time, for ever."""

    class Later(World):
        def now(self) -> float:
            return super().now() + later

    def too_many() -> list[Process]:
        raise Unreadable("pid 1 has more than 1024 children")

    later = 0.0
    sent: list[int] = []
    unwanted = Unwanted(Later(), lambda process, number: sent.append(number))
    with sleepers(1, os.getuid()) as pids:
        unwanted.refuse_successor(())
        unwanted.end([process_of(pids[0])])
        assert unwanted.tend(too_many) == []
        later = 36.0
        assert unwanted.tend(too_many) == []
        assert sent == [signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL]
        later = 121.0
        assert unwanted.tend(too_many) == []
        assert unwanted.tend(lambda: [process_of(pids[0])]) == []


@needs_root
def test_an_environment_that_cannot_be_read_delays_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The processes of one user do not delay those of another."""
    environment = process.environment_of
    stuck: list[int] = []

    def read(pid: int) -> dict[str, str]:
        while pid in stuck:
            signal_never_comes()
        return environment(pid)

    def signal_never_comes() -> None:
        threading.Event().wait(1000)

    monkeypatch.setattr(peek, "environment_of", read)
    with sleepers(1, 65534) as theirs, sleepers(1, 1) as others:
        stuck += theirs
        asked = {process_of(pid): ids(pid) for pid in (*theirs, *others)}
        found = peek.environments(asked, ["PATH"])
        assert found == {process_of(others[0]): {"PATH": os.environ["PATH"]}}


def process_of(pid: int) -> Process:
    found = process.lookup(pid)
    assert found is not None
    return found


def ids(pid: int) -> Ids:
    found = ids_of(pid)
    assert found is not None
    return found


DAEMONS = """\
import os, time
for _ in range(300):
    pid = os.fork()
    if pid == 0:
        if os.fork() == 0:
            os._exit(7)
        os._exit(0)
    os.waitpid(pid, 0)
open({done!r}, "w").close()
time.sleep(1000)
"""


def test_orphans_do_not_fill_the_log(house: House) -> None:
    """supervisord is a subreaper and becomes their parent. It logs how many they are."""
    done, code = house.root / "done", house.root / "daemons.py"
    code.write_text(DAEMONS.format(done=str(done)))
    house.configure(more=f"[program:daemons]\ncommand = {sys.executable} {code}\n")
    house.start()
    wait_until(done.exists)
    wait_until(lambda: house.nudge() and not house.zombies())
    assert house.log().count("reaped unknown pid") == 0
    line = "orphaned processes of programs"
    wait_until(lambda: house.nudge() and line in house.log(), what=house.log)
    assert house.ctl("stop", "daemons").stdout == "daemons: stopped\n"
    assert psutil.pid_exists(house.pid)
    assert pathlib.Path(done).exists()


LEAVES = """\
import os, signal, socket, time
sockets = [socket.create_server(("127.0.0.1", 0), backlog=1) for _ in range({sockets})]
for one in sockets:
    one.set_inheritable(True)
master = os.getpid()
while not os.path.exists({recorded!r}):
    time.sleep(0.05)
for number in range({workers}):
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while os.getppid() == master:
            time.sleep(0.2)
        time.sleep(0.5 + number * 0.005)
        os._exit(0)
open({done!r}, "w").close()
time.sleep(1000)
"""


def test_workers_that_end_one_after_the_other_cost_little(house: House) -> None:
    """They hold many sockets. supervisord does not look at all of them whenever one ends, and the
    record of all programs stays short."""
    done, code, workers = house.root / "done", house.root / "leaves.py", 500
    recorded = house.root / "recorded"
    paths = {"done": str(done), "recorded": str(recorded)}
    code.write_text(LEAVES.format(sockets=200, workers=workers, **paths))
    house.configure(command=f"{sys.executable} {code}", program="autorestart = false")
    house.start(running="")
    house.wait_for("RUNNING")
    master = house.info()["pid"]
    house.wait_until_recorded(master)
    recorded.touch()
    wait_until(done.exists)
    supervisord, record = psutil.Process(house.pid), house.root / "supervisord.hotreload.record"
    before, longest = sum(supervisord.cpu_times()[:2]), 0
    os.kill(master, signal.SIGKILL)
    while house.info()["statename"] == "RUNNING":
        longest = max(longest, record.stat().st_size)
        time.sleep(0.1)
    assert house.log().count("still run and may hold its port") == 1
    took = sum(supervisord.cpu_times()[:2]) - before
    assert took < 300 * calculation(), took  # 1 s on a quiet machine
    assert longest < 32_768


CROWD = """\
import os, time
for _ in range(1100):
    if os.fork() == 0:
        time.sleep(1000)
open({done!r}, "w").close()
time.sleep(1000)
"""


def test_a_program_with_very_many_children_is_refused_alone(house: House) -> None:
    """No traceback is logged, and a reload of all programs leaves it out."""
    done, code = house.root / "done", house.root / "crowd.py"
    code.write_text(CROWD.format(done=str(done)))
    crowd = f"command = {sys.executable} {code}\nstartsecs = 0\nkillasgroup = true\n"
    house.configure(more=f"[program:crowd]\n{crowd}")
    house.start()
    wait_until(done.exists)
    house.turn(8)
    refused = house.ctl("hotreload", "crowd")
    assert "has more than 1024 children" in refused.stdout
    reloaded = house.ctl("hotreload", "all")
    assert reloaded.returncode == 0, reloaded.stdout
    assert "crowd" not in reloaded.stdout
    assert "Traceback" not in house.log()
