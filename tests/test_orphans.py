"""supervisord is killed, idle or in the middle of a reload, and started again."""

from __future__ import annotations

import os
import pathlib
import signal
from collections.abc import Collection, Mapping

import psutil
import pytest

from supervisor_hotreload.plugin import orphans
from supervisor_hotreload.system.credentials import Ids
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World
from tests.harness.choosing import mostly_slow
from tests.harness.house import House
from tests.harness.load import Load, get, wait_for_answer
from tests.harness.otherservers import configure_nginx, nginx, start
from tests.harness.processes import lives, with_children
from tests.harness.waiting import wait_until


def kill_supervisord(house: House) -> None:
    house.family()
    os.kill(house.pid, signal.SIGKILL)
    house.wait_for_exit()
    (house.root / "supervisor.sock").unlink()


def masters_of(house: House) -> list[int]:
    """Return every master of the application on this host, whoever its parent is."""
    return [process.pid for process in with_children(house.application())]


@pytest.mark.parametrize("reloads", [0, 1])
def test_an_orphan_is_adopted_and_not_spawned_beside(house: House, reloads: int) -> None:
    house.configure("--workers 2 --access-logfile -", program="stopasgroup = true")
    house.start()
    for _ in range(reloads):
        house.reload()
    pid = house.info()["pid"]
    started = house.info()["start"]
    with Load(house.port) as load:
        load.wait_in_flight()
        kill_supervisord(house)
        house.start()
        assert house.info()["pid"] == pid
        assert abs(psutil.Process(pid).create_time() - house.info()["start"]) < 2
        get(house.port, "/captured-again")
        wait_until(lambda: "/captured-again" in house.app_log(), what="its output")
        assert house.reload_info()["watched"] is True
        house.release("v2")
        house.reload()
        load.wait_for("v2")
    assert load.dropped == []
    assert started <= house.info()["start"] + 2
    assert f"an earlier supervisord has left pid {pid}" in house.log()
    assert "spawned" not in house.log().rsplit("supervisord started", 1)[1]
    assert masters_of(house) == [house.info()["pid"]]
    assert house.ctl("restart", "myapp").returncode == 0
    house.wait_until_complete()
    assert house.reload_info()["watched"] is False
    house.reload()
    assert house.ctl("stop", "myapp").stdout == "myapp: stopped\n"
    assert house.application() == []


def test_the_exit_of_an_orphan_is_seen(house: House) -> None:
    house.configure()
    house.start()
    kill_supervisord(house)
    house.start()
    pid = house.info()["pid"]
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: house.info()["pid"] not in (0, pid), what="spawned again")
    house.wait_for("RUNNING")
    assert wait_for_answer(house.port)
    assert masters_of(house) == [house.info()["pid"]]


@pytest.mark.parametrize(
    "phase",
    mostly_slow(["booting", "baking", "draining", "promoting"], ["booting", "draining"]),
)
def test_killed_in_the_middle_of_a_reload(house: House, phase: str) -> None:
    house.configure("--workers 2", settings="bake = 1")
    house.start()
    house.release("v2", boot=1)
    with Load(house.port, slow_path="/slow2") as load:
        load.wait_in_flight()
        house.rpc().hotreload.reloadProcess("myapp", False)
        house.wait_for_phase(phase)
        kill_supervisord(house)
        house.start()
        wait_until(lambda: house.reload_info()["outcome"] != "pending", what=house.log)
        wait_until(lambda: len(masters_of(house)) == 1, what="one generation is left")
        load.wait_for("v2")
    assert load.dropped == []
    assert [house.info()["pid"]] == masters_of(house)
    wait_until(lambda: house.reload_info()["outcome"] != "pending")
    house.reload()
    assert house.ctl("stop", "myapp").stdout == "myapp: stopped\n"
    assert house.application() == []


def test_adopt_orphans_can_be_switched_off(house: House) -> None:
    house.configure(settings="adopt_orphans = false", program="startretries = 0")
    house.start()
    kill_supervisord(house)
    house.start(running="")
    wait_until(lambda: "spawned: 'myapp'" in house.log().rsplit("supervisord started", 1)[1])
    assert "was left by" not in house.log()


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="starts another user's processes")


