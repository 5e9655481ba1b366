"""Commands that are run beside a loop: nothing waits for them, and as whom they run."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from supervisor_hotreload.core.model import Fault
from supervisor_hotreload.servers.gunicorn import family as gunicorn
from supervisor_hotreload.servers.program import Program
from supervisor_hotreload.servers.uwsgi import options as uwsgi_options
from supervisor_hotreload.servers.uwsgi import trial as uwsgi_trial
from supervisor_hotreload.system.command import Command, RunAs
from supervisor_hotreload.system.credentials import Ids
from tests.harness.house import APP, House
from tests.harness.load import get
from tests.harness.refusals import assert_unchanged, fault_of
from tests.harness.sites import script
from tests.harness.waiting import wait_until
from tests.harness.wrapped import Wrapped

ROOT_ONLY = pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")

NOBODY = 65534

LEASE = """\
import fcntl, os, signal, sys, time
signal.signal(signal.SIGIO, lambda *_: None)
held = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
while True:
    time.sleep(60)
"""


@pytest.fixture
def leased(house: House) -> Iterator[str]:
    """A check whose exec waits as long as its owner likes: it holds a write lease on it."""
    path = script(house, "exit 0")
    holder = subprocess.Popen([sys.executable, "-c", LEASE, path], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    yield path
    holder.kill()
    holder.communicate()


@pytest.mark.parametrize("which", ["check", "check_before"])
def test_supervisord_does_not_wait_for_an_exec(house: House, leased: str, which: str) -> None:
    house.configure(settings=f"{which} = {leased}\ncheck_timeout = 3")
    house.start()
    before = house.info()
    house.rpc().hotreload.reloadProcess("myapp", False)
    house.wait_for_phase("checking")
    answers = 0
    while house.reload_info()["phase"] == "checking":
        assert house.rpc().supervisor.getState()["statename"] == "RUNNING"
        answers += 1
    assert answers > 3  # one, at the end of it, where supervisord waits
    info = house.wait_for_outcome()
    assert "timed out after 3 s (check_timeout) waiting for check" in info["reason"]
    assert_unchanged(house, before)
    wait_until(lambda: len(house.family()) == 3, what="the check is ended")


def test_a_check_without_room_for_its_output_is_refused(house: House) -> None:
    folder = house.root / "tmp"
    folder.mkdir()
    house.environment["TMPDIR"] = str(folder)
    house.configure(settings="check_before = /bin/true")
    house.start()
    house.reload()
    before = house.info()
    folder.rmdir()  # as where no inode is left
    fault = fault_of(house)
    assert fault.faultCode == Fault.TRIAL_FAILED
    assert "check_before (/bin/true) could not be run: " in fault.faultString
    assert_unchanged(house, before)
    folder.mkdir()
    house.reload()


def test_the_wrapper_outlives_a_check_without_room(wrapped: Wrapped) -> None:
    folder = wrapped.root / "tmp"
    folder.mkdir()
    wrapped.run("--check", "/bin/true", "--", *wrapped.command(), TMPDIR=str(folder))
    wrapped.release("v2")
    wrapped.hup()
    wrapped.wait_for_release("v2")
    folder.rmdir()
    wrapped.release("v3")
    wrapped.send("HUP")
    wait_until(lambda: "could not be run" in wrapped.console(), what=wrapped.console)
    assert get(wrapped.port).startswith(b"v2 ")
    folder.mkdir()
    wrapped.hup()
    wrapped.wait_for_release("v3")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("/no/such/command", "could not be run: /no/such/command: No such file or directory"),
        ("no-such-command", "could not be run: no-such-command: No such file or directory"),
        ("/etc/passwd", "could not be run: /etc/passwd: Permission denied"),
        ("/bin/sh -c 'exit 127'", "exited with status 127"),
        ("/bin/sh -c 'exit 126'", "exited with status 126"),
    ],
)
def test_what_cannot_be_run_is_told_from_what_fails(house: House, command: str, words: str) -> None:
    house.configure("--workers 1", settings=f"check_before = {command}")
    house.start()
    fault = fault_of(house)
    assert fault.faultCode == Fault.TRIAL_FAILED
    assert words in fault.faultString


# -- as whom they run

WHO = """\
import os
with open({seen!r}, "a") as file:
    print(*os.getresuid(), *os.getresgid(), *os.getgroups(), file=file)
"""

BECOME = """
def app(environ, start_response, app=app):
    if environ["PATH_INFO"] == "/become":
        for name in os.listdir("/proc/self/fd"):
            try:
                os.set_inheritable(int(name), True)
            except OSError:
                pass
        os.execv({binary!r}, ["sleep", "1000"])
    return app(environ, start_response)
