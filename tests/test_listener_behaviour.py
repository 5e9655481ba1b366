"""How the event listener behaves as a whole: bursts, restarts, events, its cost."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
import time
from typing import Any

import pytest

from tests.harness.house import House
from tests.harness.listening import EVENTS, LISTENER, QUICK, Listening, answers
from tests.harness.timing import calculation

BROKEN = "raise RuntimeError('this release is broken')\n"

RECORDER = """\
import sys
from supervisor import childutils
with open(sys.argv[1], "a") as out:
    while True:
        headers, payload = childutils.listener.wait()
        tokens = childutils.get_headers(payload)
        out.write(headers["eventname"] + " " + repr(tokens) + "\\n")
        out.flush()
        childutils.listener.ok()
"""


@pytest.fixture
def listening(house: House) -> Listening:
    return Listening(house)


def begin(listening: Listening, settings: str = "", more: str = "", **options: str) -> pathlib.Path:
    """Start myapp with ``touch``; return what is to be touched."""
    path = listening.house.root / "touch"
    listening.house.configure(
        "--workers 1",
        settings=f"{QUICK}touch = {path}\n{settings}",
        more=listening.section(**options) + more,
    )
    listening.start()
    listening.until(lambda: answers(listening.house.port))  # then it knows its directory
    return path


# -- bursts


def test_a_burst_of_a_thousand_events_makes_one_reload(listening: Listening) -> None:
    house = listening.house
    (house.root / "recorder.py").write_text(RECORDER)
    recorder = (
        f"[eventlistener:recorder]\ncommand = {sys.executable} %(here)s/recorder.py %(here)s/seen\n"
        "events = PROCESS_STATE\nbuffer_size = 100000\n"
    )
    settings = "settle = 1\nmin_interval = 0.1\non = PROCESS_STATE:groupname=burst\n"
    house.configure("--workers 1", settings=settings, more=listening.section() + recorder)
    listening.start()
    before = listening.process().cpu_times()
    with open(house.root / "supervisord.conf", "a") as file:
        # each is STARTING, BACKOFF and FATAL at once
        file.write(
            "[program:burst]\ncommand = /nowhere\nprocess_name = %(process_num)s\nnumprocs = 350\n"
            "startretries = 0\n"
        )
    rpc = house.rpc()
    assert rpc.supervisor.reloadConfig() == [[["burst"], [], []]]  # the room is no change
    rpc.supervisor.addProcessGroup("burst")
    listening.until(lambda: house.log().count("FATAL state") == 350)
    listening.succeeded("myapp", 1)

    def recorded() -> int:
        return (house.root / "seen").read_text().count("'burst'")

    listening.until(lambda: recorded() == 1050)
    after = listening.process().cpu_times()
    stamps = [line.split()[1] for line in house.log().splitlines() if "FATAL state" in line]
    print(
        f"1050 events, the FATAL ones from {stamps[0]} to {stamps[-1]}, the listener took "
        f"{after.user + after.system - before.user - before.system:.2f} s of a core"
    )
    assert "overflowed" not in house.log()
    assert "discarded" not in listening.log()
    time.sleep(1.5)
    assert listening.reloads() == 1, listening.story()


def test_a_group_is_reloaded_one_after_the_other(listening: Listening) -> None:
    house = listening.house
    root = house.root
    command = house.gunicorn("--workers 1", bind="unix:%(here)s/%(process_num)s.sock")
    more = (
        f"[program:pair]\ncommand = {command}\ndirectory = %(here)s/current\nnumprocs = 2\n"
        f"process_name = %(process_num)s\n"
        f"[hotreload:pair]\n{QUICK}touch = {root}/pair\n"
    )
    begin(listening, more=more)
    listening.until(lambda: all(answers(root / f"{n}.sock") for n in (0, 1)))
    house.release("v2", code=BROKEN)
    (root / "pair").touch()
    listening.wait_for_log("pair:0: reload failed")
    assert listening.reloads("pair:1") == 0  # it would meet the same release
    house.release("v3")
    for name in ("pair:0", "pair:1"):
        listening.wait_for_reload(name, 1)
        listening.until(lambda n=name: listening.info(n)["outcome"] == "succeeded")


# -- restarts


def test_supervisord_restarts_without_reloads(listening: Listening) -> None:
    house = listening.house
    path = begin(listening)
    path.touch()
    listening.succeeded("myapp", 1)
    house.rpc().supervisor.restart()
    listening.until(lambda: house.log().count("hotreload entered RUNNING") == 2, 30)
    listening.wait_for_listener()
    house.wait_for("RUNNING")
    time.sleep(1.5)
    house.stop()
    os.utime(path, (9, 9))  # what starts now has seen it already
    time.sleep(0.2)
    house.start()
    listening.wait_for_listener()
    listening.wait_for_log("no reload: it changed before the running generation began")
    assert listening.reloads() == 1, listening.story()
    path.touch()
    listening.succeeded("myapp", 2)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"version": 1, "programs": {"myapp": {"stamps": [1]}}}', "\0" * 2000000]
)
def test_a_corrupt_state_file_is_a_hint(tmp_path: pathlib.Path, content: str) -> None:
    from supervisor_hotreload.listener.state import StateFile
    from supervisor_hotreload.listener.watched_program import WatchedProgram

    said: list[str] = []
    path = tmp_path / "state.json"
    path.write_text(content)
    found = StateFile(str(path), said.append).read()
    if found:
        with pytest.raises((AttributeError, KeyError)):
            WatchedProgram("myapp").restore(found["programs"]["myapp"], 1.0, True, True)
    else:
        assert said
        assert "is damaged and is ignored" in said[0]


def test_the_state_is_kept_where_only_its_user_can_write(tmp_path: pathlib.Path) -> None:
    from supervisor_hotreload.listener.state import StateFile

    said: list[str] = []
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    state = StateFile(str(shared / "state.json"), said.append)
    assert state.read() == {}
    state.write({"programs": {}})
    own = shared / f"hotreload-{os.geteuid()}"
    assert own.stat().st_mode & 0o777 == 0o700
    assert StateFile(str(shared / "state.json"), said.append).read() == {
        "version": 1,
        "programs": {},
    }
    assert said == []
    (own / "state.json").unlink()
    own.rmdir()
    own.symlink_to(tmp_path)
    StateFile(str(shared / "state.json"), said.append).write({})
    assert "can be changed by others" in said[0]
    shared.chmod(0o777)  # not sticky: others could replace what is in it
    StateFile(str(shared / "state.json"), said.append).write({})
    assert len(said) == 2


# -- settings


def test_bad_settings_are_reported_and_edits_are_seen(listening: Listening) -> None:
    house = listening.house
    path = begin(listening, "every = soon\non = NO_SUCH_EVENT, TICK_60\nafter = nobody\n")
    path.touch()  # what is wrong does not stop what is right
    listening.succeeded("myapp", 1)
    log = listening.log()
    assert "[hotreload:myapp] every = soon: not a number" in log
    assert "on = NO_SUCH_EVENT: supervisor has no such event" in log
    assert "TICK_60 is missing in 'events' of [eventlistener:hotreload]" in log
    assert "after = nobody: no such program" in log
    other = house.root / "other"
    house.settings(f"{QUICK}touch = {other}")
    listening.until(lambda: f"touch {other}" in str(listening.state()))
    path.touch()
    other.touch()
    listening.succeeded("myapp", 2)
    assert f"reload started: touch = {other}" in listening.log()


# -- the events of reloads


def test_every_reload_is_an_event(listening: Listening) -> None:
    house = listening.house
    (house.root / "recorder.py").write_text(RECORDER)
    recorder = (
        f"[eventlistener:recorder]\ncommand = {sys.executable} %(here)s/recorder.py %(here)s/seen\n"
        f"events = PROCESS_HOTRELOAD\n"
        f"[program:other]\ncommand = sleep 1000\n"
        f"[hotreload:other]\ntouch = {house.root}/other\n"
        f"notify = /bin/sh -c 'cat > {house.root}/refused'\n"
    )
    begin(
        listening,
        f"on = PROCESS_HOTRELOAD_SUCCEEDED\nnotify = /bin/sh -c 'cat > {house.root}/outcome'\n",
        recorder,
        events=f"{EVENTS},PROCESS_HOTRELOAD",
    )
    house.reload()
    house.release("v2", code=BROKEN)
    assert house.ctl("hotreload", "myapp").returncode != 0
    house.release("v3", boot=20)
    house.rpc().hotreload.reloadProcess("myapp", False)
    listening.until(lambda: listening.info()["phase"] == "booting")
    house.rpc().hotreload.cancelReload("myapp")

    def seen() -> list[list[Any]]:
        lines = (house.root / "seen").read_text().splitlines()
        return [[line.split(" ", 1)[0], eval(line.split(" ", 1)[1])] for line in lines]

    listening.until(lambda: len(seen()) == 6)
    assert [name.replace("PROCESS_HOTRELOAD_", "") for name, _ in seen()] == [
        "STARTED",
        "SUCCEEDED",
        "STARTED",
        "FAILED",
        "STARTED",
        "ROLLED_BACK",
    ]
    _, tokens = seen()[1]
    assert tokens["processname"] == tokens["groupname"] == "myapp"
    assert tokens["new_pid"] == str(house.info()["pid"])
    assert (tokens["outcome"], tokens["generation"]) == ("SUCCEEDED", "2")
    assert seen()[3][1]["fault"] == "SUCCESSOR_EXITED"
    # reloads by hand are reported as well, and are no trigger of their own
    outcome = house.root / "outcome"
    listening.until(lambda: outcome.exists() and '"rolled back"' in outcome.read_text())
    (house.root / "other").touch()
    refused = house.root / "refused"
    listening.until(lambda: refused.exists() and "is no server with workers" in refused.read_text())
    assert listening.reloads() == 3


# -- the command


def test_by_hand_it_says_what_it_is() -> None:
    environment = {key: value for key, value in os.environ.items() if "SUPERVISOR" not in key}
    done = subprocess.run([LISTENER], env=environment, capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert "is an event listener" in done.stderr
    assert done.stdout == ""
    done = subprocess.run([LISTENER, "--help"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0
    for key in ("touch", "watch", "after", "on", "max_memory", "every", "notify"):
        assert re.search(rf"^{key} = ", done.stdout, re.MULTILINE), key
    for wrong in ("--what", "what", "--state"):
        done = subprocess.run([LISTENER, wrong], capture_output=True, text=True, timeout=20)
        assert done.returncode == 2
        usage, reason = done.stderr.splitlines()
        assert usage == "usage: hotreload-listener [-s PATH] [-h]"
        assert wrong.strip("-") in reason


def test_without_the_plugin_it_says_so(house: House) -> None:
    listening = Listening(house)
    house.configure("--workers 1", more=listening.section(more="startretries = 0\nstartsecs = 60"))
    path = house.root / "supervisord.conf"
    text = path.read_text()
    plugin = text[text.index("[rpcinterface:hotreload]") : text.index("[ctlplugin:hotreload]")]
    path.write_text(text.replace(plugin, ""))
    house.start()
    listening.wait_for_log("supervisord has not loaded hotreload")
    house.wait_for("FATAL", "hotreload:hotreload")


def test_request_reload_outside_supervisord() -> None:
    code = (
        "import sys, supervisor_hotreload\n"
        "try:\n"
        "    supervisor_hotreload.request_reload()\n"
        "except RuntimeError as error:\n"
        "    print(error)\n"
        "assert 'supervisor' not in sys.modules and 'psutil' not in sys.modules\n"
    )
    environment = {key: value for key, value in os.environ.items() if "SUPERVISOR" not in key}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=20
    )
    assert "was not started by supervisord" in done.stdout, done.stderr


# -- the protocol


def test_events_are_cut_at_characters_not_bytes() -> None:
    from supervisor_hotreload.listener.events import ProtocolError, Stream

    payload = "processname:a groupname:b pid:1\nhotreload \u20ac\U0001f600\n"
    text = "".join(
        f"ver:3.0 server:s serial:{n} pool:h poolserial:{n} eventname:PROCESS_COMMUNICATION_STDOUT "
        f"len:{len(payload)}\n{payload}"
        for n in range(3)
    )
    for size in (1, 2, 7, 1000):
        stream, found = Stream(), []
        data = text.encode()
        for start in range(0, len(data), size):
            stream.feed(data[start : start + size])
            event = stream.next()
            while event is not None:
                found.append(event)
                event = stream.next()
        assert [event.headers["serial"] for event in found] == ["0", "1", "2"]
        assert {event.data for event in found} == {"hotreload \u20ac\U0001f600\n"}
        assert found[0].is_a("PROCESS_COMMUNICATION")
        assert not found[0].is_a("PROCESS_COMM")
        assert found[0].has("groupname", "b")
    stream = Stream()
    stream.feed(b"rubbish\n")
    with pytest.raises(ProtocolError):
        stream.next()


def test_an_event_that_cannot_be_taken_is_sent_again_once() -> None:
    from supervisor_hotreload.listener import events
    from supervisor_hotreload.listener.loop import Listener
    from supervisor_hotreload.listener.rpcclient import RpcClient

    given, taken = os.pipe()
    answers, answer = os.pipe()
    listener = Listener(RpcClient("unix:///nowhere"), stdin=given, stdout=answer)

    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    listener._inbox.take = fail  # type: ignore[method-assign]
    envelope = b"ver:3.0 serial:7 poolserial:1 eventname:TICK_5 len:6\nwhen:1"
    try:
        for expected in (events.FAIL, events.OK):
            os.write(taken, envelope)
            assert listener._read()
            assert os.read(answers, 100) == expected + events.READY
        os.close(taken)
        assert not listener._read()
    finally:
        for descriptor in (given, answers, answer):
            os.close(descriptor)


# -- what it costs


@pytest.mark.long
def test_it_costs_next_to_nothing(listening: Listening) -> None:
    house = listening.house
    root = house.root
    watched = "".join(
        f"[program:p{n}]\ncommand = sleep 1000\n"
        f"[hotreload:p{n}]\ntouch = {root}/t{n}\nwatch = {root}/current\nevery = 24h\n"
        for n in range(50)
    )
    begin(listening, more=watched)
    listening.until(lambda: len(listening.state()["programs"]) == 51)

    def used() -> float:
        """Return the seconds of a core that the listener has used."""
        spent = pathlib.Path(f"/proc/{listening.pid}/schedstat").read_text().split()[0]
        return int(spent) / 1e9

    ratios: list[float] = []
    while len(ratios) < 12 and min(ratios, default=3.0) > 2:  # it may still be busy at first
        before = used()
        time.sleep(3)  # the length of the measurement
        ratios.append((used() - before) / calculation())
    resident = listening.process().memory_info().rss / (1 << 20)
    print(f"idle for 3 s: {min(ratios):.2f} calculations, {resident:.1f} MiB")
    assert min(ratios) <= 2, ratios
    assert resident <= 30
