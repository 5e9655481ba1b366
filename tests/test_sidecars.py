"""A start script that starts more than the program: what is beside it never takes its place."""

from __future__ import annotations

import os
import signal
import sys
from typing import Optional

import psutil
import pytest

from tests.harness.house import House
from tests.harness.load import Load, get, wait_for_answer
from tests.harness.otherservers import configure_nginx, nginx
from tests.harness.processes import lives
from tests.harness.sites import script
from tests.harness.waiting import free_port, wait_until

SIDE = """\
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "4")])
    return [b"side"]
"""


def side(house: House, port: int, more: str = "") -> str:
    """Return the command of a second gunicorn, which serves something else."""
    folder = house.root / "side"
    folder.mkdir(exist_ok=True)
    (folder / "side.py").write_text(SIDE)
    command = house.gunicorn("--workers 1", bind=f"127.0.0.1:{port}").replace("app:app", "side:app")
    return f"{command} --chdir {folder} {more}"


def master_of(house: House, word: str) -> psutil.Process:
    """Return the topmost process that runs *word*."""

    def found() -> Optional[psutil.Process]:
        named = [p for p in house.family() if word in _words(p) and "start.sh" not in _words(p)]
        named = [p for p in named if "sh -c" not in _words(p)]
        return next((p for p in named if p.ppid() not in {q.pid for q in named}), None)

    process: psutil.Process = wait_until(found, what=f"{word} runs")
    return process


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def killed_and_respawned(house: House, beside: psutil.Process) -> None:
    """Kill the program: supervisord spawns it again, and *beside* is not adopted."""
    before = house.info()["pid"]
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: house.log().count("spawned: 'myapp'") >= 2, what="spawned again")
    assert "is adopted" not in house.log()
    assert house.info()["pid"] not in (before, beside.pid)


def reloaded(house: House) -> None:
    with Load(house.port, fast=2, slow=1) as load:
        load.wait_in_flight()
        house.release("v2")
        house.reload()
        load.wait_for("v2")
    assert load.dropped == []


@pytest.mark.parametrize("how", ["sh -c", "script"])
@pytest.mark.parametrize("kind", ["gunicorn", "nginx"])
def test_a_sidecar_of_a_program_that_is_exec_d(house: House, kind: str, how: str) -> None:
    port = free_port()
    beside = side(house, port)
    if kind == "nginx":
        configure_nginx(house, listen=f"127.0.0.1:{port}")
        beside = nginx(house).replace('"', "'")
    text = f"{beside} & exec {house.gunicorn('--workers 2')}"
    quoted = text.replace("'", "'\"'\"'")
    house.configure(command=f"sh -c '{quoted}'" if how == "sh -c" else script(house, text))
    house.start()
    assert wait_for_answer(house.port)
    other = master_of(house, "side:app" if kind == "gunicorn" else "nginx")
    wait_until(lambda: other.children())
    reloaded(house)
    assert lives(other)
    killed_and_respawned(house, other)


def test_a_shell_that_waits_runs_what_is_in_the_foreground(house: House) -> None:
    port = free_port()
    text = f"{side(house, port)} & {house.gunicorn('--workers 2')}"
    house.configure(command=f"sh -c '{text}'")
    house.start()
    other = master_of(house, "side:app")
    assert wait_for_answer(port) == b"side"
    reloaded(house)
    assert lives(other)
    assert get(port) == b"side"
    assert house.info()["pid"] == master_of(house, "app:app").pid


@pytest.mark.parametrize("named", [False, True])
def test_two_masters_of_one_script_are_both_named(house: House, named: bool) -> None:
    pidfile = house.root / "app.pid"
    program = house.gunicorn(f"--workers 2 --pid {pidfile}")
    start = script(house, f"{side(house, free_port())} &\n{program}")
    house.configure(command=start, settings=f"pidfile = {pidfile}" if named else "")
    house.start()
    one, other = master_of(house, "app:app"), master_of(house, "side:app")
    if named:
        reloaded(house)
        assert lives(other)
        return
    done = house.ctl("hotreload", "myapp")
    assert done.returncode == 1
    for process in (one, other):
        assert f"pid {process.pid} (gunicorn)" in done.stdout, done.stdout
    assert "set pidfile = PATH in [hotreload:myapp]" in done.stdout
    assert len([p for p in house.masters() if lives(p)]) >= 2


def test_an_agent_beside_a_worker_is_not_the_program(house: House) -> None:
    port = free_port()
    worker = f'{house.python} -c "import time; time.sleep(1000)" worker'
    house.configure(command=script(house, f"{side(house, port)} & exec {worker}"))
    house.start(running="")
    house.wait_for("RUNNING")
    assert wait_for_answer(port) == b"side"
    agent = master_of(house, "side:app")
    done = house.ctl("hotreload", "myapp")
    assert done.returncode == 1
    assert f"pid {agent.pid} (gunicorn) runs below" in done.stdout
    killed_and_respawned(house, agent)


HOOK = """\
import subprocess
def on_starting(server):
    subprocess.Popen({command!r}.split())
"""


