"""Bake, check and cancel: until adoption there is a way back."""

from __future__ import annotations

import os
import signal

import psutil
import pytest

from supervisor_hotreload.core.model import Fault
from tests.harness.house import House
from tests.harness.load import Load, get
from tests.harness.refusals import assert_unchanged, fault_of
from tests.harness.sites import script
from tests.harness.waiting import wait_until


def baking(house: House, **settings: str) -> int:
    """Start a reload and return the successor's pid once it bakes."""
    house.configure("--workers 2 --timeout 3 --graceful-timeout 3", settings="bake = 20")
    house.start()
    house.release("v2")
    house.rpc().hotreload.reloadProcess("myapp", False)
    pid: int = house.wait_for_phase("baking")["new_pid"]
    return pid


def test_both_generations_serve_while_it_bakes(house: House) -> None:
    house.configure(settings="bake = 600")
    house.start()
    with Load(house.port) as load:
        load.wait_in_flight()
        house.release("v2")
        done = house.ctl("hotreload", "--bake", "2", "myapp")
        assert done.returncode == 0, done.stdout
    assert load.dropped == []
    baked = [at for at, release in load.timeline if release == "v2"]
    both = [release for at, release in load.timeline if baked[0] < at < baked[0] + 1.5]
    assert {"v1", "v2"} <= set(both)


@pytest.mark.parametrize("how", ["master", "worker", "all workers", "stopped worker"])
def test_what_fails_while_it_bakes_is_rolled_back(house: House, how: str) -> None:
    new = baking(house)
    before = house.info()
    workers = psutil.Process(new).children()
    assert len(workers) == 2
    if how == "master":
        os.kill(new, signal.SIGKILL)
    for worker in {"worker": workers[:1], "all workers": workers}.get(how, []):
        worker.kill()
    if how == "stopped worker":
        workers[0].suspend()
    info = house.wait_for_outcome()
    assert info["outcome"] in ("rolled back", "failed")
    assert info["fault"] in (Fault.BAKE_FAILED, Fault.SUCCESSOR_EXITED)
    named = workers[0].pid if how == "stopped worker" else new
    assert f"pid {named}" in info["reason"]
    wait_until(lambda: len(house.masters()) == 1)
    assert_unchanged(house, before)
    house.settings("bake = 0")
    house.reload()


def test_a_check_that_prints_without_end_is_ended(house: House) -> None:
    house.configure(settings="check = yes")
    house.start()
    done = house.ctl("hotreload", "myapp")
    assert done.returncode != 0
    assert "check (yes) has printed more than 16 MiB" in done.stdout


def test_cancel(house: House) -> None:
    baking(house)
    before = house.info()
    with Load(house.port) as load:
        load.wait_in_flight()
        done = house.ctl("hotreload", "--cancel", "myapp")
    pid, link = before["pid"], house.root / "current"
    assert done.stdout.startswith(
        f"myapp: rolled back; generation 1 (pid {pid}, 2 workers) serves; {link} points at "
    )
    assert done.returncode == 0
    assert load.dropped == []
    assert house.wait_for_outcome()["fault"] == Fault.CANCELLED
    assert_unchanged(house, before)
    done = house.ctl("hotreload", "--cancel", "myapp")
    assert done.returncode == 1
    assert "no reload is active" in done.stdout


def test_cancel_comes_too_late_after_adoption(house: House) -> None:
    house.configure("--workers 3")
    house.start()
    with Load(house.port, fast=1, slow=2, slow_path="/slow3") as load:
        load.wait_in_flight()
        house.release("v2")
        house.rpc().hotreload.reloadProcess("myapp", False)
        house.wait_for_phase("draining")
        done = house.ctl("hotreload", "--cancel", "myapp")
        assert done.returncode == 1
        assert "too late to cancel" in done.stdout
        assert house.wait_for_outcome()["outcome"] == "succeeded"
    assert load.dropped == []


