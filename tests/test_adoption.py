"""After a reload the new master is supervisord's own, whatever is done to it."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import psutil
import pytest

from tests.harness.house import House
from tests.harness.load import Load, get, wait_for_answer
from tests.harness.waiting import free_port, wait_until


def reloaded(house: House) -> int:
    """Reload once and return the new pid."""
    house.reload()
    pid: int = house.info()["pid"]
    return pid


def test_supervisord_is_the_parent(house: House) -> None:
    house.configure()
    house.start()
    first = house.info()
    pid = reloaded(house)
    assert pid != first["pid"]
    assert psutil.Process(pid).ppid() == house.pid
    info = house.info()
    assert info["start"] == first["start"]
    assert f"pid {pid}, uptime 0:00:" in info["description"]
    assert house.ctl("pid", "myapp").stdout.strip() == str(pid)
    assert f"RUNNING   pid {pid}, uptime" in house.ctl("status").stdout


def test_stop_start_restart(house: House) -> None:
    house.configure()
    house.start()
    pid = reloaded(house)
    assert house.ctl("stop", "myapp").stdout == "myapp: stopped\n"
    assert not psutil.pid_exists(pid)
    assert house.family() == []
    assert house.ctl("start", "myapp").returncode == 0
    house.wait_until_complete()
    reloaded(house)
    assert house.ctl("restart", "myapp").returncode == 0
    house.wait_until_complete()
    assert wait_for_answer(house.port).startswith(b"v1 ")
    assert reloaded(house) == house.masters()[0].pid


def test_signal_reaches_the_new_master(house: House) -> None:
    house.configure("--workers 1")
    house.start()
    reloaded(house)
    assert house.ctl("signal", "TTIN", "myapp").returncode == 0
    wait_until(lambda: len(house.family()) == 3, what="a second worker")


def test_its_exit_status_decides(house: House) -> None:
    house.configure(program="autorestart = unexpected\nexitcodes = 0")
    house.start()
    pid = reloaded(house)
    os.kill(pid, signal.SIGTERM)
    info = house.wait_for("EXITED")
    assert info["exitstatus"] == 0
    house.ctl("start", "myapp")
    house.wait_until_complete()
    pid = reloaded(house)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: house.info()["pid"] not in (0, pid))
    house.wait_until_complete()


@pytest.mark.parametrize("stopped_by", ["stop", "killasgroup"])
def test_process_groups(house: House, stopped_by: str) -> None:
    """A re-exec'd master keeps the group of the first one: -pid would be no group."""
    killed = stopped_by == "killasgroup"
    house.configure(
        program="stopsignal = WINCH\nstopwaitsecs = 1\nkillasgroup = true"
        if killed
        else "stopasgroup = true"
    )
    house.start()
    house.ctl("stop", "myapp")
    house.ctl("start", "myapp")
    house.wait_until_complete()
    reloaded(house)
    reloaded(house)
    assert house.ctl("stop", "myapp").stdout == "myapp: stopped\n"
    kills = [line for line in house.log().splitlines() if "with SIGKILL" in line]
    assert len(kills) == (2 if killed else 0), kills  # one a stop, as without a reload
    assert house.family() == []
    assert house.ctl("start", "myapp").returncode == 0
    assert wait_for_answer(house.port).startswith(b"v1 ")


def test_logs(house: House) -> None:
    house.configure("--workers 1 --access-logfile -")
    house.start()
    tail = subprocess.Popen(
        house.ctl_command("tail", "-f", "myapp"), env=house.environment, stdout=subprocess.PIPE
    )
    try:
        reloaded(house)
        get(house.port, "/after-the-reload")
        assert tail.stdout is not None
        deadline = time.monotonic() + 60
        while b"/after-the-reload" not in tail.stdout.readline():
            assert time.monotonic() < deadline
    finally:
        tail.kill()
        tail.communicate()
    assert "/after-the-reload" in house.app_log()
    assert "/after-the-reload" in house.ctl("tail", "myapp").stdout


def test_other_listeners_see_no_exit_and_no_start(house: House) -> None:
    seen = house.root / "events"
    listener = (
        f"[eventlistener:recorder]\ncommand = {house.python} -m tests.events {seen}\n"
        f"directory = {os.getcwd()}\nevents = PROCESS_STATE,SUPERVISOR_STATE_CHANGE\n"
    )
    house.configure(more=listener)
    house.start()
    running = "PROCESS_STATE_RUNNING processname:myapp"
    wait_until(lambda: seen.exists() and running in seen.read_text())
    before = seen.read_text()
    for _ in range(2):
        reloaded(house)
    house.ctl("stop", "myapp")
    stopped = "PROCESS_STATE_STOPPED processname:myapp"
    wait_until(lambda: stopped in seen.read_text())
    after = seen.read_text()[len(before) :].splitlines()
    assert [line.split()[0] for line in after if "processname:myapp" in line] == [
        "PROCESS_STATE_STOPPING",
        "PROCESS_STATE_STOPPED",
    ]


def test_update_and_reread(house: House) -> None:
    house.configure()
    house.start()
    pid = reloaded(house)
    assert house.ctl("reread").stdout == "No config updates to processes\n"
    assert house.ctl("update").stdout == ""
    assert house.info()["pid"] == pid
    house.configure("--workers 1")
    assert "myapp: updated process group" in house.ctl("update").stdout
    house.wait_until_complete()
    wait_until(lambda: len(house.masters()) == 1)
    assert reloaded(house) == house.masters()[0].pid


def test_supervisord_reloads_itself(house: House) -> None:
    house.configure()
    house.start()
    reloaded(house)
    initialized = "RPC interface 'hotreload' initialized"
    for times in (2, 3):
        descriptors = len(os.listdir(f"/proc/{house.pid}/fd"))
        house.ctl("reload")
        wait_until(lambda times=times: house.log().count(initialized) == times)
        house.wait_until_complete()
        house.release("v2")
        with Load(house.port, slow=1) as load:
            load.wait_in_flight()
            reloaded(house)
        assert load.dropped == []
        assert len(house.masters()) == 1
        wait_until(lambda most=descriptors: len(os.listdir(f"/proc/{house.pid}/fd")) <= most)


def test_two_http_servers_share_one_desk(house: House) -> None:
    """supervisord makes the interface once for every HTTP server it has."""
    house.configure(more=f"[inet_http_server]\nport = 127.0.0.1:{free_port()}\n")
    house.start()
    assert house.log().count("RPC interface 'hotreload' initialized") == 2
    reloaded(house)
    assert house.log().count("hotreload: myapp: adopted") == 1


def test_descendants_of_others_are_reaped(house: House) -> None:
    """As a subreaper supervisord is the parent of every orphan under it: it reaps them."""
    house.configure(more="[program:orphan]\ncommand = /bin/sh -c 'sleep 0.5 & exec sleep 1000'\n")
    house.start()
    house.wait_for("RUNNING", "orphan")
    house.ctl("stop", "orphan")
    wait_until(lambda: house.zombies() == [])
