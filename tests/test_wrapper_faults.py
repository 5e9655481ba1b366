"""No error inside hotreload-run ends it while its server lives, and TERM always ends both."""

from __future__ import annotations

import os
import pathlib
import resource
import signal
import socket
import sys

import pytest

from supervisor_hotreload.system.files import replace_file
from supervisor_hotreload.wrapper import files
from supervisor_hotreload.wrapper.listening import BadAddress, Listening
from tests.harness.waiting import wait_until
from tests.harness.wrapped import Wrapped, python

SERVER = python("import time; print('up', flush=True); time.sleep(60)")

SABOTEUR = """
import os, sys
from supervisor_hotreload.core.reload import Reload
from supervisor_hotreload.system.world import World
from supervisor_hotreload.wrapper.children import Children
from supervisor_hotreload.wrapper.ending import Ending
from supervisor_hotreload.wrapper.entry import main
from supervisor_hotreload.wrapper.files import ProtectedFiles
from supervisor_hotreload.wrapper.launch import Launch, Launcher
from supervisor_hotreload.wrapper.others import OtherGenerations
from supervisor_hotreload.wrapper.overlap import Overlap
from supervisor_hotreload.wrapper.reloads import Reloads, WrapperAdopter
from supervisor_hotreload.wrapper.reports import Reports
from supervisor_hotreload.wrapper.run import Runner
from supervisor_hotreload.wrapper.signals import Signals
from supervisor_hotreload.wrapper.tracked import TrackedServer
from supervisor_hotreload.wrapper.upgrade import Upgrade

path = {path!r}

def sabotage(owner, name):
    real = getattr(owner, name)
    def broken(*arguments, **more):
        try:
            with open(path) as file:
                wanted = file.read().split()
        except OSError:
            wanted = []
        if f"{{owner.__name__}}.{{name}}" in wanted:
            if "always" not in wanted:
                os.unlink(path)
            raise OSError(24, "sabotage\\x1b\\nhotreload: forged")
        return real(*arguments, **more)
    is_static = isinstance(vars(owner).get(name), staticmethod)
    setattr(owner, name, staticmethod(broken) if is_static else broken)

for word in {targets!r}.split():
    owner, _, name = word.partition(".")
    sabotage(globals()[owner], name)
main()
"""

RELOADING = (
    "Runner._reap Runner._step Runner._handle Runner._report Runner._pause Children.reap "
    "Reloads.begin Reloads._steps Reloads._overlap Reloads.step Signals.wait TrackedServer.find "
    "World.status World.alive World.children World.listening World.sockets World.signal "
    "Reports.write Reports.reloading Reports.ended Reports.ready Reload.begin Reload.step "
    "WrapperAdopter.expect WrapperAdopter.adopt OtherGenerations.expect OtherGenerations.adopt "
    "OtherGenerations.living OtherGenerations.end_leftovers Upgrade.step Launcher.start "
    "Launch.is_executed Overlap.ready Overlap.retired Overlap.close ProtectedFiles.protect "
    "ProtectedFiles.restore"
)

STOPPING = (
    "Runner._handle Runner._stop Ending.stop TrackedServer.master OtherGenerations.living "
    "World.send World.alive Runner._reap Children.reap Runner._died "
    "OtherGenerations.late_successor Ending._something_lives TrackedServer.orphans "
    "Reports.stopping Reports.write Runner._report "
    "TrackedServer.end_orphans TrackedServer.trouble"
)


def begin(wrapped: Wrapped, targets: str) -> pathlib.Path:
    """Start a wrapper in which any of *targets* raises once a file names it."""
    path = wrapped.root / "sabotage"
    code = SABOTEUR.format(path=str(path), targets=targets)
    status = wrapped.root / "status.json"
    options = ["-w0.05", "--drain-timeout=2", "--status-file", status, "--"]
    wrapped.begin(*options, *SERVER, program=[sys.executable, "-c", code])
    wait_until(lambda: "up" in wrapped.console(), what=wrapped.console())
    return path


def sabotage(path: pathlib.Path, text: str) -> None:
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").replace(path)


def is_settled(wrapped: Wrapped) -> bool:
    assert wrapped.running, wrapped.console()
    state = wrapped.status()
    return state["state"] == "serving" and len(wrapped.servers()) == 1


def test_no_step_of_a_reload_ends_it(wrapped: Wrapped) -> None:
    path = begin(wrapped, RELOADING)
    for target in RELOADING.split():
        sabotage(path, target)
        wrapped.send("HUP")
        wait_until(lambda: not path.exists(), 60, f"{target} was called\n{wrapped.console()}")
        wait_until(lambda: is_settled(wrapped), 60, f"{target}\n{wrapped.console()}")
        assert wrapped.running, target
    assert not any(line.startswith("hotreload: forged") for line in wrapped.lines())
    assert "\x1b" not in wrapped.console()
    wrapped.hup()
    wrapped.send("TERM")
    wrapped.wait()
    assert wrapped.alone


@pytest.mark.parametrize("target", STOPPING.split())
def test_no_step_keeps_it_from_ending(wrapped: Wrapped, target: str) -> None:
    path = begin(wrapped, STOPPING)
    wrapped.servers()
    sabotage(path, target)
    wrapped.send("TERM")
    wrapped.wait()
    assert not path.exists(), "never called"
    assert wrapped.alone