def test_a_check_that_agrees(house: House) -> None:
    seen = house.root / "seen"
    body = f'echo "$HOTRELOAD_PROGRAM $HOTRELOAD_OLD_PID $HOTRELOAD_NEW_PID $PWD" > {seen}'
    house.configure(settings=f"check = {script(house, body)}")
    house.start()
    old = house.info()["pid"]
    house.release("v2")
    house.reload()
    name, was, new, folder = seen.read_text().split()
    assert (name, int(was), int(new)) == ("myapp", old, house.info()["pid"])
    assert folder.startswith(str(house.root))
    assert "reaped unknown pid" not in house.log()


def test_a_check_runs_as_the_program_does(house: House) -> None:
    seen = house.root / "seen"
    body = f'echo "$SUPERVISOR_ENABLED $SUPERVISOR_SERVER_URL $(umask)" > {seen}'
    house.configure(program="umask = 027", settings=f"check_before = {script(house, body)}")
    house.start()
    house.reload()
    assert seen.read_text().split() == ["1", f"unix://{house.root}/supervisor.sock", "0027"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("echo the page is blank; exit 3", "exited with status 3: the page is blank"),
        ("kill -9 $$", "was killed by signal 9"),
        ("echo waiting; sleep 1000", ": waiting"),
    ],
)
def test_a_check_that_does_not(house: House, body: str, message: str) -> None:
    house.configure(settings=f"check = {script(house, body)}\ncheck_timeout = 1")
    house.start()
    before = house.info()
    with Load(house.port) as load:
        load.wait_in_flight()
        house.release("v2")
        fault = fault_of(house)
    assert fault.faultCode == Fault.CHECK_FAILED
    assert message in fault.faultString
    assert load.dropped == []
    assert_unchanged(house, before)
    wait_until(lambda: len(house.family()) == 3, what="the check is ended")


def test_a_check_that_cannot_be_run(house: House) -> None:
    house.configure(settings="check = /no/such/command")
    house.start()
    before = house.info()
    fault = fault_of(house)
    assert fault.faultCode == Fault.CHECK_FAILED
    assert "/no/such/command" in fault.faultString
    assert_unchanged(house, before)
    assert get(house.port)


@pytest.mark.parametrize("what", ["cancel", "cancel all", "stop", "restart"])
def test_what_is_done_to_a_reload_that_is_queued(house: House, what: str) -> None:
    """It is never begun, and the batch goes on."""
    more = "numprocs = 3\nprocess_name = web%(process_num)d\n"
    command = house.gunicorn("--workers 1", bind=f"unix:{house.root}/%(process_num)d.sock")
    house.configure(name="web", command=command, program=more, settings="bake = 3")
    house.start(running="web:web2")
    wait_until(lambda: len(house.masters()) == 3)
    house.release("v2")
    before = {name: house.info(f"web:web{name}")["pid"] for name in range(3)}
    house.rpc().hotreload.reloadProcessGroup("web", False)
    house.wait_for_phase("baking", "web:web0")
    if what == "cancel all":
        assert house.ctl("hotreload", "--cancel", "web:*").returncode == 0
    elif what == "cancel":
        assert house.ctl("hotreload", "--cancel", "web:web1").returncode == 0
    else:
        assert house.ctl(what, "web:web1").returncode == 0
    outcomes = [house.wait_for_outcome(f"web:web{number}")["outcome"] for number in range(3)]
    after = {name: house.info(f"web:web{name}")["pid"] for name in range(3)}
    if what == "cancel all":
        assert outcomes == ["rolled back"] * 3
        assert after == before
    else:
        assert outcomes[0] == "succeeded"
        assert outcomes[1] == ("rolled back" if what == "cancel" else "failed")
        assert house.reload_info("web:web1")["new_pid"] == 0
    wait_until(lambda: len(house.masters()) == (2 if what == "stop" else 3))
