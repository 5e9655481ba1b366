"""What is said of a reload: each line once, the truth about refusals, members and cancels."""

from __future__ import annotations

import types
import xmlrpc.client
from typing import Any

import pytest

from supervisor_hotreload.core.model import Fault
from supervisor_hotreload.core.reload import LINES, Reload
from supervisor_hotreload.plugin.capture import capture
from tests.harness.house import House
from tests.harness.load import Load, get
from tests.harness.sabotage import saboteur
from tests.harness.sites import a_group


def test_who_follows_gets_each_line_once(house: House) -> None:
    house.configure()
    house.start()
    chatty = "import sys\nfor n in range(300):\n    print('noise' * 20, n, file=sys.stderr)\n"
    house.release("v2", code=f"{chatty}import time\ntime.sleep(2)\nimport no_such_module\n")
    hotreload = house.rpc().hotreload
    hotreload.reloadProcess("myapp", False)
    number = hotreload.getReloadInfo("myapp")["number"]
    lines: list[Any] = []
    handed_out = looks = since = 0
    while True:
        info = hotreload.getReloadInfo("myapp", number, since)
        since = info["since"]
        lines += info["log"]
        looks += 1
        if not info["active"]:
            break
        handed_out += sum(len(line["text"]) for line in info["log"])
        assert looks == 1 or info["output"] == []
    whole = hotreload.getReloadInfo("myapp", number)
    assert lines == whole["log"] == hotreload.getReloadInfo("myapp")["log"]
    assert info["output"] == whole["output"]
    assert len(whole["output"]) == 200
    assert looks > 20
    assert handed_out < 2000
    assert hotreload.getReloadInfo("myapp", number, since)["log"] == []
    assert hotreload.getReloadInfo("myapp", number, 10**6)["log"] == []


def test_the_lines_of_a_reload_are_bounded() -> None:
    reload = Reload("myapp", lambda: 0.0, lambda _: None)
    for number in range(3 * LINES):
        reload.say(f"line {number}{'.' * 100_000}")
    assert len(reload.lines) == LINES
    assert reload.lines.written == 3 * LINES
    assert max(len(line.text) for line in reload.lines) < 5000
    assert [line.text.strip(".") for line in reload.lines.since(3 * LINES - 2)] == [
        f"line {3 * LINES - 2}",
        f"line {3 * LINES - 1}",
    ]
    assert reload.lines.since(3 * LINES) == []
    assert len(reload.lines.since(0)) == len(reload.lines.since(-5)) == LINES


@pytest.mark.parametrize("by", ["supervisorctl", "RPC"])
def test_a_drain_that_takes_long_does_not_hold_up_the_others(house: House, by: str) -> None:
    ports = a_group(house, saboteur(patience="4"))
    with Load(ports[0], fast=0, slow=1, slow_path="/slow8") as load:
        load.wait_in_flight()
        house.release("v2")
        if by == "RPC":
            rows = house.rpc().hotreload.reloadProcessGroup("web")
            assert [row["status"] for row in rows] == [80, 80]
            assert rows[0]["description"].startswith("still draining: ")
            assert rows[1]["description"] == "OK"
        else:
            done = house.ctl("hotreload", "all")
            assert done.returncode == 0, done.stdout
            assert "web:web0: still draining: generation 2 (pid " in done.stdout
            assert "web:web1: generation 2 (pid " in done.stdout
        info = house.reload_info("web:web0")
        assert (info["phase"], info["drains_on"]) == ("draining", True)
        assert get(ports[1]).startswith(b"v2 ")
        if by == "RPC":  # a second batch is refused by the reload that still goes on
            with pytest.raises(xmlrpc.client.Fault, match="another reload is active"):
                house.rpc().hotreload.reloadProcessGroup("web")
    assert house.wait_for_outcome("web:web0")["outcome"] == "succeeded"
    assert load.dropped == []


def test_stopped_members_are_said_to_be_skipped(house: House) -> None:
    ports = a_group(house)
    house.ctl("stop", "web:web0")
    house.release("v2")
    done = house.ctl("hotreload", "web:*")
    assert done.returncode == 0, done.stdout
    assert "web:web0: skipped (STOPPED)\n" in done.stdout
    assert get(ports[1]).startswith(b"v2 ")
    rows = house.rpc().hotreload.reloadAllProcesses()
    assert [(row["name"], row["status"], row["description"]) for row in rows] == [
        ("web1", 80, "OK"),
        ("web0", 80, "skipped (STOPPED)"),
    ]
    house.ctl("stop", "web:web1")
    done = house.ctl("hotreload", "web:*")
    assert done.returncode == 1
    assert "no program of it runs" in done.stdout


