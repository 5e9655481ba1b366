"""Operators in the middle of a reload: whatever they do, nothing is left and nothing hangs."""

from __future__ import annotations

import itertools
import os
import signal

import psutil
import pytest

from tests.harness.choosing import mostly_slow
from tests.harness.house import House
from tests.harness.load import Load, get, wait_for_answer
from tests.harness.waiting import wait_until

PHASES = ["booting", "baking", "draining"]

OPERATIONS = {
    "stop": "draining",
    "restart": "booting",
    "remove": "baking",
    "update": "draining",
    "shutdown": "booting",
    "reload": "baking",
}
"""What an operator does, and the phase in which ``make test`` tries it."""


def in_phase(house: House, phase: str, program: str = "") -> None:
    house.configure(
        f"--workers 2 --pid {house.root}/app.pid", settings="bake = 30", program=program
    )
    house.start()
    wait_for_answer(house.port)
    house.release("v2", boot=2 if phase == "booting" else 0)
    if phase == "draining":
        house.settings("bake = 0")
    house.rpc().hotreload.reloadProcess("myapp", False)
    house.wait_for_phase(phase)


@pytest.mark.parametrize(
    ("what", "phase"), mostly_slow(itertools.product(OPERATIONS, PHASES), OPERATIONS.items())
)
def test_an_operator_in_the_middle(house: House, what: str, phase: str) -> None:
    slow = phase == "draining"
    with_slow = Load(house.port, fast=0, slow=int(slow), slow_path="/slow6")
    house.configure(f"--workers 2 --pid {house.root}/app.pid", settings="bake = 30")
    house.start()
    house.release("v2", boot=2 if phase == "booting" else 0)
    with with_slow as load:
        if slow:
            house.settings("bake = 0")
            load.wait_in_flight()
        house.rpc().hotreload.reloadProcess("myapp", False)
        house.wait_for_phase(phase)
        before = {process.pid for process in house.application()}
        operate(house, what)
        gone = wait_until(lambda: not before & {p.pid for p in house.application()}, 60)
        assert gone
    assert "Traceback" not in house.log()
    if what == "shutdown":
        house.wait_for_exit()
        assert house.kill_leftovers() == []
        return
    if what in ("stop", "remove"):
        assert house.application() == []
        assert not (house.root / "app.pid").exists()
        assert not (house.root / "app.pid.2").exists()
        if what == "remove":
            house.ctl("add", "myapp")
        else:
            assert house.ctl("start", "myapp").returncode == 0
    house.wait_for("RUNNING")
    assert wait_for_answer(house.port).startswith(b"v2 ")
    assert "Address already in use" not in house.app_log()
    assert house.reload_info()["outcome"] in ("failed", "")


def operate(house: House, what: str) -> None:
    if what in ("stop", "restart"):
        done = house.ctl(what, "myapp")
        assert done.returncode == 0, done.stdout
        if what == "stop":
            assert house.application() == [], "STOPPED is reported only when that is true"
    elif what == "remove":
        assert house.ctl("stop", "myapp").returncode == 0
        assert house.ctl("remove", "myapp").returncode == 0
    elif what == "update":
        house.configure("--workers 1")
        assert "updated process group" in house.ctl("update").stdout
    else:
        house.ctl(what)


def test_the_new_master_dies_while_the_old_one_drains(house: House) -> None:
    """No start is tried against a port that is held: startretries are not burned."""
    house.configure("--workers 2", program="startretries = 1")
    house.start()
    house.release("v2")
    with Load(house.port, fast=0, slow=2, slow_path="/slow3") as load:
        load.wait_in_flight()
        house.rpc().hotreload.reloadProcess("myapp", False)
        new = house.wait_for_phase("draining")["new_pid"]
        workers = psutil.Process(new).children()
        os.kill(new, signal.SIGKILL)
        for worker in workers:
            worker.kill()
        info = house.wait_for_outcome()
        assert info["outcome"] == "failed"
        wait_until(lambda: house.info()["pid"] not in (new, 0), 60, "it comes back")
        house.wait_for("RUNNING", timeout=30)
    assert "FATAL" not in house.log()
    assert "Address already in use" not in house.app_log()
    assert wait_for_answer(house.port).startswith(b"v2 ")
    assert house.info()["pid"] not in (new, 0)


def test_what_only_finishes_is_not_said_to_serve(house: House) -> None:
    house.configure("--workers 2")
    house.start()
    with Load(house.port, fast=0, slow=2, slow_path="/slow3") as load:
        load.wait_in_flight()
        client = house.client("hotreload", "myapp")
        new = house.wait_for_phase("draining")["new_pid"]
        os.kill(new, signal.SIGKILL)
        printed = client.communicate(timeout=60)[0]
    assert client.returncode != 0
    assert "nothing serves: pid" in printed.splitlines()[-1], printed
    assert "finishes its requests" in printed.splitlines()[-1], printed


def test_a_stubborn_successor_is_killed_after_stopwaitsecs(house: House) -> None:
    in_phase(house, "baking", program="stopwaitsecs = 2")
    new = house.reload_info()["new_pid"]
    os.kill(new, signal.SIGSTOP)
    assert house.ctl("stop", "myapp").stdout == "myapp: stopped\n"
    wait_until(lambda: house.application() == [])


def test_the_old_master_dies_while_the_new_one_boots(house: House) -> None:
    house.configure("--workers 2")
    house.start()
    old = house.info()["pid"]
    house.release("v2", boot=2)
    house.rpc().hotreload.reloadProcess("myapp", False)
    new = house.wait_for_phase("booting")["new_pid"]
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: house.info()["pid"] == new)
    info = house.wait_for_outcome()
    assert info["outcome"] == "succeeded"
    assert get(house.port).startswith(b"v2 ")
    assert house.log().count("spawned: 'myapp'") == 1


def test_a_client_that_goes_away_takes_nothing_along(house: House) -> None:
    house.configure()
    house.start()
    house.release("v2", boot=1)
    client = house.client("hotreload", "myapp")
    house.wait_for_phase("booting")
    client.kill()
    client.wait()
    assert house.wait_for_outcome()["outcome"] == "succeeded"
    house.reload()


@pytest.mark.parametrize("what", ["stop", "shutdown"])
def test_a_program_that_is_down_while_its_old_generation_drains(house: House, what: str) -> None:
    """Its exit is not reported before that is gone, and a stop reaches it."""
    house.configure("--workers 2", program="autorestart = true\nstopwaitsecs = 8")
    house.start()
    house.release("v2")
    with Load(house.port, fast=0, slow=2, slow_path="/slow4") as load:
        load.wait_in_flight()
        house.rpc().hotreload.reloadProcess("myapp", False)
        new = house.wait_for_phase("draining")["new_pid"]
        os.kill(new, signal.SIGKILL)
        wait_until(lambda: "reports the exit" in house.log())
        done = house.ctl(what, *(["myapp"] if what == "stop" else []))
        assert done.returncode == 0, done.stdout
        if what == "shutdown":
            house.wait_for_exit()
        assert house.application() == []
    if what == "stop":
        assert house.info()["statename"] == "STOPPED"
    assert house.log().count("spawned: 'myapp'") == 1


def test_no_descriptor_is_lost_over_restarts(house: House) -> None:
    house.configure("--workers 1", program="redirect_stderr = false")
    house.start()

    def round_trip() -> int:
        house.reload()
        assert house.ctl("restart", "myapp").returncode == 0
        house.wait_until_complete()
        return len(os.listdir(f"/proc/{house.pid}/fd"))

    first = round_trip()
    assert max(round_trip() for _ in range(3)) <= first
