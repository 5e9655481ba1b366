"""Servers that replace their workers themselves, and ways to tell that they have."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from supervisor_hotreload.servers import Program, family_of
from supervisor_hotreload.system.command import RunAs
from supervisor_hotreload.system.credentials import Ids
from supervisor_hotreload.system.process import lookup
from supervisor_hotreload.system.world import World
from tests.harness.house import House
from tests.harness.load import Address, Load, get, wait_for_answer
from tests.harness.otherservers import (
    ASGI,
    asgi,
    configure_haproxy,
    haproxy,
    rack_release,
    start,
    unicorn,
    uwsgi,
)
from tests.harness.processes import parent
from tests.harness.waiting import wait_until

SIGNAL = "strategy = signal"


def workers(house: House) -> set[int]:
    master = house.info()["pid"]
    return {p.pid for p in house.family() if parent(p) == master}


def serving(house: House) -> str:
    """Return what an outcome would say that serves: a check that fails touches nothing."""
    house.settings(f"{SIGNAL}\ncheck_before = /bin/false")
    printed = house.ctl("hotreload", "myapp").stdout
    house.settings(SIGNAL)
    return printed


@pytest.mark.parametrize("name", ["granian", "uvicorn", "hypercorn"])
def test_a_reload_by_hup_blocks_until_the_new_workers_serve(house: House, name: str) -> None:
    house.release("v1", code=ASGI.format(release="v1", boot=0))
    house.configure(command=asgi(house, name), program="directory = /", settings=SIGNAL)
    start(house, house.port, 2)
    wait_until(lambda: "2 workers" in serving(house), what=lambda: serving(house))
    pid, before = house.info()["pid"], workers(house)
    with Load(house.port, slow=0) as load:
        house.release("v2", code=ASGI.format(release="v2", boot=0.5))
        done = house.reload()
        assert {get(house.port).split()[0] for _ in range(6)} == {b"v2"}, done.stdout
    assert house.info()["pid"] == pid
    assert before - workers(house)
    if name == "granian":
        assert load.dropped == []
    assert len(load.dropped) < 10  # hypercorn and uvicorn: their own shutdown race


def test_without_workers_the_signal_would_end_it(house: House) -> None:
    house.release("v1", code=ASGI.format(release="v1", boot=0))
    house.configure(command=asgi(house, "uvicorn").replace("--workers 2", ""), settings=SIGNAL)
    start(house, house.port, 0)
    done = house.ctl("hotreload", "myapp")
    assert done.returncode != 0
    assert "does not handle HUP" in done.stdout
    assert get(house.port).startswith(b"v1 ")


def test_a_signal_that_stops_is_not_sent(house: House) -> None:
    house.release("v1", code=ASGI.format(release="v1", boot=0))
    house.configure(command=asgi(house, "granian"), program="directory = /\nstopsignal = USR1")
    start(house, house.port, 2)
    pid = house.info()["pid"]
    for name in ("TERM", "QUIT", "USR1"):
        house.settings(f"strategy = signal\nsignal = {name}")
        done = house.ctl("hotreload", "myapp")
        assert done.returncode != 0
        assert f"signal = {name} stops pid {pid}" in done.stdout
    assert get(house.port).startswith(b"v1 ")


def test_a_server_that_has_ended_is_not_said_to_serve(house: House) -> None:
    house.release("v1", code=ASGI.format(release="v1", boot=0))
    settings = f"{SIGNAL}\ncheck_before = none"
    house.configure(command=asgi(house, "granian"), program="directory = /", settings=settings)
    start(house, house.port, 2)
    house.release("broken", code="import no_such_module")
    last = house.ctl("hotreload", "myapp").stdout.splitlines()[-1]
    assert last.startswith("myapp: nothing serves"), last
    assert "RUNNING" not in last


def test_a_directory_that_has_moved_is_named(house: House) -> None:
    house.release("v1", code=ASGI.format(release="v1", boot=0))
    house.configure(command=asgi(house, "granian"), settings=SIGNAL)
    start(house, house.port, 2)
    house.release("v2", code=ASGI.format(release="v2", boot=0))
    assert "is the old code again" in house.ctl("hotreload", "myapp").stdout


def test_a_directory_that_has_moved_is_refused_where_it_is_all_there_is(house: House) -> None:
    house.release("v1", code=ASGI.format(release="v1", boot=0))
    paths = house.environment["PYTHONPATH"]
    command = asgi(house, "uvicorn").replace(f"--app-dir {house.root}/current ", "")
    house.environment["PYTHONPATH"] = paths
    house.configure(command=command, settings=SIGNAL)
    start(house, house.port, 2)
    house.release("v2", code=ASGI.format(release="v2", boot=0))
    done = house.ctl("hotreload", "myapp")
    assert done.returncode != 0
    assert f'directory = / and environment = PYTHONPATH="{house.root}/current"' in done.stdout
    assert get(house.port).startswith(b"v1 ")


def test_without_a_strategy_the_cure_is_told(house: House) -> None:
    house.release("v1", code=ASGI.format(release="v1", boot=0))
    house.configure(command=asgi(house, "granian"))
    start(house, house.port, 2)
    done = house.ctl("hotreload", "myapp")
    assert done.returncode != 0
    assert "set strategy = signal in [hotreload:myapp]" in done.stdout


def serve_by_haproxy(house: House, listen: str = "", address: Address = 0, tuning: str = "") -> int:
    """Start an HAProxy in master-worker mode; return its pid."""
    configure_haproxy(house, "v1", listen, tuning)
    house.configure(
        command=haproxy(house, "-W", "-db"),
        program="directory = /\nstopsignal = USR1",
        settings=f"{SIGNAL}\nsignal = USR2\ncheck_before = {haproxy(house, '-c')}",
    )
    start(house, address or house.port, 1)
    return int(house.info()["pid"])


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_haproxy_is_reloaded_under_load(house: House, kind: str) -> None:
    path = house.root / "haproxy.sock"
    address: Address = house.port if kind == "tcp" else path
    listen = "" if kind == "tcp" else f"unix@{path}"
    pid = serve_by_haproxy(house, listen, address)
    with Load(address) as load:
        for number, release in enumerate(("v2", "v3", "v4"), start=2):
            before = workers(house)
            configure_haproxy(house, release, listen)
            load.wait_in_flight()
            house.reload()
            assert {get(address).split()[0].decode() for _ in range(6)} == {release}
            assert len(workers(house)) == 1
            assert not before & workers(house)
            assert house.reload_info()["generation"] == number
    assert load.dropped == []
    assert load.patient < 0.5
    assert house.info()["pid"] == pid
    assert house.ctl("stop", "myapp").stdout == "myapp: stopped\n"
    assert house.family() == []


def test_a_broken_configuration_of_haproxy_changes_nothing(house: House) -> None:
    serve_by_haproxy(house)
    before = workers(house)
    configure_haproxy(house, text="frontend web\n    nonsense\n")
    with Load(house.port, slow=1) as load:
        done = house.ctl("hotreload", "myapp")
    assert done.returncode != 0
    assert "unknown keyword 'nonsense'" in done.stdout
    assert "Reloading HAProxy" not in house.app_log()
    assert workers(house) == before
    assert load.dropped == []
    assert get(house.port).startswith(b"v1 ")


def test_a_broken_configuration_of_haproxy_that_nobody_has_tried(house: House) -> None:
    serve_by_haproxy(house)
    before = workers(house)
    house.settings(f"{SIGNAL}\nsignal = USR2\nready_timeout = 2")
    configure_haproxy(house, text="frontend web\n    nonsense\n")
    with Load(house.port, slow=1) as load:
        done = house.ctl("hotreload", "myapp")
        assert done.returncode != 0
        assert get(house.port).startswith(b"v1 ")
        configure_haproxy(house, "v2")
        house.reload()
        assert get(house.port).startswith(b"v2 ")
    assert load.dropped == []
    assert not before & workers(house)


def test_a_client_that_stays_keeps_an_old_worker_until_its_hard_stop(house: House) -> None:
    serve_by_haproxy(house, tuning="hard-stop-after 2s")
    with socket.create_connection(("127.0.0.1", house.port)) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n")  # not all of it
        before = workers(house)
        configure_haproxy(house, "v2")
        house.reload()
        assert house.reload_info()["seconds"] > 1.5
    assert not before & workers(house)
    assert get(house.port).startswith(b"v2 ")


@pytest.mark.parametrize("broken", [False, True])
def test_an_endpoint_has_the_last_word(house: House, broken: bool) -> None:
    house.release("v1", code=ASGI.format(release="v1", boot=0))
    house.configure(
        command=asgi(house, "granian"),
        program="directory = /",
        settings=f"{SIGNAL}\nready = http://127.0.0.1:{house.port}/ v2\nready_timeout = 5",
    )
    start(house, house.port, 2)
    house.release("v2", code=ASGI.format(release="v1" if broken else "v2", boot=0))
    done = house.ctl("hotreload", "myapp")
    assert (done.returncode != 0) == broken, done.stdout
    if broken:
        assert "'v2' is not in the body" in done.stdout


@pytest.mark.parametrize("good", [True, False])
def test_an_endpoint_after_the_heartbeats(house: House, good: bool) -> None:
    """The old generation answers too: the text tells the new one."""
    house.configure(
        settings=f"ready = http://127.0.0.1:{house.port}/ {'v2' if good else 'v3'}\n"
        "ready_timeout = 3"
    )
    house.start()
    house.release("v2")
    done = house.ctl("hotreload", "myapp")
    assert (done.returncode == 0) == good, done.stdout
    assert get(house.port).startswith(b"v2 " if good else b"v1 ")


STATUS = """\
def app(environ, start_response):
    start_response("{status} X", [("Content-Length", "2")])
    return [b"ok"]
