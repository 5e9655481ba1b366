"""What cannot be reloaded is refused, and what cannot start changes nothing."""

from __future__ import annotations

import pathlib
import signal

import pytest

from supervisor_hotreload.core.model import Failure, Fault
from supervisor_hotreload.core.protocol import Steps
from supervisor_hotreload.core.reload import Reload
from supervisor_hotreload.plugin.builder import explained, last_exception
from tests.harness.house import House
from tests.harness.load import Load, get
from tests.harness.refusals import assert_unchanged, fault_of
from tests.harness.waiting import wait_until

BROKEN = {
    "import": ("import no_such_module\n", "--workers 2", "No module named 'no_such_module'"),
    "import under preload": ("1 / 0\n", "--workers 2 --preload", "ZeroDivisionError"),
    "no such application": ("other = 1\n", "--workers 2", "Failed to find attribute 'app'"),
    "exit": ("import os\nos._exit(7)\n", "--workers 1 --preload", ""),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_release_that_cannot_start(house: House, kind: str) -> None:
    code, arguments, message = BROKEN[kind]
    house.configure(arguments)
    house.start()
    before = house.info()
    with Load(house.port) as load:
        load.wait_in_flight()
        house.release("v2", code=code)
        done = house.ctl("hotreload", "myapp")
        assert_unchanged(house, before)
        house.release("v3")
        house.reload()
        load.wait_for("v3")
    assert load.dropped == []
    assert set(load.releases) == {"v1", "v3"}
    assert done.returncode == 1
    assert message in done.stdout
    assert f"the successor (pid {successor(done.stdout)}) exited" in done.stdout
    assert f"generation 1 (pid {before['pid']}, " in done.stdout


def successor(printed: str) -> str:
    return printed.split("the successor (pid ")[1].split(")")[0]


def test_the_fault_shows_what_the_program_logged(house: House) -> None:
    house.configure()
    house.start()
    house.release("v2", code="import no_such_module\n")
    fault = fault_of(house)
    assert fault.faultCode == Fault.SUCCESSOR_EXITED
    assert "No module named 'no_such_module'" in fault.faultString
    assert "generation 1" in fault.faultString


CRASHING = """\
import sys, traceback
class NotMigrated(Exception): pass
try:
    raise NotMigrated("the table users is missing")
except NotMigrated:
    traceback.print_exc()
    sys.exit(1)
"""


def test_the_reason_has_the_exception_while_the_master_lives(house: House) -> None:
    """gunicorn starts such a worker again for ever: only its master would say why it exits."""
    house.configure("--workers 1", settings="ready_timeout = 6")
    house.start()
    before = house.info()
    house.release("v2", code=CRASHING)
    fault = fault_of(house)
    assert fault.faultCode == Fault.NOT_READY
    why = "NotMigrated: the table users is missing"
    assert why in fault.faultString.splitlines()[0]
    (line,) = [line for line in house.log().splitlines() if "failed while booting" in line]
    assert why in line
    assert_unchanged(house, before)


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        ("it works", ""),
        ("Traceback (most recent call last):\n  File a\nKeyError: 'x'", ": KeyError: 'x'"),
        ("Traceback (most recent call last):\n  File a\n\nBroken: so\nlater: a", ": Broken: so"),
        ("ERROR:  Traceback (most recent call last):\n  File a\napp.Broken", ": app.Broken"),
        ("Traceback (most recent call last):\n  File a\n[7] [INFO] Booting worker", ""),
        ("ImportError: x\ngunicorn.errors.HaltServer: <HaltServer 3>", ": ImportError: x"),
        ("Error: cannot use this:\nImportError: x", ": Error: cannot use this: ImportError: x"),
        ("app.rb:3:in `<main>': no (RuntimeError)", ": app.rb:3:in `<main>': no (RuntimeError)"),
    ],
)
def test_the_last_exception_is_found(printed: str, reason: str) -> None:
    assert last_exception(printed.splitlines()) == reason


def test_what_a_program_prints_last_is_read_before_the_reason_is_said() -> None:
    """supervisord may see that a process has ended before it has read all that was printed."""

    def exits() -> Steps:
        raise Failure(Fault.SUCCESSOR_EXITED, "it exited")
        yield

    reload = Reload("myapp", lambda: 0.0, print)
    reload.begin(explained(exits(), reload))
    assert not reload.done
    reload.step()  # it was due in the turn in which the output arrives
    reload.output.append("ImportError: nothing")
    reload.step()
    assert reload.reason == "it exited: ImportError: nothing"


