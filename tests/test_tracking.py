"""Adoption without being asked, and HUP that becomes a reload."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import xmlrpc.client

import psutil
import pytest

from tests.harness.choosing import mostly_slow
from tests.harness.house import House
from tests.harness.load import Load, get, wait_for_answer
from tests.harness.waiting import wait_until

NO_SUBREAPER = "subreaper = false"


def upgrade_by_hand(house: House, ready: bool = True) -> tuple[int, int]:
    """Send USR2 as a deploy script does; return the pids of both masters."""
    old = house.info()["pid"]
    house.wait_until_recorded(old)
    workers = {child.pid for child in psutil.Process(old).children()}
    assert len(workers) == 2
    os.kill(old, signal.SIGUSR2)

    def successor() -> int:
        born = [c for c in psutil.Process(old).children() if c.pid not in workers]
        return next((c.pid for c in born if c.children() or not ready), 0)

    new: int = wait_until(successor, what="a successor")
    return old, new


def pidfile_names(house: House, pid: int) -> bool:
    path = house.root / "app.pid"
    return path.exists() and path.read_text().strip() == str(pid)


def has_parent_other_than(pid: int, old: int) -> bool:
    return psutil.Process(pid).ppid() != old


def booted(house: House, master: int, release: str) -> None:
    wait_until(lambda: get(house.port).split()[:1] == [release.encode()], what="it serves")
    assert psutil.pid_exists(master)


UPGRADES = [
    (end, autorestart, subreaper)
    for end in ("TERM", "QUIT", "KILL")
    for autorestart, subreaper in itertools.product(("true", "unexpected", "false"), (True, False))
    if subreaper or autorestart != "unexpected"
]


@pytest.mark.parametrize(
    ("end", "autorestart", "subreaper"),
    mostly_slow(
        UPGRADES,
        [
            ("TERM", "true", True),
            ("QUIT", "unexpected", True),
            ("KILL", "false", True),
            ("TERM", "false", False),
            ("KILL", "true", False),
        ],
    ),
)
def test_an_upgrade_by_hand(house: House, end: str, autorestart: str, subreaper: bool) -> None:
    # its workers look for their parent every half timeout
    arguments = "--workers 2 --timeout 6"
    pidfile = subreaper or end != "KILL"  # where pid 1 reaps late, a zombie's pidfile is in the way
    house.configure(
        f"{arguments} --pid {house.root}/app.pid" if pidfile else arguments,
        program=f"autorestart = {autorestart}",
        defaults="" if subreaper else NO_SUBREAPER,
    )
    house.start()
    wait_for_answer(house.port)
    house.release("v2")
    for times in (1, 2):
        old, new = upgrade_by_hand(house)
        booted(house, new, "v2")
        os.kill(old, signal.Signals[f"SIG{end}"])
        wait_until(lambda new=new: house.info()["pid"] == new, what="the successor is tracked")
        assert house.info()["statename"] == "RUNNING"
        wait_until(lambda new=new: not pidfile or pidfile_names(house, new))
        wait_until(lambda new=new, old=old: has_parent_other_than(new, old))
        # it ignores USR2 until it has seen that itself
        wait_until(lambda times=times: house.app_log().count("has been promoted") == times)
    assert house.log().count("spawned: 'myapp'") == 1
    wait_until(lambda: get(house.port).startswith(b"v2 "))
    house.reload()
    assert house.ctl("stop", "myapp").stdout == "myapp: stopped\n"
    wait_until(lambda: house.application() == [])


def test_the_successor_is_adopted_while_it_boots(house: House) -> None:
    house.configure()
    house.start()
    house.release("v2", boot=2)
    old, new = upgrade_by_hand(house, ready=False)
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: house.info()["pid"] == new, what="the successor is tracked")
    wait_until(lambda: psutil.Process(new).children(), what="it boots")
    assert wait_for_answer(house.port)
    assert house.log().count("spawned: 'myapp'") == 1


FORKING = """\
import multiprocessing, os, time
def idle():
    time.sleep(1000)