def test_it_ends_where_it_can_look_at_nothing(wrapped: Wrapped) -> None:
    path = begin(wrapped, "World.status World.alive World.children")
    wrapped.servers()
    sabotage(path, "always World.status World.alive World.children")
    wrapped.send("HUP")
    wait_until(lambda: "sabotage" in wrapped.console(), what="an error is reported")
    wrapped.send("USR1", "TERM")
    wrapped.wait(30)
    wait_until(lambda: wrapped.alone, what="its server has ended, too")


def test_no_descriptor_is_left(wrapped: Wrapped) -> None:
    wrapped.begin("-w0.05", "--status-file", wrapped.root / "status.json", "--", *SERVER)
    wait_until(lambda: "up" in wrapped.console(), what=wrapped.console())
    wrapped.servers()
    before = resource.prlimit(wrapped.pid, resource.RLIMIT_NOFILE)
    none = (5, before[1])
    resource.prlimit(wrapped.pid, resource.RLIMIT_NOFILE, none)
    wrapped.send("HUP", "USR2")
    wait_until(lambda: wrapped.said("Too many open files"), what=wrapped.console())
    assert len(wrapped.servers()) == 1
    resource.prlimit(wrapped.pid, resource.RLIMIT_NOFILE, before)
    wrapped.hup()
    resource.prlimit(wrapped.pid, resource.RLIMIT_NOFILE, none)
    wrapped.send("TERM")
    wait_until(lambda: not wrapped.running, 60, wrapped.console)
    assert wrapped.alone


@pytest.mark.parametrize("gone", ["folder", "status file"])
def test_a_folder_that_vanishes(wrapped: Wrapped, gone: str) -> None:
    folder = wrapped.root / "doomed"
    folder.mkdir()
    status = folder / "status.json" if gone == "status file" else wrapped.root / "status.json"
    wrapped.begin("-w0.05", "--status-file", status, "--", *SERVER, cwd=folder)
    wait_until(lambda: "up" in wrapped.console() and status.exists(), what=wrapped.console())
    status.unlink()
    folder.rmdir()
    wrapped.hup("failed")
    wrapped.send("USR2")
    wait_until(lambda: wrapped.said("upgrade"), what=wrapped.console())
    assert len(wrapped.servers()) == 1
    wrapped.send("TERM")
    wrapped.wait()
    assert wrapped.alone


def test_a_status_file_that_is_a_device_without_room(wrapped: Wrapped) -> None:
    """A file system that is full, as far as one can be had here."""
    wrapped.begin("-w0.05", "--status-file", "/proc/self/nothing", "--", *SERVER)
    wait_until(lambda: wrapped.said("cannot be written"), what=wrapped.console())
    wrapped.hup()
    assert wrapped.said("cannot be written") == 1


def test_a_real_time_signal_reaches_the_server(wrapped: Wrapped) -> None:
    number = signal.SIGRTMIN + 3
    code = f"import signal, time; signal.signal({number}, lambda *_: print('heard', flush=True))"
    wrapped.begin(*python(f"{code}\nprint('up', flush=True)\nwhile True: time.sleep(1)"))
    wait_until(lambda: "up" in wrapped.console(), what=wrapped.console())
    os.kill(wrapped.pid, number)
    wait_until(lambda: "heard" in wrapped.console(), what=wrapped.console())
    assert wrapped.running


# -- sockets and files that are given or found


@pytest.mark.parametrize("given", ["", "x", "-1", "²", "99999999999", "4000", "1e3", " 1"])
def test_a_malformed_number_of_sockets(given: str) -> None:
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": given}
    assert Listening((), environment).descriptors == []


def test_somebody_listens_whose_backlog_is_full(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as client:
        full.bind(path)
        full.listen(0)
        client.connect(path)
        with pytest.raises(BadAddress, match="somebody listens there"):
            Listening((f"unix:{path}",), {})


def test_only_our_own_socket_is_removed(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "s"
    listening = Listening((f"unix:{path}",), {})
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        listening.remove_paths()
        assert path.exists()
    path.unlink()
    Listening((f"unix:{path}",), {}).remove_paths()
    assert not path.exists()


@pytest.mark.parametrize("kind", ["symlink", "fifo", "hard link"])
def test_a_file_of_ours_goes_through_nothing(tmp_path: pathlib.Path, kind: str) -> None:
    """Whoever owns the folder may have put anything where we write."""
    secret, path = tmp_path / "secret", tmp_path / "pid"
    secret.write_text("secret")
    for name in (path, tmp_path / "pid.new"):
        if kind == "fifo":
            os.mkfifo(name)
        elif kind == "symlink":
            name.symlink_to(secret)
        else:
            name.hardlink_to(secret) if hasattr(name, "hardlink_to") else os.link(secret, name)
    replace_file(str(path), "12\n", 0o644)
    assert path.read_text() == "12\n"
    assert not path.is_symlink()
    assert secret.read_text() == "secret"
    files.remove_if(str(path), "13\n")
    assert path.exists()
    files.remove_if(str(path), "12\n")
    assert not path.exists()
    path.symlink_to(secret)
    files.remove_if(str(path), "secret")
    assert path.is_symlink()
