"""The end of a generation: of the old one, of a successor that is refused, of what stood before."""

from __future__ import annotations

import os
import signal
import threading
import time

import psutil
import pytest

from supervisor_hotreload.core.model import Fault
from tests.harness.house import APP, House
from tests.harness.load import Load, get, wait_for_answer
from tests.harness.missing import program
from tests.harness.processes import lives
from tests.harness.refusals import assert_unchanged, fault_of
from tests.harness.waiting import wait_until


def conf(house: House, text: str) -> str:
    """Write gunicorn's configuration file; return the option that names it."""
    (house.root / "conf.py").write_text(text)
    return f"--config {house.root}/conf.py"


@pytest.mark.long
@pytest.mark.parametrize("case", ["in the file", "none"])
def test_a_bake_is_not_failed_by_an_idle_or_a_patient_worker(house: House, case: str) -> None:
    """A worker beats every half of a timeout that may be unknown; 0 is no limit at all."""
    option = conf(house, "timeout = 100\n") if case == "in the file" else "--timeout 0"
    house.configure(f"--workers 1 {option}", settings="bake = 33")
    house.start()
    house.release("v2")
    house.rpc().hotreload.reloadProcess("myapp", False)
    new = house.wait_for_phase("baking")["new_pid"]
    answers = ask_successor(house, new, "/slow32") if case == "none" else []
    info = house.wait_for_outcome()
    assert info["outcome"] == "succeeded", info["reason"]
    assert case != "none" or wait_until(lambda: answers)[0].startswith(b"v2 ")


def ask_successor(house: House, new: int, path: str) -> list[bytes]:
    """Let a worker of the successor be busy with a request; return where the answer comes."""
    old = [c for c in psutil.Process(house.info()["pid"]).children() if c.pid != new]
    answers: list[bytes] = []
    for worker in old:  # so that none of them takes it
        worker.suspend()
    ask = threading.Thread(target=lambda: answers.append(get(house.port, path, 100)), daemon=True)
    ask.start()
    worker = psutil.Process(new).children()[0]
    wait_until(lambda: [c for c in worker.net_connections("tcp") if c.status == "ESTABLISHED"])
    for process in old:
        process.resume()
    return answers


def test_a_stopped_worker_is_found_while_it_bakes(house: House) -> None:
    house.configure("--workers 2 --graceful-timeout 3", settings="bake = 60")
    house.start()
    before = house.info()
    house.release("v2")
    house.rpc().hotreload.reloadProcess("myapp", False)
    new = house.wait_for_phase("baking")["new_pid"]
    psutil.Process(new).children()[0].suspend()
    info = house.wait_for_outcome()
    assert info["fault"] == Fault.BAKE_FAILED
    assert "stopped by a signal" in info["reason"]
    wait_until(lambda: len(house.masters()) == 1)
    assert_unchanged(house, before)


@pytest.mark.parametrize("how", ["trial", "setting", "cancel"])
def test_a_successor_of_an_operator_is_left_alone(house: House, how: str) -> None:
    """Nothing was sent by the reload, so nothing that comes is its own."""
    settings = {
        "trial": "check_before = false",
        "setting": "bake = soon",
        "cancel": "check_before = sleep 1000",
    }
    house.configure("--workers 1", settings=settings[how])
    house.start()
    old = house.info()["pid"]
    if how == "cancel":
        house.rpc().hotreload.reloadProcess("myapp", False)
        house.wait_for_phase("checking")
        assert house.ctl("hotreload", "--cancel", "myapp").returncode == 0
    else:
        fault_of(house)
    house.release("v2")
    os.kill(old, signal.SIGUSR2)
    wait_until(lambda: len(house.masters()) == 2)
    new = next(master for master in house.masters() if master.pid != old)
    house.turn(6)
    assert lives(new), house.log()
    assert "has come late" not in house.log()
    os.kill(old, signal.SIGTERM)
    wait_until(lambda: house.info()["pid"] == new.pid)