helper = multiprocessing.get_context("fork").Process(target=idle)
helper.start()
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"v1"]
"""


@pytest.mark.parametrize("code", [None, FORKING], ids=["plain", "multiprocessing"])
def test_an_orphaned_worker_is_never_taken_for_a_master(house: House, code: str) -> None:
    """Even one with a child of its own that holds its heartbeat."""
    house.release("v1", code=code)
    house.configure("--workers 2")
    house.start()
    wait_for_answer(house.port)
    old = house.info()["pid"]
    house.wait_until_recorded(old)
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: house.log().count("spawned: 'myapp'") >= 2, what="spawned again")
    assert "is adopted" not in house.log()


def test_a_helper_process_of_the_program_is_no_heir(house: House) -> None:
    house.release(
        "v1",
        code="import subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)', 'gunicorn'])\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [('Content-Length', '2')])\n    return [b'v1']\n",
    )
    house.configure("--workers 1")
    house.start()
    wait_for_answer(house.port)
    house.reload()
    house.reload()
    os.kill(house.info()["pid"], signal.SIGKILL)
    wait_until(lambda: house.log().count("spawned: 'myapp'") >= 2, what="spawned again")
    assert "is adopted" not in house.log()


@pytest.mark.parametrize("words", [("myapp",), ("myapp:*",), ("all",)])
def test_hup_becomes_a_reload(house: House, words: tuple[str, ...]) -> None:
    house.configure()
    house.start()
    old = house.info()["pid"]
    with Load(house.port) as load:
        load.wait_in_flight()
        house.release("v2")
        assert house.ctl("signal", "HUP", *words).returncode == 0
        assert house.wait_for_outcome()["outcome"] == "succeeded"
        load.wait_for("v2")
    assert load.dropped == []
    assert house.info()["pid"] != old


def test_hups_during_a_reload_make_exactly_one_more(house: House) -> None:
    house.configure()
    house.start()
    house.release("v2", boot=1)
    for _ in range(5):
        assert house.rpc().supervisor.signalProcess("myapp", "HUP")
    wait_until(lambda: house.rpc().hotreload.getReloadInfo("myapp")["generation"] == 3)
    assert house.wait_for_outcome()["outcome"] == "succeeded"
    assert house.log().count("hotreload: myapp: spawning") == 2


@pytest.mark.parametrize("where", ["settings", "defaults"])
def test_the_relay_can_be_switched_off(house: House, where: str) -> None:
    house.configure(**{where: "relay_sighup = false"})
    house.start()
    old = house.info()["pid"]
    house.ctl("signal", "HUP", "myapp")
    wait_until(lambda: "Handling signal: hup" in house.app_log())
    assert house.info()["pid"] == old


def test_a_successor_that_comes_too_late_is_ended(house: House) -> None:
    """A USR2 cannot be recalled: a master that was busy honours it after the reload gave up."""
    house.configure("--workers 2", settings="spawn_timeout = 1\nrelay_sighup = false")
    house.start()
    rpc = house.rpc()  # supervisorctl takes a second to start where much else goes on
    with Load(house.port, fast=1, slow=1, slow_path="/slow6") as load:
        load.wait_in_flight()
        rpc.supervisor.signalProcess("myapp", "HUP")  # gunicorn waits for its old worker, deaf
        wait_until(lambda: "Handling signal: hup" in house.app_log())
        with contextlib.suppress(xmlrpc.client.Fault):
            rpc.hotreload.reloadProcess("myapp")
        info = house.reload_info()
        if info["outcome"] != "succeeded":  # older versions hear USR2 meanwhile
            assert "timed out after 1 s waiting for the successor to start" in info["reason"]
            wait_until(lambda: "has come late and is ended" in house.log(), 60)
            wait_until(lambda: len(house.masters()) == 1, 60)
    house.reload()
    assert len(house.masters()) == 1


def test_after_a_reload_without_a_successor_the_next_one_succeeds(house: House) -> None:
    (house.root / "gunicorn.conf.py").write_text(
        "import os\n"
        "def pre_exec(server):\n"
        f"    if os.path.exists({str(house.root / 'stillborn')!r}):\n"
        "        os._exit(1)\n"
    )
    house.configure(
        f"--workers 2 --config {house.root}/gunicorn.conf.py", settings="spawn_timeout = 1"
    )
    house.start()
    (house.root / "stillborn").touch()
    done = house.ctl("hotreload", "myapp")
    assert "timed out after 1 s waiting for the successor to start" in done.stdout
    (house.root / "stillborn").unlink()
    house.release("v2", boot=1.0)
    house.reload()
    assert "has come late" not in house.log()
    assert len(house.masters()) == 1


@pytest.mark.parametrize(
    "command",
    [
        "{python} -c 'import time; time.sleep(1000)' gunicorn_exporter.py",
        "tail -f {root}/uwsgi {root}/gunicorn",
        "sh -c 'exec tail -f {root}/nginx'",
    ],
)
def test_hup_goes_through_to_what_is_no_server(house: House, command: str) -> None:
    for name in ("uwsgi", "gunicorn", "nginx"):
        (house.root / name).touch()
    command = command.format(python=house.python, root=house.root)
    house.configure(more=f"[program:other]\nautorestart = false\ncommand = {command}\n")
    house.start()
    house.wait_for("RUNNING", "other")
    house.ctl("signal", "HUP", "other")
    house.wait_for("EXITED", "other")