def test_a_pidfile_in_the_way(house: House) -> None:
    pidfile = house.root / "app.pid"
    house.configure(f"--workers 2 --pid {pidfile}")
    house.start()
    before = house.info()
    pathlib.Path(f"{pidfile}.2").write_text(f"{house.pid}\n")
    done = house.ctl("hotreload", "myapp")
    assert done.returncode == 1
    assert "Already running on PID" in done.stdout
    assert_unchanged(house, before)


def test_a_release_that_never_gets_ready(house: House) -> None:
    house.configure("--workers 2", settings="ready_timeout = 5")
    house.start()
    before = house.info()
    house.release("v2", boot=600)
    with Load(house.port) as load:
        load.wait_in_flight()
        fault = fault_of(house)
    assert load.dropped == []
    assert fault.faultCode == Fault.NOT_READY
    assert "0 of 2 ready" in fault.faultString
    assert_unchanged(house, before)


def test_a_release_of_which_some_workers_are_ready(house: House) -> None:
    """Those that are ready serve requests, which a rollback must not cut."""
    house.configure("--workers 2", settings="ready_timeout = 5")
    house.start()
    before = house.info()
    first = house.root / "first"
    code = (
        f"import os, time, pathlib\n"
        f"try: os.close(os.open({str(first)!r}, os.O_CREAT | os.O_EXCL))\n"
        f"except FileExistsError: time.sleep(600)\n"
        f"def app(environ, start_response):\n"
        f"    time.sleep(2)\n"
        f"    start_response('200 OK', [('Content-Length', '2')])\n"
        f"    return [b'v2']\n"
    )
    house.release("v2", code=code)
    with Load(house.port, fast=2, slow=2) as load:
        load.wait_in_flight()
        fault = fault_of(house)
    assert "1 of 2 ready" in fault.faultString
    assert load.dropped == []
    assert load.releases["v2"] > 0
    assert_unchanged(house, before)


def test_a_successor_that_never_appears(house: House) -> None:
    """A master that hears nothing: here one whose USR2 is ignored by the program."""
    house.configure(f"--workers 2 --config {house.root}/conf.py", settings="spawn_timeout = 1.5")
    (house.root / "conf.py").write_text(
        "from signal import SIG_IGN, SIGUSR2, signal\n"
        "def when_ready(server):\n    signal(SIGUSR2, SIG_IGN)\n"
    )
    house.start()
    before = house.info()
    fault = fault_of(house)
    assert fault.faultCode == Fault.NO_SUCCESSOR
    assert_unchanged(house, before)


def test_a_stopped_master_is_refused(house: House) -> None:
    house.configure()
    house.start()
    before = house.info()
    house.masters()[0].send_signal(signal.SIGSTOP)
    fault = fault_of(house)
    assert fault.faultCode == Fault.STOPPED_BY_SIGNAL
    assert f"kill -CONT {before['pid']}" in fault.faultString
    house.masters()[0].send_signal(signal.SIGCONT)
    assert_unchanged(house, before)
    house.reload()


def test_names_and_states(house: House) -> None:
    more = (
        "[program:sleeper]\ncommand = /bin/sleep 1000\n"
        "[program:off]\ncommand = /bin/sleep 1000\nautostart = false\n"
        "[program:slow]\ncommand = /bin/sleep 1000\nstartsecs = 600\n"
    )
    house.configure(more=more)
    house.start()
    house.wait_for("RUNNING", "sleeper")
    kinds = {
        "nobody": Fault.BAD_NAME,
        "no:body": Fault.BAD_NAME,
        "nobody:*": Fault.BAD_NAME,
        "sleeper": Fault.NOT_RELOADABLE,
        "sleeper:*": Fault.NOT_RELOADABLE,
        "off": Fault.NOT_RUNNING,
        "slow": Fault.STILL_STARTING,
    }
    pids = {info["name"]: info["pid"] for info in house.rpc().supervisor.getAllProcessInfo()}
    for name, kind in kinds.items():
        fault = fault_of(house, name)
        assert fault.faultCode == kind, name
        assert name.split(":")[0] in fault.faultString
        done = house.ctl("hotreload", name)
        assert done.returncode != 0
        assert f"{name}: ERROR (" in done.stdout
    first = house.ctl("hotreload", "--status", "off").stdout
    cure = "start it: supervisorctl start off"
    assert f"last reload refused: off is STOPPED, not RUNNING; {cure}" in first
    assert "not RUNNING yet; reload again once it is RUNNING" in fault_of(house, "slow").faultString
    after = {info["name"]: info["pid"] for info in house.rpc().supervisor.getAllProcessInfo()}
    assert after == pids
    assert len({int(kind) for kind in Fault}) == len(Fault)
    assert "sleeper" not in house.ctl("hotreload", "all").stdout