"""


def setuid_sleep(house: House) -> pathlib.Path:
    """Return a program that every user runs as root."""
    binary = house.root / "rootsleep"
    shutil.copy("/bin/sleep", binary)
    binary.chmod(0o4755)
    return binary


def release(house: House, name: str) -> pathlib.Path:
    """Write a release that notes as whom it is imported; return the file of that."""
    seen = house.root / "seen"
    seen.touch()
    seen.chmod(0o666)
    code = WHO.format(seen=str(seen)) + APP.format(release=name, boot=0)
    code += BECOME.format(binary=str(house.root / "rootsleep"))
    house.release(name, code=code)
    return seen


def become_root(house: House) -> None:
    """Let the only worker execute a setuid file and keep all its descriptors."""
    with pytest.raises(OSError):
        get(house.port, "/become", timeout=1)
    wait_until(lambda: any("sleep" in p.name() for p in house.family()), what=house.app_log)


def trial_of(house: House, seen: pathlib.Path) -> tuple[str, str]:
    """Reload; return what is printed, and as whom the new release was imported."""
    seen.write_text("")
    printed = house.ctl("hotreload", "myapp").stdout
    return printed, seen.read_text()


@ROOT_ONLY
def test_a_setuid_worker_does_not_make_the_trial_roots(house: House) -> None:
    """The user of the program decides, whatever its processes look like."""
    house.open_to_all()
    setuid_sleep(house)
    seen = release(house, "v1")
    house.configure(
        "--workers 1 --timeout 1000",
        program="user = nobody",
        settings="check_before = default\nready_timeout = 3",
    )
    house.start()
    become_root(house)
    release(house, "v2")
    printed, who = trial_of(house, seen)
    assert "checking" in printed
    assert {line.split()[0] for line in who.splitlines()} == {str(NOBODY)}, printed
    assert "0" not in who.split(), printed


@ROOT_ONLY
@pytest.mark.parametrize("how", ["as it is", "setuid"])
def test_what_is_observed_only_lowers_rights(house: House, how: str) -> None:
    """A program of root whose own file names the user: its workers are looked at."""
    house.open_to_all()
    setuid_sleep(house)
    seen = release(house, "v1")
    (house.root / "gunicorn.conf.py").write_text("user = 'nobody'\n")
    house.configure(
        f"--workers 1 --timeout 1000 --config {house.root}/gunicorn.conf.py",
        settings="check_before = default\nready_timeout = 5",
    )
    house.start()
    if how == "setuid":
        become_root(house)
    release(house, "v2")
    printed, who = trial_of(house, seen)
    if how == "setuid":
        assert "set check_before = none" in printed
        assert who == ""
    else:
        assert {line.split()[:3] == [str(NOBODY)] * 3 for line in who.splitlines()} == {True}
        assert "0" not in who.splitlines()[0].split(), who  # the trial comes first


@pytest.mark.parametrize(
    ("command", "arguments", "named"),
    [
        ("gunicorn -u nobody app:app", "", RunAs("nobody")),
        ("gunicorn --user=nobody --group adm app:app", "", RunAs("nobody", "adm")),
        ("gunicorn app:app", "--user 1234", RunAs("1234")),
        ("gunicorn -unobody app:app", "--user root", RunAs("nobody")),
        ("python3 -u /usr/bin/gunicorn app:app", "", RunAs()),
        ("gunicorn -c nobody.conf.py app:app", "", RunAs()),
    ],
)
def test_whom_a_command_of_gunicorn_names(command: str, arguments: str, named: RunAs) -> None:
    program = Program("myapp", command, "/", {"GUNICORN_CMD_ARGS": arguments})
    assert gunicorn._named_user(program) == named


@pytest.mark.parametrize(
    ("command", "given", "named"),
    [
        ("uwsgi --uid nobody --gid=adm app.ini", {}, RunAs("nobody", "adm")),
        ("uwsgi app.ini", {"UWSGI_UID": "1234"}, RunAs("1234")),
        ("uwsgi app.ini", {}, RunAs()),
        ("uwsgi --uid %(who) app.ini", {}, RunAs()),
    ],
)
def test_whom_a_command_of_uwsgi_names(
    tmp_path: pathlib.Path, command: str, given: dict[str, str], named: RunAs
) -> None:
    """Never an ini file."""
    (tmp_path / "app.ini").write_text("[uwsgi]\nuid = root\ngid = root\nwho = root\n")
    rights = Ids.of_user(os.getuid())
    program = Program("myapp", command, str(tmp_path), given, rights=rights)
    assert uwsgi_trial.named_user(uwsgi_options.options(program)) == named


@pytest.mark.parametrize(
    ("run_as", "words"),
    [
        (RunAs("no-such-user"), "user no-such-user: there is no user no-such-user"),
        (RunAs("nobody", "no-such-group"), "there is no group no-such-group"),
        (RunAs(-1), "user -1: "),
        (RunAs(1 << 40), f"user {1 << 40}: "),
    ],
)
@ROOT_ONLY
def test_nothing_runs_as_nobody_knows_whom(
    tmp_path: pathlib.Path, run_as: RunAs, words: str
) -> None:
    with open(tmp_path / "output", "w+b") as output:
        command = Command(["/bin/id"], output.fileno(), {}, run_as=run_as)
        status = os.waitpid(command.pid, 0)[1]
        assert words in command.trouble()
        assert os.waitstatus_to_exitcode(status) == 126
        output.seek(0)  # the command moves it
        assert output.read() == b""
        command.close()


@ROOT_ONLY
def test_an_id_that_no_name_service_knows(tmp_path: pathlib.Path) -> None:
    """It has no right by any group."""
    with open(tmp_path / "output", "w+b") as output:
        command = Command(["id"], output.fileno(), {"PATH": "/usr/bin"}, run_as=RunAs(12345678))
        assert os.waitpid(command.pid, 0)[1] == 0
        output.seek(0)
        assert b"uid=12345678 gid=65534(nogroup) groups=65534(nogroup)" in output.read()
        command.close()
