"""What gunicorn cannot re-exec is refused before USR2, and what fails after it is cleaned up."""

from __future__ import annotations

import os
import pathlib
import shutil
import sys
import time
from typing import Optional

import pytest
from gunicorn import __version__

from supervisor_hotreload.core.model import Fault
from supervisor_hotreload.servers.gunicorn.command import why_it_daemonizes
from supervisor_hotreload.servers.program import Program
from supervisor_hotreload.system.credentials import Ids, ids_of
from tests.harness.house import APP, House
from tests.harness.load import Load, get
from tests.harness.missing import program
from tests.harness.refusals import assert_unchanged, fault_of
from tests.harness.waiting import wait_until


class Installed:
    """A gunicorn in a place of its own, of which parts can be taken away."""

    def __init__(self, house: House, folder: Optional[pathlib.Path] = None) -> None:
        root = folder or house.root
        self.interpreter = root / "bin" / "python3"
        self.interpreter.parent.mkdir(parents=True)
        self.interpreter.symlink_to(os.path.realpath(house.python))
        (root / "pyvenv.cfg").write_text(
            pathlib.Path(house.python).parent.parent.joinpath("pyvenv.cfg").read_text()
        )
        lib = pathlib.Path(house.python).parent.parent / "lib"
        (root / "lib").symlink_to(lib)
        self.script = root / "bin" / "gunicorn"
        self.script.write_text(
            f"#!{self.interpreter}\nfrom gunicorn.app.wsgiapp import run\nrun()\n"
        )
        self.script.chmod(0o755)


@pytest.mark.parametrize("what", ["interpreter", "script", "mode"])
@pytest.mark.parametrize("title", [False, True], ids=["", "title"])
def test_what_is_missing_is_refused(house: House, what: str, title: bool) -> None:
    installed = Installed(house)
    overwrite = "--config conf.py" if title else ""
    house.configure(
        command=f"{installed.script} --bind 127.0.0.1:{house.port} --workers 2 {overwrite} app:app"
    )
    if title:
        (house.root / "current" / "conf.py").write_text(TITLE)
    house.start()
    before = house.info()
    path = installed.script if what == "script" else installed.interpreter
    aside = house.root / "aside"
    with Load(house.port) as load:
        load.wait_in_flight()
        path.rename(aside)
        if what == "mode":
            path.write_text("")
            path.chmod(0o644)
        fault = fault_of(house)
        assert fault.faultCode == Fault.NOT_RELOADABLE
        assert str(path) in fault.faultString
        assert ("cannot be executed" if what == "mode" else "is missing") in fault.faultString
        assert_unchanged(house, before)
        aside.replace(path)
        if title:
            (house.root / "current" / "conf.py").write_text(TITLE)
        house.reload()
    assert load.dropped == []


@pytest.mark.parametrize("begins", ["script", "interpreter"])
def test_an_environment_for_each_release(house: House, begins: str) -> None:
    """gunicorn keeps the interpreter that its script named; a path in the command is followed."""
    first, second = (Installed(house, house.root / name) for name in ("env1", "env2"))
    link = house.root / "env"
    link.symlink_to("env1")
    word = f"{link}/bin/python3 " if begins == "interpreter" else ""
    house.configure(
        command=f"{word}{link}/bin/gunicorn --bind 127.0.0.1:{house.port} --workers 2 app:app"
    )
    house.start()
    with Load(house.port) as load:
        link.unlink()
        link.symlink_to("env2")
        house.release("v2")
        said = house.reload().stdout
        load.wait_for("v2")
    assert load.dropped == []
    warned = f"keeps the interpreter {first.interpreter}" in said
    assert warned == (begins == "script"), said
    assert (f"names {second.interpreter} now" in said) == warned


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("closed", ["script", "release", "releases"])
@pytest.mark.parametrize("how", ["user", "launcher"])
def test_a_deploy_that_the_user_cannot_read(house: House, how: str, closed: str) -> None:
    """As root, with umask 077: gunicorn's exec or chdir would fail."""
    house.open_to_all()
    launcher = f"{program('runuser', 'apt-get install util-linux')} -u nobody --"
    command = house.gunicorn("--workers 2")
    if how == "launcher":
        house.configure(command=f"{launcher} {command}")
    else:
        house.configure(command=command, program="user = nobody")
    house.start()
    before = house.info()
    with Load(house.port) as load:
        load.wait_in_flight()
        house.release("v2")
        path = {
            "script": house.root / "site" / "bin" / "gunicorn",
            "release": house.root / "releases" / "v2",
            "releases": house.root / "releases",
        }[closed]
        path.chmod(0o700)
        fault = fault_of(house)
        assert fault.faultCode == Fault.NOT_RELOADABLE, fault
        said = f"script ({path}) cannot be read" if closed == "script" else "cannot be entered"
        assert said in fault.faultString, fault
        assert house.info()["pid"] == before["pid"]
        path.chmod(0o755)
        house.reload()
        load.wait_for("v2")
    assert load.dropped == []


