"""unicorn: a second master beside the first, without dropping a request."""

from __future__ import annotations

import itertools
import os
import re
import signal

import psutil
import pytest

from tests.harness.choosing import mostly_slow
from tests.harness.house import House
from tests.harness.load import Address, Load, get
from tests.harness.otherservers import rack_release, start, titled, unicorn
from tests.harness.waiting import wait_until

STOP = "stopsignal = QUIT"

BROKEN = 'require "no_such_library"\n'


def unicorns(house: House, role: str) -> set[int]:
    return titled(house, f"unicorn {role}")


def serve(
    house: House,
    settings: str = "",
    listen: str = "",
    more: str = "",
    program: str = STOP,
    address: Address = 0,
) -> int:
    """Start a unicorn with 2 workers and wait until both have loaded v1; return its pid."""
    rack_release(house, "v1")
    house.configure(command=unicorn(house, listen, more=more), program=program, settings=settings)
    start(house, address or house.port, 2)
    wait_until(lambda: house.app_log().count(" ready\n") >= 3, what=house.app_log)
    return int(house.info()["pid"])


def answers(address: Address) -> set[str]:
    return {get(address).split()[0].decode() for _ in range(6)}


@pytest.mark.parametrize(
    ("socket", "preload"),
    mostly_slow(
        itertools.product(["tcp", "unix"], ["false", "true"]),
        [("tcp", "true"), ("unix", "false")],
    ),
)
def test_it_is_reloaded_twice_under_load(house: House, socket: str, preload: str) -> None:
    path = house.root / "unicorn.sock"
    address: Address = house.port if socket == "tcp" else path
    listen = "" if socket == "tcp" else str(path)
    seen = {serve(house, listen=listen, more=f"preload_app {preload}", address=address)}
    with Load(address, fast=2, slow=1) as load:
        for number, release in enumerate(("v2", "v3"), start=2):
            rack_release(house, release, boot=0.5)
            load.wait_in_flight()
            house.reload()
            assert answers(address) == {release}
            pid = house.info()["pid"]
            assert pid not in seen
            seen.add(pid)
            assert unicorns(house, "master") == {pid}
            assert psutil.Process(pid).ppid() == house.pid
            assert house.reload_info()["generation"] == number
    assert load.dropped == []
    assert load.patient < 0.5
    assert (house.root / "unicorn.pid").read_text().strip() == str(house.info()["pid"])
    assert not (house.root / "unicorn.pid.oldbin").exists()
    assert "spawned:" not in house.log().split("entered RUNNING", 1)[1]
    assert house.ctl("stop", "myapp").stdout == "myapp: stopped\n"
    assert house.family() == []


@pytest.mark.parametrize("preload", ["false", "true"])
def test_a_broken_release_leaves_the_old_one_serving(house: House, preload: str) -> None:
    pid = serve(house, more=f"preload_app {preload}")
    before = unicorns(house, "worker")
    rack_release(house, "broken", code=BROKEN)
    with Load(house.port, fast=2, slow=0) as load:
        done = house.ctl("hotreload", "myapp")
        assert done.returncode != 0
        assert answers(house.port) == {"v1"}
    assert load.dropped == []
    expected = r"exited: .* \(LoadError\)\)" if preload == "true" else "end before they are ready"
    assert re.search(f"ERROR .*{expected}", done.stdout), done.stdout
    assert f"generation 1 (pid {pid}, 2 workers) serves" in done.stdout
    assert unicorns(house, "master") == {pid}
    assert unicorns(house, "worker") == before
    assert (house.root / "unicorn.pid").read_text().strip() == str(pid)
    rack_release(house, "v2")
    house.reload()
    assert answers(house.port) == {"v2"}


@pytest.mark.parametrize("preload", ["false", "true"])
def test_a_release_that_hangs_is_given_up(house: House, preload: str) -> None:
    pid = serve(house, settings="ready_timeout = 2", more=f"preload_app {preload}")
    rack_release(house, "hangs", boot=30)
    with Load(house.port, fast=2, slow=0) as load:
        done = house.ctl("hotreload", "myapp")
        assert done.returncode != 0
        assert "0/2 workers ready" in done.stdout
        assert answers(house.port) == {"v1"}
    assert load.dropped == []
    assert house.reload_info()["seconds"] < 15  # not as long as it hangs
    assert unicorns(house, "master") == {pid}


