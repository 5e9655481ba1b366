"""When the event listener reloads: limits, failures, crashes, odd paths.

One supervisord has a program, and a file to touch, for each test.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness.house import House
from tests.harness.listening import Listening, answers
from tests.harness.load import get

pytestmark = pytest.mark.xdist_group("plans")  # one supervisord has them all

BROKEN = "raise RuntimeError('this release is broken')\n"

PROGRAMS = {
    "limited": "min_interval = 1.5",
    "twice": "",
    "failing": "min_interval = 1\nnotify = {root}/notify",
    "cancelled": "",
    "stopped": "",
    "killed": "",
    "missed": "after = deploy",
    "corrupt": "",
    "odd": "touch = {root}/fifo, {root}/folder/touch\nwatch = {root}/loop, {root}/folder",
    "notified": "notify = /bin/sh -c 'echo $$ > {root}/pid; exec sleep 100'",
}

ONE_SHOTS = """
[program:deploy]
command = /bin/true
startsecs = 0
autostart = false
autorestart = false
[program:noise]
command = /bin/true
numprocs = 10
process_name = %(process_num)s
startsecs = 0
autostart = false
autorestart = false
"""


class App:
    """One program, and the file that reloads it."""

    def __init__(self, listening: Listening, name: str) -> None:
        self.listening = listening
        self.name = name
        self.path = listening.house.root / name

    @property
    def reloads(self) -> int:
        return self.listening.reloads(self.name)

    @property
    def info(self) -> Any:
        return self.listening.info(self.name)

    def is_quiet(self) -> bool:
        """Tell whether the listener has seen the file as it is, and no reload is to come."""
        saved = self.listening.state()["programs"][self.name]
        if self.path.exists():
            now = self.path.stat()
            if saved["stamps"].get(f"touch {self.path}") != [now.st_mtime_ns, now.st_ino]:
                return False
        return saved["due"] is saved["attempt"] is None and not self.info["active"]

    def release(self) -> bytes:
        return get(self.path.with_suffix(".sock")).split()[0]


@pytest.fixture(scope="module")
def listening() -> Iterator[Listening]:
    root = pathlib.Path(tempfile.mkdtemp(prefix="hr-"))
    root.chmod(0o755)
    made = Listening(House(root))
    os.mkfifo(root / "fifo")
    (root / "loop").symlink_to(root / "loop")
    (root / "folder").mkdir()
    (root / "folder" / "touch").touch()
    notify = root / "notify"
    notify.write_text(
        f"#!/bin/sh\ncat >> {root}/outcomes.json; echo >> {root}/outcomes.json; echo printed\n"
    )
    notify.chmod(0o755)
    sections = [made.section(), ONE_SHOTS]
    for name, settings in PROGRAMS.items():
        touch = "" if "touch" in settings else f"touch = {root}/{name}\n"
        sections.append(made.app(name, touch + settings.format(root=root)))
    made.house.configure("--workers 1", more="\n".join(sections))
    try:
        made.start()
        for name in PROGRAMS:
            made.until(lambda n=name: answers(root / f"{n}.sock"))
        yield made
    finally:
        made.house.end()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def app(listening: Listening, request: pytest.FixtureRequest) -> Iterator[App]:
    """The program that the test is named after: its second word."""
    app = App(listening, request.node.name.split("_")[1])
    with listening.from_now_on():
        yield app
    listening.house.release("v1")
    listening.until(app.is_quiet, 30)  # the next test counts the reloads of all programs


def stop_listener(listening: Listening) -> None:
    listening.house.rpc().supervisor.stopProcess("hotreload:hotreload")


def start_listener(listening: Listening) -> None:
    listening.house.rpc().supervisor.startProcess("hotreload:hotreload")


# -- limits


def test_limited_by_min_interval(app: App) -> None:
    deadline = time.monotonic() + 4
    while time.monotonic() < deadline:
        app.path.touch()
        time.sleep(0.05)
    assert 1 <= app.reloads <= 3, app.listening.story()


def test_twice_when_a_trigger_comes_during_a_reload(app: App) -> None:
    app.listening.house.release("v2", boot=3.0)
    app.path.touch()
    app.listening.until(lambda: app.reloads == 1)
    for when in (1, 2):
        os.utime(app.path, (when, when))
        time.sleep(1.1)
    assert app.info["active"], app.listening.story()
    app.listening.house.release("v3")
    app.listening.succeeded("twice", 2)
    assert app.release() == b"v3"
    time.sleep(1.5)
    assert app.reloads == 2


# -- failures


def test_failing_backs_off_and_a_change_tries_again(app: App) -> None:
    listening, house = app.listening, app.listening.house
    house.release("v2", code=BROKEN)
    app.path.touch()
    listening.until(lambda: app.reloads >= 3, 30)  # at 0, 1 and 3 s
    begun = [
        float(line.split()[1].replace(",", ".").rpartition(":")[2])
        for line in house.log().splitlines()
        if "hotreload: failing: spawning:" in line
    ]
    pauses = [(b - a) % 60 for a, b in zip(begun, begun[1:])]
    assert pauses[0] > 0.8 and pauses[1] > 1.5, pauses  # the reloads themselves take time, too
    assert listening.log().count("failing: reload failed") == 1, listening.log()  # once a reason
    listening.until(lambda: app.info["next_attempt"] > 0)
    assert app.info["trigger"].endswith(f"touch = {app.path}")
    assert "exited" in app.info["trigger_failure"]

    def outcomes() -> list[Any]:
        lines = (house.root / "outcomes.json").read_text().splitlines()
        return [json.loads(line) for line in lines]

    first = outcomes()[0]
    assert (first["name"], first["outcome"]) == ("failing", "failed")
    assert first["trigger"] == f"touch = {app.path}"
    assert first["next_attempt"] > 0
    assert any("this release is broken" in line for line in first["output"])
    listening.until(lambda: not app.info["active"])
    attempts = app.reloads
    house.release("v3")
    began = time.monotonic()
    os.utime(app.path, (7, 7))
    listening.until(lambda: app.reloads == attempts + 1)
    assert time.monotonic() - began < 2.5  # not the 4 or 8 s of the backoff
    listening.until(lambda: outcomes()[-1]["outcome"] == "succeeded")
    assert app.info["trigger_failure"] == ""
    assert app.release() == b"v3"
    assert "printed" in listening.log()


def test_cancelled_reloads_are_not_tried_again(app: App) -> None:
    app.listening.house.release("v2", boot=20.0)
    app.path.touch()
    app.listening.until(lambda: app.info["phase"] == "booting")
    app.listening.house.rpc().hotreload.cancelReload("cancelled")
    app.listening.wait_for_log("cancelled: reload ended: ")
    time.sleep(2.5)
    assert app.reloads == 1, app.listening.story()


def test_stopped_programs_are_left_alone(app: App) -> None:
    supervisor = app.listening.house.rpc().supervisor
    supervisor.stopProcess("stopped")
    app.path.touch()
    app.listening.wait_for_log("no reload: the program is STOPPED")
    supervisor.startProcess("stopped")
    time.sleep(1.5)
    assert app.reloads == 0


# -- crashes


def test_killed_in_the_middle_of_a_reload(app: App) -> None:
    listening = app.listening
    listening.house.release("v2", boot=2.5)
    app.path.touch()
    listening.until(lambda: app.reloads == 1)
    first = listening.pid
    listening.kill()
    listening.until(lambda: listening.pid not in (0, first))
    listening.succeeded("killed", 1)
    listening.wait_for_log("killed: reload succeeded")  # by the one that follows
    assert app.release() == b"v2"
    time.sleep(1.5)
    assert app.reloads == 1, listening.story()


def test_missed_touches_and_exits_are_seen(app: App) -> None:
    listening, supervisor = app.listening, app.listening.house.rpc().supervisor
    stop_listener(listening)
    before = len(listening.house.log())
    app.path.touch()
    start_listener(listening)
    listening.succeeded("missed", 1)
    stop_listener(listening)
    supervisor.startProcess("deploy")
    supervisor.startProcessGroup("noise")
    start_listener(listening)
    listening.succeeded("missed", 2)
    begun = re.findall(r"hotreload: (\w+): spawning:", listening.house.log()[before:])
    assert begun == ["missed", "missed"], listening.story()  # and nothing else


def test_corrupt_state_is_begun_anew(app: App) -> None:
    listening = app.listening
    stop_listener(listening)
    saved = listening.state()
    saved["programs"]["corrupt"]["due"] = {"cause": 5, "first": "NaN", "last": [], "settle": 1}
    listening.path.write_text(json.dumps(saved))
    start_listener(listening)
    listening.wait_for_log("corrupt: the state file makes no sense and is ignored")
    time.sleep(1.2)
    assert app.reloads == 0
    app.path.touch()
    listening.succeeded("corrupt", 1)


def test_notified_commands_end_with_the_listener(app: App) -> None:
    pid = app.listening.house.root / "pid"
    app.listening.house.reload("notified")  # by hand: its notify command runs as well
    app.listening.until(lambda: pid.exists() and pid.read_text().strip())
    stop_listener(app.listening)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), signal.SIGCONT)
    start_listener(app.listening)


# -- hostile input


def test_odd_paths_are_logged_once_and_watched_again(app: App) -> None:
    listening, root = app.listening, app.listening.house.root
    fifo, loop, folder = root / "fifo", root / "loop", root / "folder"
    stop_listener(listening)
    seen = len(listening.log())
    start_listener(listening)
    first = listening.pid
    (folder / "touch").unlink()
    folder.rmdir()
    listening.wait_for_log(f"watch {folder}: there is nothing")
    time.sleep(2.2)
    for line in (
        f"touch {fifo}: it is a fifo, not a file",
        f"watch {loop}: too many levels of symbolic links",
        f"touch {folder}/touch: its directory does not exist",
        f"watch {folder}: there is nothing",
    ):
        assert listening.log()[seen:].count(line) == 1, listening.log()
    assert app.reloads == 0
    folder.mkdir()
    listening.succeeded("odd", 1)
    listening.wait_for_log(f"watch {folder}: it is all right now")
    loop.unlink()
    loop.symlink_to(folder)
    listening.wait_for_log(f"watch {loop}: it is all right now")
    fifo.unlink()
    fifo.touch()
    listening.wait_for_log(f"touch {fifo}: it is all right now")
    assert listening.pid == first
