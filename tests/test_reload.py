"""The main job: a real supervisord, a real gunicorn, real requests."""

from __future__ import annotations

import os
import pathlib

import pytest

from supervisor_hotreload.core.model import Fault
from tests.harness.house import House
from tests.harness.load import Address, Load, get
from tests.harness.sites import a_group
from tests.harness.waiting import free_port, wait_until


@pytest.fixture(autouse=True)
def as_it_comes(house: House) -> None:
    """Run gunicorn with all that it starts by default."""
    house.environment.pop("GUNICORN_CMD_ARGS", None)


LAYOUTS = {
    "plain": "--workers 2",
    "pid": "--workers 2 --pid app.pid",
    "preload": "--workers 3 --preload",
    "one-worker": "--workers 1",
    "gthread": "--workers 2 --worker-class gthread --threads 4",
}


def reload_twice(house: House, address: Address) -> str:
    """Reload two releases under load; return what supervisorctl printed last."""
    done = None
    with Load(address) as load:
        for release in ("v2", "v3"):
            house.release(release, boot=0.3)
            load.wait_in_flight()
            done = house.reload()
            load.wait_for(release)
    assert load.dropped == []
    assert set(load.releases) == {"v1", "v2", "v3"}
    assert get(address).startswith(b"v3 ")
    assert f"pid {house.info()['pid']}" in done.stdout
    return done.stdout


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_request_is_dropped(house: House, layout: str) -> None:
    house.configure(LAYOUTS[layout])
    house.start()
    reload_twice(house, house.port)
    assert [m.pid for m in house.masters()] == [house.info()["pid"]]


def test_a_current_symlink_given_by_chdir(house: House) -> None:
    house.configure("--workers 2", f"--chdir {house.root}/current", program="directory = /")
    house.start()
    reload_twice(house, house.port)


def test_a_unix_socket(house: House) -> None:
    path = house.root / "app.sock"
    house.configure(command=house.gunicorn(bind=f"unix:{path}"))
    house.start()
    wait_until(path.exists)
    reload_twice(house, path)
    assert house.ctl("stop", "myapp").returncode == 0
    assert not path.exists()


def test_several_binds(house: House) -> None:
    other = free_port()
    house.configure(f"--workers 2 --bind 127.0.0.1:{other}")
    house.start()
    with Load(other, fast=1, slow=1) as load:
        load.wait_in_flight()
        reload_twice(house, house.port)
    assert load.dropped == []
    assert {"v1", "v2"} <= set(load.releases)


def test_a_shell_without_exec(house: House) -> None:
    script = house.root / "serve.sh"
    script.write_text(f"#!/bin/sh\n{house.gunicorn()}\necho the shell has gone on\n")
    script.chmod(0o755)
    house.configure(command=str(script))
    house.start()
    shell = house.info()["pid"]
    reload_twice(house, house.port)
    assert house.info()["pid"] != shell
    assert house.app_log().count("the shell has gone on") == 1
    assert "EXITED" not in house.ctl("status").stdout


@pytest.mark.skipif(os.getuid() != 0, reason="only root has other users' programs")
@pytest.mark.parametrize("who", ["program", "workers", "supervisord"])
def test_users(house: House, who: str) -> None:
    """A program of another user, a master that drops its workers, a supervisord without root."""
    house.open_to_all()
    house.configure(
        "--workers 2 --user nobody" if who == "workers" else "--workers 2",
        program="user = nobody" if who == "program" else "",
        supervisord="user = nobody" if who == "supervisord" else "user = root",
    )
    house.start()
    reload_twice(house, house.port)
    assert "guess" not in house.log()


def test_a_group_goes_one_process_at_a_time(house: House) -> None:
    ports = a_group(house)
    with Load(ports[0], slow=0) as one, Load(ports[1], slow=0) as two:
        for chosen, release in (("web:*", "v2"), ("all", "v3"), ("web:web1", "v4")):
            house.release(release)
            done = house.ctl("hotreload", chosen)
            assert done.returncode == 0, done.stdout + done.stderr
            two.wait_for(release)
            order = [line.split()[0] for line in done.stdout.splitlines() if "s  " in line]
            assert order == sorted(order)
            assert len(set(order)) == (1 if chosen == "web:web1" else 2)
        assert set(one.releases) == {"v1", "v2", "v3"}
    assert one.dropped == two.dropped == []
    assert "idle" not in house.ctl("hotreload", "all").stdout


def test_after_a_failure_the_rest_of_a_group_is_not_attempted(house: House) -> None:
    ports = a_group(house)
    house.release("v2", code="import no_such_module\n")
    rows = house.rpc().hotreload.reloadProcessGroup("web")
    assert [(row["name"], row["status"]) for row in rows] == [
        ("web0", Fault.SUCCESSOR_EXITED),
        ("web1", Fault.NOT_ATTEMPTED),
    ]
    assert "serves" in rows[0]["description"]
    assert [get(port)[:2] for port in ports] == [b"v1", b"v1"]
    house.release("v3")
    rows = house.rpc().hotreload.reloadAllProcesses()
    assert [(row["name"], row["status"]) for row in rows] == [("web0", 80), ("web1", 80)]
    assert [get(port)[:2] for port in ports] == [b"v3", b"v3"]


def test_the_hundredth_reload_is_like_the_first(house: House) -> None:
    """No descriptor, no zombie and no memory is lost; here over a dozen reloads."""
    house.configure("--workers 1")
    house.start()

    def measure() -> tuple[int, int, int]:
        wait_until(lambda: len(house.family()) == 2)
        fds = len(os.listdir(f"/proc/{house.pid}/fd"))
        return fds, len(os.listdir(f"/proc/{house.info()['pid']}/fd")), house.memory()

    for _ in range(2):
        house.reload()
    first = measure()
    for _ in range(12):
        house.reload()
    last = measure()
    assert last[:2] == first[:2]
    assert last[2] - first[2] < 2 << 20
    assert house.zombies() == []


def test_nothing_is_left_behind(house: House) -> None:
    house.configure("--pid", f"{house.root}/app.pid")
    house.start()
    house.reload()
    assert pathlib.Path(f"{house.root}/app.pid").read_text().strip() == str(house.info()["pid"])
    house.ctl("shutdown")
    house.wait_for_exit()
    assert house.kill_leftovers() == []
    assert not pathlib.Path(f"{house.root}/app.pid").exists()
