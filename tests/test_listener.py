"""What reloads a program unattended: each trigger on a real supervisord and gunicorn."""

from __future__ import annotations

import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator

import pytest

from tests.harness.house import House
from tests.harness.listening import Listening
from tests.harness.load import get

pytestmark = pytest.mark.xdist_group("listener")  # one supervisord has them all

ASKING = """\
import os
from supervisor_hotreload import request_reload
def app(environ, start_response):
    path = environ["PATH_INFO"][1:]
    body = b"v"
    if path.startswith("ask"):
        try:
            body = request_reload(path[4:]).encode()
        except RuntimeError as error:
            body = str(error).encode()
    import sys
    if "supervisor" in sys.modules:
        body = b"supervisor was imported"
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.fixture(scope="module")
def everything() -> Iterator[Listening]:
    """One supervisord with a program for each trigger."""
    root = pathlib.Path(tempfile.mkdtemp(prefix="hr-"))
    root.chmod(0o755)
    house = House(root)
    listening = Listening(house)
    house.release("asking", code=ASKING)
    (root / "v1").mkdir()
    (root / "link").symlink_to("v1")
    capture = "stdout_capture_maxbytes = 1KB"
    python = sys.executable
    sections = [
        listening.section(),
        listening.app("touched", f"touch = {root}/touch"),
        listening.app("watched", f"watch = {root}/link"),
        listening.app("waiting", "after = deploy"),
        listening.app("follower", "on = PROCESS_STATE_EXITED:processname=other expected=0"),
        listening.app("fat", "max_memory = 1MB\nmin_interval = 1h"),
        listening.app("old", "every = 6s\nmin_interval = 1h"),
        listening.app("asking", "", capture),
        listening.app("other_asking", "allow_requests_from = asking", capture),
        listening.app("deaf", ""),
        listening.app("remote", ""),
        listening.app("hup", ""),
    ]
    sections += [
        f'[program:{name}]\ncommand = {python} -c "raise SystemExit({status})"\n'
        f"startsecs = 0\nautostart = false\nautorestart = false\n"
        for name, status in (("deploy", 0), ("broken", 1), ("other", 3))
    ]
    house.configure(
        "--workers 1", more="\n".join(sections), defaults="reload_on_sighup = hup, nobody"
    )
    try:
        house.start("hup")
        listening.wait_for_listener()
        yield listening
    finally:
        listening.house.end()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def many(everything: Listening) -> Iterator[Listening]:
    """The same, counting only the reloads of one test, which may be tried a second time."""
    with everything.from_now_on():
        yield everything


def test_touch(many: Listening) -> None:
    path = many.house.root / "touch"
    path.touch()
    many.succeeded("touched", 1)
    os.utime(path, (1, 1))  # any change of the time counts, also back
    many.succeeded("touched", 2)
    assert f"touched: reload started: touch = {path}" in many.log()
    path.unlink()
    path.touch()
    many.succeeded("touched", 3)


def test_watch(many: Listening) -> None:
    root = many.house.root
    (root / "v2").mkdir()
    (root / "next").symlink_to("v2")
    (root / "next").replace(root / "link")
    many.succeeded("watched", 1)
    (root / "v2").rename(root / "old")  # another directory behind the same link
    (root / "v2").mkdir()
    many.succeeded("watched", 2)


def test_after(many: Listening) -> None:
    many.house.rpc().supervisor.startProcess("deploy")
    many.succeeded("waiting", 1)
    assert "waiting: reload started: after = deploy" in many.log()


def test_on(many: Listening) -> None:
    rpc = many.house.rpc()
    rpc.supervisor.startProcess("broken")  # another program, which fits otherwise
    rpc.supervisor.startProcess("other")
    many.succeeded("follower", 1)


def test_remote_event(many: Listening) -> None:
    rpc = many.house.rpc()
    rpc.supervisor.sendRemoteCommEvent("hotreload", "nöbody€\u202e")
    rpc.supervisor.sendRemoteCommEvent("other", "deaf")
    rpc.supervisor.sendRemoteCommEvent("hotreload", "remote")
    many.succeeded("remote", 1)
    many.wait_for_log(r"asks for 'nöbody€\u202e': no such program")
    assert many.reloads("deaf") == 0


def test_the_app_asks(many: Listening) -> None:
    root = many.house.root
    assert get(root / "asking.sock", "/ask") == b"stdout"
    many.succeeded("asking", 1)
    assert "asking: reload started: asking asks" in many.log()
    assert get(root / "asking.sock", "/ask/deaf") == b"stdout"
    many.wait_for_log("asking asks for 'deaf': refused")
    assert get(root / "asking.sock", "/ask/other_asking") == b"stdout"
    many.succeeded("other_asking", 1)
    assert many.reloads("deaf") == 0
    assert get(root / "deaf.sock", "/ask") == b"rpc"
    many.succeeded("deaf", 1)


def test_hup(many: Listening) -> None:
    many.house.rpc().supervisor.signalProcess("hotreload:hotreload", "HUP")
    many.succeeded("hup", 1)
    many.wait_for_log("reload_on_sighup = nobody: no such program")


def test_every(everything: Listening) -> None:
    everything.succeeded("old", 1)
    assert everything.info("old")["trigger"].endswith("every = 6 s")


def test_max_memory(everything: Listening) -> None:
    everything.wait_for_reload("fat", 1)
    everything.succeeded("fat", 1)
    everything.wait_for_log("shared pages counted once")


def test_nothing_else_was_reloaded(everything: Listening) -> None:
    """Every event went to the listener, and only what was meant was reloaded."""
    assert everything.reloads("myapp") == 0
    assert "overflowed" not in everything.house.log()
    assert "discarded" not in everything.log()
    assert everything.house.info("hotreload:hotreload")["statename"] == "RUNNING"
