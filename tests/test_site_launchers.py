"""Launchers that stay and do not sit in wait4(2): they poll, have a thread, read a pipe."""

from __future__ import annotations

import os
import signal

import psutil
import pytest

from tests.harness.choosing import mostly_slow
from tests.harness.house import House
from tests.harness.load import Load, get, wait_for_answer
from tests.harness.missing import program
from tests.harness.sites import script
from tests.harness.waiting import wait_until

TERM = "signal.signal(signal.SIGTERM, lambda *a: p.terminate())\n"
PYTHON = {
    "poll": TERM + "while p.poll() is None: time.sleep(0.5)\n",
    "wait(timeout)": TERM
    + "while p.returncode is None:\n try: p.wait(60)\n except subprocess.TimeoutExpired: pass\n",
    "a thread": "threading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()\n"
    + TERM
    + "p.wait()\n",
}
SHELL = "trap 'kill -TERM $PID' TERM\n{command} &\nPID=$!\nwait $PID\n"


def command(house: House, kind: str) -> str:
    server = house.gunicorn("--workers 2")
    if kind == "busybox sh":  # every /bin/sh of Alpine
        path = house.root / "start.sh"
        busybox = program("busybox", "apt-get install busybox")
        path.write_text(f"#!{busybox} sh\n" + SHELL.format(command=server))
        path.chmod(0o755)
        return str(path)
    if kind == "timeout":
        return f"timeout 10000 {script(house, server)}"
    path = house.root / "launcher.py"
    path.write_text(
        "import signal, subprocess, sys, threading, time\n"
        f"p = subprocess.Popen({server.split()!r})\n{PYTHON[kind]}sys.exit(p.returncode)\n"
    )
    return f"{house.python} {path}"


KINDS = [*PYTHON, "busybox sh", "timeout"]


def start(house: House, kind: str) -> int:
    house.configure(command=command(house, kind))
    house.start(running="")
    house.wait_for("RUNNING")
    wait_until(lambda: [m for m in house.masters() if "app:app" in m.cmdline()])
    wait_for_answer(house.port)
    master = int(get(house.port).split()[2])
    house.wait_until_recorded(house.info()["pid"])
    return master


@pytest.mark.parametrize("kind", mostly_slow(KINDS, ["a thread", "busybox sh"]))
def test_reload(house: House, kind: str) -> None:
    start(house, kind)
    with Load(house.port, fast=2, slow=0) as load:
        house.release("v2")
        done = house.ctl("hotreload", "myapp")
        assert done.returncode == 0, done.stdout
        load.wait_for("v2")
    assert load.dropped == []


def test_a_loop_that_starts_the_server_again(house: House) -> None:
    """What it starts would take the path of the socket from the new generation."""
    path = house.root / "app.sock"
    server = house.gunicorn("--workers 2", bind=f"unix:{path}")
    house.configure(command=script(house, f"while true; do {server}; done"))
    house.start(running="")
    house.wait_for("RUNNING")
    wait_for_answer(path)
    with Load(path, fast=2, slow=0) as load:
        house.release("v2")
        house.reload()
        load.wait_for("v2")
    assert load.dropped == []
    house.turn(4)
    assert int(get(path).split()[2]) == house.info()["pid"]
    assert house.masters() == [psutil.Process(house.info()["pid"])]
    assert house.ctl("stop", "myapp").stdout == "myapp: stopped\n"
    assert house.application() == []


@pytest.mark.parametrize("kind", mostly_slow(KINDS, ["poll", "timeout"]))
def test_by_hand(house: House, kind: str) -> None:
    """USR2, then TERM: the successor is adopted, not left without supervisord."""
    master = start(house, kind)
    with Load(house.port, fast=2, slow=0) as load:
        house.release("v2")
        os.kill(master, signal.SIGUSR2)
        load.wait_for("v2")
        (new,) = (child.pid for child in psutil.Process(master).children() if child.children())
        os.kill(master, signal.SIGTERM)
        wait_until(lambda: not psutil.pid_exists(master))
        wait_until(lambda: house.nudge() and house.info()["pid"] == new, what=house.log)
    assert int(get(house.port).split()[2]) == new
    assert house.info()["statename"] == "RUNNING"