def test_a_refusal_hides_no_reload(house: House) -> None:
    house.configure()
    house.start()
    house.reload()
    before = house.reload_info()
    house.ctl("stop", "myapp")
    done = house.ctl("hotreload", "myapp")
    assert done.returncode == 7
    assert "myapp is STOPPED, not RUNNING" in done.stdout
    after = house.reload_info()
    assert (after["number"], after["outcome"]) == (before["number"], "succeeded")
    assert "not running, last reload succeeded in" in house.ctl("hotreload", "--status").stdout
    refused = house.rpc().hotreload.getReloadInfo("myapp", before["number"] + 1)
    assert (before["refused"], refused["refused"]) == (False, True)
    assert (refused["outcome"], refused["fault"]) == ("failed", Fault.NOT_RUNNING)


def test_a_cancel_that_comes_too_late_is_refused(house: House) -> None:
    ports = a_group(house)
    done = house.ctl("hotreload", "--cancel", "web:*")
    assert "web:*: ERROR (no reload is active)" in done.stdout
    with Load(ports[0], fast=0, slow=1, slow_path="/slow3") as load:
        load.wait_in_flight()
        house.rpc().hotreload.reloadProcess("web:web0", False)
        house.wait_for_phase("draining", "web:web0")
        for name in ("all", "web:*", "web:web0"):
            done = house.ctl("hotreload", "--cancel", name)
            assert done.returncode == 1
            assert "too late to cancel, the reload is draining" in done.stdout
    house.wait_for_outcome("web:web0")
    for name in ("all", "web:*", "web:web0"):
        done = house.ctl("hotreload", "--cancel", name)
        assert done.returncode == 1
        assert "no reload is active, the last one has succeeded" in done.stdout, done.stdout
        assert "generation 2 (pid " in done.stdout


def test_a_section_for_no_program_is_named_where_one_looks(house: House) -> None:
    house.configure(more="[hotreload:mayapp]\nbake = 5\n[hotreload:zzz]\nbake = 5\n")
    house.start()
    first, *rest = house.ctl("hotreload", "--status").stdout.splitlines()
    assert "never reloaded" in first
    assert rest == [
        "warning: [hotreload:mayapp] has no effect: no program has this name (there are: myapp)",
        "warning: [hotreload:zzz] has no effect: no program has this name (there are: myapp)",
    ]
    warnings = [
        line for line in house.reload().stdout.splitlines() if "no program has this name" in line
    ]
    assert len(warnings) == 1
    assert "[hotreload:mayapp]" in warnings[0]
    assert warnings[0].endswith("is it meant for myapp?")


class Dispatcher:
    def __init__(self) -> None:
        self.logged: list[str] = []

    def _log(self, data: str) -> None:
        self.logged.append(data)


def wrap(dispatcher: Any, seen: list[str]) -> None:
    """Listen in as a neighbour does."""
    log = dispatcher._log

    def wrapped(data: str) -> None:
        seen.append(data)
        log(data)

    dispatcher._log = wrapped


@pytest.mark.parametrize("when", ["before", "after", "both", "never"])
def test_the_end_of_a_capture_leaves_a_neighbours_patch(when: str) -> None:
    dispatcher, theirs, ours = Dispatcher(), list[str](), list[str]()
    process = types.SimpleNamespace(dispatchers={5: dispatcher, 6: object()})
    if when in ("before", "both"):
        wrap(dispatcher, theirs)
    for number in range(3):
        end = capture(process, ours.append)
        if when in ("after", "both") and number == 0:
            wrap(dispatcher, theirs)
        dispatcher._log(f"during {number}\n")
        end()
        end()
        dispatcher._log(f"since {number}\n")
    assert ours == ["during 0", "during 1", "during 2"]
    assert len(dispatcher.logged) == 6
    assert len(theirs) == 6 * {"never": 0, "before": 1, "after": 1, "both": 2}[when]
    assert ("_log" in vars(dispatcher)) is (when != "never")
