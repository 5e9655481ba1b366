"""puma in cluster mode: its workers are replaced, without dropping a request."""

from __future__ import annotations

import os
import signal

import pytest

from tests.harness.house import House
from tests.harness.load import Load, get, wait_for_answer
from tests.harness.otherservers import program, puma, rack_release, start, titled
from tests.harness.waiting import wait_until

BROKEN = 'require "no_such_library"\n'


def workers(house: House) -> set[int]:
    return titled(house, "puma: cluster worker")


def serve(house: House, settings: str = "", *arguments: str) -> int:
    """Start a puma and wait until both workers have loaded v1; return its pid."""
    rack_release(house, "v1")
    house.configure(command=puma(house, *arguments), settings=settings)
    start(house, house.port, 2)
    wait_until(lambda: house.app_log().count(" booted") == 2, what=house.app_log)
    return int(house.info()["pid"])


def answers(house: House) -> set[str]:
    return {get(house.port).split()[0].decode() for _ in range(6)}


@pytest.mark.parametrize("strategy", ["chain", "graceful"])
def test_it_is_reloaded_twice_under_load(house: House, strategy: str) -> None:
    pid = serve(house, f"strategy = {strategy}")
    with Load(house.port, fast=2, slow=1) as load:
        for number, release in enumerate(("v2", "v3"), start=2):
            before = workers(house)
            rack_release(house, release, boot=0.5)
            load.wait_in_flight()
            printed = house.reload().stdout
            assert f"strategy = {strategy}" in printed
            assert "2/2 workers ready" in printed
            assert answers(house) == {release}
            assert not before & workers(house)
            assert len(workers(house)) == 2
            assert house.info()["pid"] == pid
            assert house.reload_info()["generation"] == number
    assert load.dropped == []
    assert strategy == "graceful" or load.patient < 1.5
    assert house.ctl("stop", "myapp").stdout == "myapp: stopped\n"
    assert house.family() == []


def test_workers_are_replaced_one_by_one_unless_the_master_preloads(house: House) -> None:
    serve(house)
    rack_release(house, "v2")
    assert "strategy = chain" in house.reload().stdout
    house.configure(command=puma(house, "--preload"))
    house.ctl("update")
    assert wait_for_answer(house.port).startswith(b"v2 ")
    wait_until(lambda: len(workers(house)) == 2)
    house.wait_for("RUNNING")
    rack_release(house, "v3")
    assert "strategy = graceful" in house.reload().stdout
    assert answers(house) == {"v3"}


def test_a_broken_release_is_reported_and_one_old_worker_serves(house: House) -> None:
    pid = serve(house)
    rack_release(house, "broken", code=BROKEN)
    with Load(house.port, fast=2, slow=0) as load:
        done = house.ctl("hotreload", "myapp")
        assert done.returncode != 0
        assert "end before they are ready" in done.stdout, done.stdout
        assert answers(house) == {"v1"}
        rack_release(house, "v2")
        house.reload()
        wait_until(lambda: answers(house) == {"v2"}, what=house.log)
    assert load.dropped == []
    assert house.info()["pid"] == pid


def test_workers_that_load_the_application_are_not_ready(house: House) -> None:
    serve(house, "ready_timeout = 2")
    rack_release(house, "hangs", boot=30)
    done = house.ctl("hotreload", "myapp")
    assert done.returncode != 0
    assert "0/2 workers ready" in done.stdout
    assert answers(house) == {"v1"}


def test_a_puma_without_workers_is_refused(house: House) -> None:
    rack_release(house, "v1")
    binary = program("puma", "apt-get install puma")
    house.configure(command=f"{binary} -w 0 -b tcp://127.0.0.1:{house.port} config.ru")
    start(house, house.port, 0)
    done = house.ctl("hotreload", "myapp")
    assert done.returncode != 0
    assert "has no puma workers yet" in done.stdout, done.stdout
    assert get(house.port).startswith(b"v1 ")


def test_workers_of_a_killed_master_do_not_hold_the_port(house: House) -> None:
    pid = serve(house)
    before = workers(house)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(workers(house) - before) == 2, what=house.log)
    wait_until(lambda: not before & workers(house))
    assert get(house.port).startswith(b"v1 ")