def test_a_successor_of_an_operator_from_before_is_named(house: House) -> None:
    """It came while the release was tried; the reload does not take it for its own."""
    gate = house.root / "gate"
    script = house.root / "try.sh"
    script.write_text(f"#!/bin/sh\nwhile [ ! -e {gate} ]; do sleep 0.05; done\n")
    script.chmod(0o755)
    house.configure("--workers 1", settings=f"check_before = {script}")
    house.start()
    old = house.info()["pid"]
    house.rpc().hotreload.reloadProcess("myapp", False)
    house.wait_for_phase("checking")
    os.kill(old, signal.SIGUSR2)
    new = wait_until(lambda: [c for c in psutil.Process(old).children() if c.children()])[0]
    gate.touch()
    info = house.wait_for_outcome()
    assert info["fault"] == Fault.FOREIGN_SUCCESSOR, info["reason"]
    assert f"pid {new.pid}" in info["reason"]
    house.turn(6)
    assert lives(new)


@pytest.mark.long
def test_a_rollback_cuts_no_request_of_a_ready_successor(house: House) -> None:
    """graceful_timeout stands in gunicorn's own file: nobody here knows how long it is."""
    option = conf(house, "graceful_timeout = 100\ntimeout = 100\n")
    house.configure(f"--workers 1 {option}", settings="bake = 600")
    house.start()
    house.release("v2")
    house.rpc().hotreload.reloadProcess("myapp", False)
    new = house.wait_for_phase("baking")["new_pid"]
    answers = ask_successor(house, new, "/slow46")
    house.ctl("hotreload", "--cancel", "myapp", timeout=100)
    assert wait_until(lambda: answers, 60)[0].startswith(b"v2 ")
    wait_until(lambda: not psutil.pid_exists(new), 60)


def test_a_successor_that_never_got_ready_goes_quickly(house: House) -> None:
    house.configure(
        f"--workers 2 {conf(house, 'graceful_timeout = 100')}", settings="ready_timeout = 1"
    )
    house.start()
    before = house.info()
    house.release(
        "v2",
        code="import signal, time\n"
        "for name in ('TERM', 'QUIT', 'INT'):\n"
        "    signal.signal(getattr(signal, f'SIG{name}'), signal.SIG_IGN)\n"
        "time.sleep(600)\n",
    )
    began = time.monotonic()
    assert fault_of(house).faultCode == Fault.NOT_READY
    assert time.monotonic() - began < 60  # not the 100 s that it may be graceful for
    assert_unchanged(house, before)


THREAD = """\
import threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
RELEASE = {release!r}
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [RELEASE.encode()]
"""


@pytest.mark.parametrize("tracker", [False, True], ids=["", "with a process of its own"])
def test_a_thread_does_not_keep_an_old_master(house: House, tracker: bool) -> None:
    more = "import subprocess\nsubprocess.Popen(['sleep', '600'])\n" if tracker else ""
    house.release("v1", code=more + THREAD.format(release="v1"))
    house.configure("--workers 1 --preload")
    house.start()
    old = house.info()["pid"]
    house.release("v2")
    began = time.monotonic()
    done = house.reload()
    assert time.monotonic() - began < 40  # not graceful_timeout and the margin after it
    assert "0 old workers left" in done.stdout
    assert not psutil.pid_exists(old)
    assert get(house.port).startswith(b"v2 ")


WRAPPERS = {
    "dumb-init": ("dumb-init -- {command}", "--single-child"),
    "script": ('script -qec "{command}" /dev/null', "without script"),
    "honcho": ("honcho -f {root}/Procfile start", "without honcho"),
}