TITLE = """\
import ctypes, ctypes.util
def when_ready(server):  # as setproctitle does: what the kernel shows is overwritten
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[48])
    title = b"gunicorn: master [app:app]"
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, title, len(title))
"""


@pytest.mark.parametrize("how", ["directory", "chdir"])
def test_a_start_directory_that_is_gone_is_refused(house: House, how: str) -> None:
    """A deploy that keeps one release: gunicorn goes back to what ``current`` was."""
    folder = house.root / "releases" / "v1"
    if how == "chdir":
        house.configure("--workers 2", f"--chdir {house.root}/current", program="directory = /")
    else:
        house.configure("--workers 2")
        config = house.root / "supervisord.conf"
        config.write_text(config.read_text().replace("%(here)s/current\n", f"{folder}\n"))
    house.start()
    before = house.info()
    with Load(house.port) as load:
        load.wait_in_flight()
        house.release("v2")
        shutil.rmtree(folder)
        fault = fault_of(house)
        assert fault.faultCode == Fault.NOT_RELOADABLE
        assert f"({folder}) is missing" in fault.faultString
        assert_unchanged(house, before)
        house.release("v1")
        house.release("v2")
        house.reload()
    assert load.dropped == []


def test_a_current_symlink_whose_old_target_is_gone_is_reloaded(house: House) -> None:
    house.configure("--workers 2")
    house.start()
    with Load(house.port) as load:
        load.wait_in_flight()
        house.release("v2")
        shutil.rmtree(house.root / "releases" / "v1")
        house.reload()
        load.wait_for("v2")
    assert load.dropped == []


@pytest.mark.parametrize("workers", [1, 3])
def test_a_hook_that_raises_leaves_one_master(house: House, workers: int) -> None:
    mark = house.root / "broken"
    (house.root / "conf.py").write_text(
        "import os\n"
        "def pre_exec(server):\n"
        f"    if os.path.exists({str(mark)!r}):\n"
        "        raise RuntimeError('no licence left')\n"
    )
    settings = "spawn_timeout = 90"
    house.configure(f"--workers {workers} --config {house.root}/conf.py", settings=settings)
    house.start()
    before = house.info()
    mark.touch()
    began = time.monotonic()
    fault = fault_of(house)
    assert fault.faultCode == Fault.NO_SUCCESSOR
    reason, found, _ = fault.faultString.partition(f"; generation 1 (pid {before['pid']}")
    assert found, fault.faultString
    assert "RuntimeError: no licence left" in reason
    assert time.monotonic() - began < 60, "the fork has ended by itself"
    wait_until(lambda: len(house.family()) == workers + 1, what="the fork is gone")
    assert_unchanged(house, before)
    mark.unlink()
    house.release("v2")
    with Load(house.port) as load:
        load.wait_in_flight()
        house.reload()
        load.wait_for("v2")
    assert load.dropped == []


def test_a_unix_socket_that_such_a_fork_has_removed_is_named(house: House) -> None:
    path = house.root / "app.sock"
    (house.root / "conf.py").write_text("def pre_exec(server):\n    1 / 0\n")
    house.configure(
        command=house.gunicorn(f"--workers 2 --config {house.root}/conf.py", bind=f"unix:{path}")
    )
    house.start()
    fault = fault_of(house)
    assert "ZeroDivisionError" in fault.faultString
    assert f"It has removed {path}: no client gets in, restart the program" in fault.faultString


def test_a_hook_that_hangs_is_ended_with_the_reload(house: House) -> None:
    mark = house.root / "hangs"
    (house.root / "conf.py").write_text(
        "import os, time\n"
        "def pre_exec(server):\n"
        f"    while os.path.exists({str(mark)!r}):\n"
        "        time.sleep(0.1)\n"
    )
    house.configure(f"--workers 2 --config {house.root}/conf.py", settings="spawn_timeout = 1.5")
    house.start()
    before = house.info()
    mark.touch()
    with Load(house.port) as load:
        load.wait_in_flight()
        assert fault_of(house).faultCode == Fault.NO_SUCCESSOR
        wait_until(lambda: len(house.family()) == 3, what="the fork is gone")
        assert_unchanged(house, before)
        mark.unlink()
        house.reload()
    assert load.dropped == []


@pytest.mark.skipif(__version__ < "25", reason="the master of an older one listens, too")
@pytest.mark.parametrize("where", ["command", "file"])
def test_reuse_port_is_refused_by_name(house: House, where: str) -> None:
    (house.root / "conf.py").write_text("reuse_port = True\n" if where == "file" else "")
    option = "--reuse-port" if where == "command" else ""
    house.configure(f"--workers 2 {option} --config {house.root}/conf.py")
    house.start()
    before = house.info()
    fault = fault_of(house)
    assert fault.faultCode == Fault.NOT_RELOADABLE
    assert "reuse_port" in fault.faultString
    assert_unchanged(house, before)