def test_a_successor_that_has_served_is_rolled_back(house: House) -> None:
    pid = serve(house, settings="bake = 60")
    rack_release(house, "v2")
    with Load(house.port, fast=2, slow=1) as load:
        client = house.client("hotreload", "myapp")
        house.wait_for_phase("baking")
        load.wait_for("v2")
        house.ctl("hotreload", "--cancel", "myapp")
        assert client.wait(60) != 0
        assert house.wait_for_outcome()["outcome"] == "rolled back"
        assert answers(house.port) == {"v1"}
    assert load.dropped == []
    assert unicorns(house, "master") == {pid}
    wait_until(lambda: (house.root / "unicorn.pid").exists())


def test_stop_in_the_middle_ends_both(house: House) -> None:
    serve(house, settings="bake = 60")
    rack_release(house, "v2")
    client = house.client("hotreload", "myapp")
    house.wait_for_phase("baking")
    assert len(unicorns(house, "master")) == 2
    assert house.ctl("stop", "myapp").stdout == "myapp: stopped\n"
    client.wait(30)
    wait_until(lambda: not house.family())


def test_a_hup_is_a_reload(house: House) -> None:
    pid = serve(house)
    rack_release(house, "v2")
    with Load(house.port, fast=2, slow=1) as load:
        house.ctl("signal", "HUP", "myapp")
        assert house.wait_for_outcome()["outcome"] == "succeeded"
        assert answers(house.port) == {"v2"}
    assert load.dropped == []
    assert house.info()["pid"] != pid


def test_workers_that_are_an_exec_of_their_own_are_no_successors(house: House) -> None:
    serve(house, more="worker_exec true\npid nil")  # with a pidfile unicorn 6.0 cannot
    for release in ("v2", "v3"):
        rack_release(house, release, boot=0.2)
        with Load(house.port, fast=2, slow=1) as load:
            worker = min(unicorns(house, "worker"))
            client = house.client("hotreload", "myapp")
            os.kill(worker, signal.SIGQUIT)  # the old master bears another one meanwhile
            printed, _ = client.communicate(timeout=60)
            assert client.returncode == 0, printed
            assert answers(house.port) == {release}
        assert load.dropped == []
    assert len(unicorns(house, "master")) == 1


def test_a_second_master_by_hand_is_refused(house: House) -> None:
    pid = serve(house)
    os.kill(pid, signal.SIGUSR2)
    wait_until(lambda: len(unicorns(house, "worker")) == 4)
    done = house.ctl("hotreload", "myapp")
    assert done.returncode != 0
    assert "has a successor already" in done.stdout
    assert len(unicorns(house, "master")) == 2


def test_a_second_master_by_hand_follows_the_first(house: House) -> None:
    pid = serve(house)
    os.kill(pid, signal.SIGUSR2)
    wait_until(lambda: len(unicorns(house, "worker")) == 4)
    os.kill(pid, signal.SIGQUIT)
    wait_until(lambda: house.info()["pid"] not in (0, pid), what=house.log)
    assert unicorns(house, "master") == {house.info()["pid"]}
    assert "and spawns nothing" in house.log()


def test_workers_of_a_killed_master_do_not_hold_the_port(house: House) -> None:
    pid = serve(house)
    before = unicorns(house, "worker")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(unicorns(house, "worker") - before) == 2, what=house.log)
    wait_until(lambda: not before & unicorns(house, "worker"))
    assert get(house.port).startswith(b"v1 ")


def test_what_a_killed_supervisord_has_left_is_adopted(house: House) -> None:
    pid = serve(house)
    house.wait_until_recorded(pid)
    os.kill(house.pid, signal.SIGKILL)
    house.wait_for_exit()
    (house.root / "supervisor.sock").unlink()
    house.start()
    assert house.info()["pid"] == pid
    rack_release(house, "v2")
    house.reload()
    assert answers(house.port) == {"v2"}
    assert house.ctl("stop", "myapp").stdout == "myapp: stopped\n"