@needs_root
def test_another_user_s_process_is_not_even_read(house: House) -> None:
    """Whatever its environment says."""
    house.configure(program="autostart = false")
    house.start(running="")
    impostor = house.impostor(group="myapp", name="myapp")
    kill_supervisord(house)
    house.start(running="")
    assert house.info()["statename"] == "STOPPED"
    assert "adopted" not in house.log()
    assert lives(impostor)

    class Recorder(World):
        read: list[int] = []  # noqa: RUF012 - of this test

        def strays(self, users: Collection[int]) -> list[Process]:
            process = self.lookup(impostor.pid)
            return [process] if process is not None else []

        def environments(
            self, processes: Mapping[Process, Ids], names: Collection[str]
        ) -> dict[Process, dict[str, str]]:
            self.read += [process.pid for process in processes]
            return super().environments(processes, names)

    assert orphans.strays(Recorder(), [0]) == []
    assert Recorder.read == []
    found = orphans.strays(Recorder(), [0, 65534])
    assert [stray.process.pid for stray in found] == [impostor.pid]
    assert found[0].environment["SUPERVISOR_PROCESS_NAME"] == "myapp"
    assert set(found[0].environment) <= {*orphans.GIVEN, orphans.URL}


def test_in_doubt_it_is_left_alone_and_why_is_said(house: House) -> None:
    """The program's own user and its environment prove nothing."""
    house.configure(program="autostart = false")
    house.start(running="")
    impostor = house.impostor(group="myapp", name="myapp", user=os.getuid())
    kill_supervisord(house)
    house.start(running="")
    wait_until(lambda: "not adopted" in house.log())
    why = f"myapp: not adopted: pid {impostor.pid} does not run the program's command"
    assert why in house.log()
    assert house.info()["statename"] == "STOPPED"


TITLED = """\
import ctypes
libc = ctypes.CDLL(None)
def on_starting(server):
    start = int(open("/proc/self/stat").read().rsplit(")", 1)[1].split()[45])
    end = int(open("/proc/self/stat").read().rsplit(")", 1)[1].split()[48])
    title = b"gunicorn: master [app]"
    ctypes.memmove(start, title + bytes(end - start - len(title)), end - start)
"""
"""Overwrites arguments and environment as setproctitle does: from arg_start to env_end."""


@pytest.mark.parametrize("record", ["kept", "lost", "another user's", "of another boot"])
def test_the_record_proves_what_a_title_hides(house: House, record: str) -> None:
    (house.root / "gunicorn.conf.py").write_text(TITLED)
    house.configure(f"--workers 2 --config {house.root}/gunicorn.conf.py")
    house.start()
    pid = house.info()["pid"]
    assert b"SUPERVISOR" not in pathlib.Path(f"/proc/{pid}/environ").read_bytes()
    path = house.root / "supervisord.hotreload.record"
    wait_until(lambda: str(pid) in path.read_text())
    assert path.stat().st_mode & 0o777 == 0o600
    kill_supervisord(house)
    if record == "lost":
        path.unlink()
    elif record == "another user's":
        os.chown(path, 65534, 65534)
    elif record == "of another boot":
        path.write_text(path.read_text().replace('"boot": "', '"boot": "x'))
    house.start(running="")
    if record == "kept":
        assert house.wait_for("RUNNING")["pid"] == pid
        assert "spawned" not in house.log().rsplit("supervisord started", 1)[1]
        house.reload()
    else:
        wait_until(lambda: "spawned: 'myapp'" in house.log().rsplit("supervisord started", 1)[1])
        assert "was left by" not in house.log()


def test_an_nginx_is_found_again(house: House) -> None:
    """It has a title, and no pidfile is set."""
    configure_nginx(house)
    house.configure(command=nginx(house))
    start(house, house.port, 2)
    pid = house.info()["pid"]
    house.wait_until_recorded(pid)
    kill_supervisord(house)
    house.start()
    assert house.info()["pid"] == pid
    assert house.ctl("stop", "myapp").stdout == "myapp: stopped\n"


def test_a_helper_that_outlived_its_program_is_not_adopted(house: House) -> None:
    """It has the program's environment and user, and it is no server."""
    house.release(
        "v1",
        code="import subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)', 'gunicorn'],\n"
        "                 start_new_session=True)\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [('Content-Length', '2')])\n    return [b'v1']\n",
    )
    house.configure("--workers 1")
    house.start()
    wait_for_answer(house.port)
    house.application()
    house.ctl("shutdown")
    house.wait_for_exit()
    house.start()
    assert "was left by" not in house.log()
    assert house.log().count("spawned: 'myapp'") == 2
    assert wait_for_answer(house.port) == b"v1"