def test_a_socket_of_each_worker_is_no_reuse_port(house: House) -> None:
    """An application may listen by itself, for its metrics say."""
    code = "import socket\nown = socket.create_server(('127.0.0.1', 0))\n"
    house.release("v1", code=code + APP.format(boot=0, release="v1"))
    house.configure("--workers 2")
    house.start()
    house.reload()


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes namespaces")
def test_files_that_only_the_program_sees_are_not_missed(house: House) -> None:
    """Its interpreter lies on a file system that is mounted for it alone."""
    place = house.root / "private"
    place.mkdir()
    script = (
        f"mount -t tmpfs none {place} && ln -s {os.path.realpath(house.python)} {place}/python3 "
        f"&& exec {place}/python3 -m gunicorn -b 127.0.0.1:{house.port} --workers 2 app:app"
    )
    path = ":".join(entry for entry in sys.path if entry.endswith("site-packages"))
    house.configure(
        command=f'unshare -m sh -c "{script}"',
        program=f'environment = PYTHONPATH="{path}",PYTHONSAFEPATH="1"',
    )
    house.start()
    house.release("v2")
    house.reload()
    assert get(house.port).startswith(b"v2 ")


@pytest.mark.parametrize("where", ["--daemon", "gunicorn.conf.py"])
def test_a_program_that_daemonizes_is_down_for_a_reason(house: House, where: str) -> None:
    if where == "--daemon":
        arguments, expected = "--workers 1 --daemon", "its command has --daemon"
    else:
        (house.root / "current" / where).write_text("workers = 1\ndaemon = True  # why not\n")
        arguments, expected = "--workers 1", "/current/gunicorn.conf.py has 'daemon = True'"
    house.configure(arguments, program="startretries = 0\nautorestart = false")
    house.start(running="")
    down = ("FATAL", "EXITED")  # as soon as it has left, or later than startsecs
    wait_until(lambda: house.info()["statename"] in down, what=house.log)
    for process in house.application():
        process.kill()
    fault = fault_of(house)
    assert fault.faultCode == Fault.NOT_RUNNING
    assert expected in fault.faultString


@pytest.mark.parametrize(
    ("text", "daemonizes"),
    [
        ("daemon = True", True),
        ("x = 1\ndaemon=True\nworkers = 2\n", True),
        ("daemon = True\ndaemon = False\n", False),
        ("daemon = os.environ.get('DAEMON')\n", False),
        ("if False:\n    daemon = True\n", False),
        ("# daemon = True\n", False),
        ("raise SystemExit(open('executed', 'w'))\n", False),
        ("(" * 60000, False),
        ("daemon = True\n" + "#" * (1 << 16), False),
    ],
)
def test_a_configuration_file_is_read_and_never_executed(
    tmp_path: pathlib.Path, text: str, daemonizes: bool
) -> None:
    (tmp_path / "conf.py").write_text(text)
    program = Program(
        "myapp", "gunicorn -c conf.py app:app", str(tmp_path), rights=ids_of(os.getpid())
    )
    assert ("conf.py has 'daemon = True'" in why_it_daemonizes(program)) == daemonizes
    assert not (tmp_path / "executed").exists()


def test_a_configuration_file_is_read_with_the_rights_of_the_program(
    tmp_path: pathlib.Path,
) -> None:
    path = tmp_path / "conf.py"
    path.write_text("daemon = True\n")
    path.chmod(0o600)
    tmp_path.chmod(0o755)
    command = f"gunicorn --config=file:{path} app:app"
    nobody = Ids.of_user(65534, 65534)
    assert os.geteuid() != 0 or not why_it_daemonizes(Program("myapp", command, "/", rights=nobody))
    assert not why_it_daemonizes(Program("myapp", command, "/"))
    os.mkfifo(tmp_path / "fifo")
    command = f"gunicorn -c {tmp_path}/fifo app:app"
    assert not why_it_daemonizes(Program("myapp", command, "/", rights=ids_of(os.getpid())))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("config", "Error: 'conf.py' doesn't exist"),
        ("worker", "Error: class uri 'no.such.Worker' invalid or not found"),
    ],
)
def test_gunicorns_own_errors_are_the_reason(house: House, option: str, message: str) -> None:
    conf = house.root / "releases" / "v1" / "conf.py"
    conf.write_text("")
    house.configure("--workers 2 --config conf.py")
    house.start()
    before = house.info()
    house.release("v2")
    if option == "worker":
        (house.root / "current" / "conf.py").write_text("worker_class = 'no.such.Worker'\n")
    fault = fault_of(house)
    assert message in fault.faultString.split("; generation 1")[0]
    assert_unchanged(house, before)


def test_a_master_deep_below_its_launchers(house: House) -> None:
    launcher = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"
    command = house.gunicorn("--workers 2")
    for _ in range(5):
        command = f"{house.python} -c '{launcher}' {command}"
    house.configure(command=command)
    house.start()
    with Load(house.port) as load:
        load.wait_in_flight()
        house.release("v2")
        house.reload()
        load.wait_for("v2")
    assert load.dropped == []
    assert get(house.port).startswith(b"v2 ")