"""


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("server", ["sync", "gthread", "unicorn"])
def test_only_the_successor_is_asked(house: House, server: str, status: int) -> None:
    """The old generation answers 200 at the same address."""
    if server == "unicorn":
        rack_release(house, "v1")
        command = unicorn(house)
    else:
        house.release("v1", code=STATUS.format(status=200))
        command = house.gunicorn(f"--workers 2 --worker-class {server}")
    stop = "stopsignal = QUIT" if server == "unicorn" else ""
    seconds = 60 if status == 200 else 8  # on a busy machine, too, it is asked within these
    ready = f"ready = http://127.0.0.1:{house.port}/\nready_timeout = {seconds}"
    house.configure(command=command, program=stop, settings=ready)
    start(house, house.port, 2)
    if server == "unicorn":
        code = f'run lambda {{ |env| [{status}, {{"Content-Type" => "text/plain"}}, ["ok"]] }}'
        rack_release(house, "v2", code=code)
    else:
        house.release("v2", code=STATUS.format(status=status))
    done = house.ctl("hotreload", "myapp")
    assert (done.returncode == 0) == (status == 200), done.stdout
    assert ("a new worker answers: status 500" in done.stdout) == (status == 500), done.stdout
    assert "in a row" not in done.stdout


def test_accepting_tells_of_a_gunicorn_with_epoll(house: House) -> None:
    house.configure("--workers 2 --worker-class gthread", settings="ready = accepting")
    house.start()
    house.release("v2")
    house.reload()
    assert get(house.port).startswith(b"v2 ")


def test_gunicorn_is_tried_before_where_that_is_asked_for(house: House) -> None:
    house.configure(settings="check_before = default")
    house.start()
    house.release("broken", code="import no_such_module")
    done = house.ctl("hotreload", "myapp")
    assert "check_before (gunicorn --check-config)" in done.stdout
    assert "no_such_module" in done.stdout
    assert "spawning" not in done.stdout
    house.release("v2")
    house.reload()
    assert get(house.port).startswith(b"v2 ")


@pytest.mark.parametrize("name", ["uvicorn", "granian"])
def test_no_worker_outlives_a_killed_master(house: House, name: str) -> None:
    """What it has left would hold the port: its exit is told when that is gone."""
    house.release("v1", code=ASGI.format(release="v1", boot=0))
    house.configure(command=asgi(house, name), settings=SIGNAL)
    start(house, house.port, 2)
    before = {process.pid for process in house.family()}
    house.turn(4)  # granian's master holds no socket: its workers are recorded, not on disk
    os.kill(house.info()["pid"], signal.SIGKILL)
    wait_until(lambda: not before & {p.pid for p in house.family()}, what=house.log)
    house.wait_for("RUNNING")
    wait_for_answer(house.port)
    assert house.log().count("spawned: 'myapp'") == 2, house.log()


def test_a_script_is_not_run_a_second_time(house: House) -> None:
    """What it would do with --check-config nobody knows: start another gunicorn, for one."""
    script = house.root / "run.sh"
    script.write_text(f"#!/bin/sh\necho started >> {house.root}/runs\nexec {house.gunicorn()}\n")
    script.chmod(0o755)
    house.configure(command=str(script), settings="check_before = default")
    start(house, house.port, 2)
    done = house.ctl("hotreload", "myapp")
    assert done.returncode != 0
    assert "write check_before = COMMAND" in done.stdout
    assert (house.root / "runs").read_text() == "started\n"
    house.settings("check_before = /bin/true")
    house.release("v2")
    house.reload()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("server", ["gunicorn", "uwsgi"])
def test_a_release_is_tried_as_the_user_of_the_workers(house: House, server: str) -> None:
    """Their master may be root's: what it never imports, root has not to import for it."""
    command = {
        "gunicorn": house.gunicorn("--workers 2 --user nobody"),
        "uwsgi": uwsgi(house, "--master-as-root --uid nobody"),
    }[server]
    house.configure(command=command, program="stopsignal = INT")
    start(house, house.port, 2)
    folder, rights = str(house.root / "current"), Ids.of_user(0)
    world, program = World(), Program("myapp", command, folder, rights=rights)
    tracked = lookup(house.info()["pid"])
    assert tracked is not None
    found = wait_until(lambda: family_of(world, tracked, program))
    trial = found.family.trial(world, found.old, program)
    assert trial.run_as == RunAs("nobody")
    ids = world.ids(tracked)
    assert ids is not None and ids.user == 0


def test_what_a_killed_supervisord_has_left_is_adopted(house: House) -> None:
    house.release("v1")
    house.configure(command=uwsgi(house), program="stopsignal = INT")
    start(house, house.port, 2)
    pid = house.info()["pid"]
    house.family()
    os.kill(house.pid, signal.SIGKILL)
    house.wait_for_exit()
    (house.root / "supervisor.sock").unlink()
    house.start()
    assert house.info()["pid"] == pid
    house.release("v2")
    house.reload()
    assert get(house.port).startswith(b"v2 ")
    assert house.ctl("stop", "myapp").stdout == "myapp: stopped\n"