CURES = {
    "dumb-init": "pip install dumb-init",
    "honcho": "pip install honcho",
    "script": "apt-get install bsdutils",
    "tini": "apt-get install tini",
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_that_would_end_the_successor_is_refused(house: House, name: str) -> None:
    program(name, CURES[name])
    house.environment["PATH"] = f"{house.bin}:{os.environ['PATH']}"
    command, cure = WRAPPERS[name]
    (house.root / "Procfile").write_text(f"web: {house.gunicorn()}\n")
    house.configure(command=command.format(command=house.gunicorn(), root=house.root))
    house.start()
    before = house.info()
    with Load(house.port) as load:
        load.wait_in_flight()
        fault = fault_of(house)
    assert load.dropped == []
    assert fault.faultCode == Fault.NOT_RELOADABLE
    assert name in fault.faultString
    assert cure in fault.faultString
    assert house.info()["pid"] == before["pid"]
    assert get(house.port).startswith(b"v1 ")


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes namespaces")
@pytest.mark.parametrize("init", ["", "tini --"])
def test_a_pid_namespace_of_its_own_is_refused(house: House, init: str) -> None:
    """The kernel kills all of it when its first process ends."""
    if init:
        program("tini", CURES["tini"])
    house.configure(command=f"unshare --pid --fork --mount-proc {init} {house.gunicorn()}")
    house.start()
    before = house.info()
    with Load(house.port) as load:
        load.wait_in_flight()
        fault = fault_of(house)
    assert load.dropped == []
    assert fault.faultCode == Fault.NOT_RELOADABLE
    assert "pid namespace of its own" in fault.faultString
    assert house.info()["pid"] == before["pid"]
    assert get(house.port).startswith(b"v1 ")


@pytest.mark.parametrize("words", ["dumb-init --single-child --", "dumb-init -vc", "tini -g --"])
def test_a_wrapper_that_lets_it_live_is_none(house: House, words: str) -> None:
    name = words.split()[0]
    program(name, CURES[name])
    house.environment["PATH"] = f"{house.bin}:{os.environ['PATH']}"
    house.configure(command=f"{words} {house.gunicorn()}")
    house.start()
    with Load(house.port) as load:
        load.wait_in_flight()
        house.release("v2")
        house.reload()
        load.wait_for("v2")
    assert load.dropped == []
    assert get(house.port).startswith(b"v2 ")


def test_a_generation_that_ends_already_has_not_succeeded(house: House) -> None:
    """A wrapper that nobody knows ends all of its group when the old master is gone."""
    script = house.root / "serve.sh"
    script.write_text(f"#!/bin/sh\ntrap '' TERM\n(trap - TERM; exec {house.gunicorn()})\nkill 0\n")
    script.chmod(0o755)
    house.configure(command=str(script), program="autorestart = true")
    house.start()
    house.release("v2")
    done = house.ctl("hotreload", "myapp")
    assert done.returncode != 0, done.stdout
    assert "myapp: succeeded" not in done.stdout
    assert "nothing serves" in done.stdout, done.stdout
    house.wait_for("RUNNING")
    assert wait_for_answer(house.port).startswith(b"v2 ")


def test_a_generation_without_a_ready_worker_has_not_succeeded(house: House) -> None:
    gate = house.root / "gate"
    house.configure("--workers 1")
    house.start()
    wait = f"import os, time\nwhile os.path.exists({str(gate)!r}): time.sleep(0.1)\n"
    house.release("v2", code=wait + APP.format(boot=0, release="v2"))
    with Load(house.port, fast=0, slow=1, slow_path="/slow3") as load:
        load.wait_in_flight()
        house.rpc().hotreload.reloadProcess("myapp", False)
        new = house.wait_for_phase("draining")["new_pid"]
        gate.touch()
        for worker in psutil.Process(new).children():
            worker.kill()
        info = house.wait_for_outcome()
        gate.unlink()
    assert info["outcome"] == "failed"
    assert "no worker of the successor" in info["reason"]


def draining(house: House) -> float:
    """Return the seconds that the old generation of the last reload has drained."""
    lines = house.reload_info()["log"]
    began = next(line["seconds"] for line in lines if line["phase"] == "draining")
    return float(lines[-1]["seconds"] - began)


def test_a_pipeline_after_the_server_costs_no_time(house: House) -> None:
    house.configure(command=f"bash -c '{house.gunicorn()} 2>&1 | cat'")
    house.start()
    shell = house.info()["pid"]
    sidecar = next(p for p in psutil.Process(shell).children() if p.name() == "cat")
    with Load(house.port) as load:
        load.wait_in_flight()
        house.release("v2")
        house.reload()
        with_pipeline = draining(house)
        load.wait_for("v2")
        house.release("v3")
        house.reload()
        without = draining(house)  # the shell has ended with the first generation
    assert load.dropped == []
    assert lives(sidecar)
    assert with_pipeline < 3 * without + 2, (with_pipeline, without)


def test_a_sidecar_that_its_shell_would_end_lives_on(house: House) -> None:
    script = house.root / "serve.sh"
    script.write_text(
        "#!/bin/bash\nsleep 600 &\nside=$!\n"
        "trap 'kill \"$side\"; exit' TERM EXIT\n"
        f"{house.gunicorn()} &\nwait\n"
    )
    script.chmod(0o755)
    house.configure(command=str(script))
    house.start()
    shell = house.info()["pid"]
    sidecar = next(p for p in psutil.Process(shell).children() if p.name() == "sleep")
    house.release("v2")
    house.reload()
    assert lives(sidecar)
    assert not psutil.pid_exists(shell)
    assert get(house.port).startswith(b"v2 ")
    sidecar.kill()