def test_a_gunicorn_that_a_hook_has_started(house: House) -> None:
    (house.root / "gunicorn.conf.py").write_text(HOOK.format(command=side(house, free_port())))
    house.configure(f"--workers 2 --config {house.root}/gunicorn.conf.py")
    house.start()
    other = master_of(house, "side:app")
    wait_until(lambda: other.children())
    reloaded(house)
    killed_and_respawned(house, other)


LEAKING = """\
import os
def when_ready(server):
    os.system({command!r} + " &")
"""


def test_a_gunicorn_that_has_inherited_the_sockets_by_chance(house: House) -> None:
    """It holds all of them, and runs another command."""
    (house.root / "gunicorn.conf.py").write_text(LEAKING.format(command=side(house, free_port())))
    house.configure(f"--workers 2 --config {house.root}/gunicorn.conf.py")
    house.start()
    other = master_of(house, "side:app")
    wait_until(lambda: other.children())
    killed_and_respawned(house, other)


DIRTY = """\
from gunicorn.dirty import DirtyApp
class App(DirtyApp):
    def __call__(self, action, *args, **kwargs):
        return action
"""


def test_dirty_workers_are_no_second_generation(house: House) -> None:
    house.release("v1")
    (house.root / "releases" / "v1" / "dirty.py").write_text(DIRTY)
    house.configure("--workers 2 --dirty-workers 1 --dirty-app dirty:App")
    house.start()
    wait_until(lambda: "dirty arbiter" in house.app_log().lower())
    for release in ("v2", "v3"):
        house.release(release)
        (house.root / "releases" / release / "dirty.py").write_text(DIRTY)
        house.reload()
        wait_until(lambda release=release: get(house.port).startswith(release.encode()))


INTRUDER = """\
import os, signal, sys, tempfile, time
file = tempfile.NamedTemporaryFile(prefix="wgunicorn-")
os.chmod(file.name, 0)
if os.fork() == 0:
    time.sleep(1000)
os.setpgid(0, int(open(sys.argv[1]).read()))
open(sys.argv[1] + ".done", "w").close()
time.sleep(1000)
"""


def test_a_process_of_another_program_that_has_joined_the_group(house: House) -> None:
    """Children of one supervisord share its session: a group proves nothing."""
    target = house.root / "group"
    (house.root / "intruder.py").write_text(INTRUDER)
    more = (
        f"[program:other]\ncommand = sh -c '{house.python} {house.root}/intruder.py {target} & "
        f"exec sleep 1000'\nautostart = false\n"
    )
    house.configure(more=more)
    house.start()
    target.write_text(str(house.info()["pid"]))
    house.ctl("start", "other")
    wait_until(lambda: (house.root / "group.done").exists())
    intruder = next(p for p in house.family() if "intruder.py" in _words(p) and p.children())
    os.kill(house.info("other")["pid"], signal.SIGKILL)  # it is supervisord's child now
    wait_until(lambda: psutil.Process(intruder.pid).ppid() == house.pid)
    killed_and_respawned(house, intruder)
    assert lives(intruder)
    house.ctl("stop", "myapp")
    assert lives(intruder)


LINGERING = """\
import threading, time
threading.Thread(target=time.sleep, args=(4,)).start()
RELEASE = "v1"
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"v1"]
"""


def test_stop_waits_for_a_worker_that_shuts_down(house: House) -> None:
    """Its heartbeat file is closed and it holds the port: nothing could be started."""
    house.release("v1", code=LINGERING)
    house.configure("--workers 2 --graceful-timeout 1")
    house.start()
    assert wait_for_answer(house.port)
    assert house.ctl("stop", "myapp").stdout == "myapp: stopped\n"
    assert house.application() == []
    assert house.ctl("start", "myapp").returncode == 0
    assert "Connection in use" not in house.app_log()
    assert wait_for_answer(house.port)
    assert sys.platform != "linux" or house.info()["statename"] == "RUNNING"


@pytest.mark.parametrize("end", ["worker", "shell"])
def test_a_shell_that_ends_by_itself_was_not_there_for_the_agent(house: House, end: str) -> None:
    """One that is killed leaves its server behind, which is adopted."""
    port = free_port()
    worker = f'{house.python} -c "import time; time.sleep(1000)" worker'
    house.configure(command=script(house, f"{side(house, port)} &\n{worker}"))
    house.start(running="")
    house.wait_for("RUNNING")
    assert wait_for_answer(port) == b"side"
    agent, shell = master_of(house, "side:app"), house.info()["pid"]
    wait_until(lambda: house.rpc().hotreload.getReloadInfo("myapp")["pid"] == shell)
    if end == "worker":
        master_of(house, "time.sleep").kill()
        wait_until(lambda: house.log().count("spawned: 'myapp'") >= 2, what="spawned again")
        assert "is adopted" not in house.log()
        return
    house.wait_until_recorded(shell)
    os.kill(shell, signal.SIGKILL)
    wait_until(lambda: house.info()["pid"] == agent.pid, what="it is adopted")
    assert house.log().count("spawned: 'myapp'") == 1