def test_bad_usage(house: House) -> None:
    house.configure()
    house.start()
    for words in (
        (),
        ("--bake",),
        ("--bake", "x", "myapp"),
        ("--nonsense", "myapp"),
        ("'",),
        ("--cancel", "--status", "x"),
    ):
        done = house.ctl("hotreload", *words)
        assert done.returncode == 2, words
        error, usage = done.stdout.splitlines()
        assert error.startswith("Error: "), words
        assert usage.startswith("usage: hotreload "), words


def test_status(house: House) -> None:
    house.configure()
    house.start()
    pid = house.info()["pid"]
    assert f"generation 1 (pid {pid}), never reloaded" in house.ctl("hotreload", "--status").stdout
    house.release("v2", boot=2)
    house.rpc().hotreload.reloadProcess("myapp", False)
    house.wait_for_phase("booting")
    assert f"follows generation 1 (pid {pid})" in house.ctl("hotreload", "--status", "myapp").stdout
    house.wait_for_outcome()
    done = house.ctl("hotreload", "--status", "myapp:*")
    assert "generation 2" in done.stdout
    assert "last reload succeeded in" in done.stdout
    assert house.ctl("hotreload", "--status", "nobody").returncode == 1


def test_another_reload_is_active(house: House) -> None:
    house.configure()
    house.start()
    house.release("v2", boot=3)
    house.rpc().hotreload.reloadProcess("myapp", False)
    for name in ("myapp", "myapp:*", "myapp:myapp"):
        fault = fault_of(house, name)
        assert fault.faultCode == Fault.ALREADY_RELOADING
    printed = house.ctl("hotreload", "myapp").stdout
    assert printed.startswith("myapp: ERROR (another reload is active (booting for ")
    assert "supervisorctl hotreload --status myapp shows it, --cancel myapp rolls it" in printed
    assert house.wait_for_outcome()["outcome"] == "succeeded"
    assert get(house.port).startswith(b"v2 ")


def test_supervisord_is_shutting_down(house: House) -> None:
    stubborn = (
        "[program:stubborn]\nstopwaitsecs = 4\npriority = 2\n"
        "command = /bin/sh -c \"trap '' TERM; while :; do sleep 1; done\"\n"
    )
    house.configure(more=stubborn, program="priority = 1")
    house.start()
    house.wait_for("RUNNING", "stubborn")
    house.rpc().supervisor.shutdown()
    fault = fault_of(house)
    assert fault.faultCode == Fault.SHUTDOWN_STATE
    house.wait_for_exit()


def test_ctrl_c_leaves_the_reload_running(house: House) -> None:
    house.configure()
    house.start()
    house.release("v2", boot=2)
    client = house.client("hotreload", "myapp")
    wait_until(lambda: house.rpc().hotreload.getReloadInfo("myapp")["active"])
    client.send_signal(signal.SIGINT)
    printed, _ = client.communicate(timeout=20)
    assert client.returncode == 1
    assert "goes on in supervisord" in printed
    assert "or roll it back with" in printed
    assert "Traceback" not in printed
    assert house.wait_for_outcome()["outcome"] == "succeeded"
    assert get(house.port).startswith(b"v2 ")


def test_supervisorctl_says_when_supervisord_has_no_plugin(house: House) -> None:
    house.configure()
    path = house.root / "supervisord.conf"
    text = path.read_text().replace("[rpcinterface:hotreload]", "[was:hotreload]")
    path.write_text(text)
    house.start()
    done = house.ctl("hotreload", "myapp")
    assert done.returncode == 1
    assert "[rpcinterface:hotreload]" in done.stdout
