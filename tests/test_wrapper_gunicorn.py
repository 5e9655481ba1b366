"""What rainbow-saddle's users rely on, and what they asked for."""

from __future__ import annotations

import os
import signal
import time

import psutil
import pytest

from tests.harness.load import Load, get
from tests.harness.waiting import wait_until
from tests.harness.wrapped import Wrapped, python


def test_its_command_line_reloads_code_that_was_copied(wrapped: Wrapped) -> None:
    """rainbow-saddle's own functional test: the file is overwritten in place."""
    target = wrapped.folder / "wsgi.py"
    target.write_text((wrapped.folder / "app.py").read_text())
    pidfile = wrapped.root / "saddle.pid"
    wrapped.run(
        f"--pid={pidfile}",
        wrapped.bin / "gunicorn",
        "wsgi:app",
        f"--bind=127.0.0.1:{wrapped.port}",
    )
    target.write_text(target.read_text().replace("'v1'", "'v2'"))
    os.kill(int(pidfile.read_text()), signal.SIGHUP)
    wrapped.wait_for_release("v2")
    wrapped.send("QUIT")
    wrapped.wait()


@pytest.mark.parametrize("where", ["cwd", "--chdir", "gunicorn"])
def test_a_symlink_is_followed_anew(wrapped: Wrapped, where: str) -> None:
    """gunicorn's HUP does not do that: benoitc/gunicorn 394."""
    words, cwd = {
        "cwd": (wrapped.command(), wrapped.folder),
        "--chdir": (["--chdir", wrapped.folder, *wrapped.command()], wrapped.root),
        "gunicorn": (wrapped.command("-w1", "--chdir", str(wrapped.folder)), wrapped.root),
    }[where]
    wrapped.run(*words, cwd=cwd)
    for release in ("v2", "v3"):
        wrapped.release(release)
        wrapped.hup()
        wrapped.wait_for_release(release)


def test_a_changed_pth_is_read_anew(wrapped: Wrapped) -> None:
    """gunicorn's HUP does not do that: benoitc/gunicorn 402."""
    site = wrapped.root / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(f"import site; site.addsitedir({str(site)!r})\n")
    wrapped.release("v2")
    pth = site / "release.pth"
    pth.write_text(f"{wrapped.root}/releases/v1\n")
    empty = wrapped.root / "empty"
    empty.mkdir()
    wrapped.run(*wrapped.command(), cwd=empty, PYTHONPATH=str(site))
    pth.write_text(f"{wrapped.root}/releases/v2\n")
    wrapped.hup()
    wrapped.wait_for_release("v2")


@pytest.mark.parametrize("arguments", [("-w2",), ("-w1", "--preload")])
def test_a_release_that_cannot_boot_changes_nothing(
    wrapped: Wrapped, arguments: tuple[str, ...]
) -> None:
    """rainbow-saddle waits for ever then, and silently: its issue 11."""
    wrapped.run("--status-file", wrapped.root / "status.json", *wrapped.command(*arguments))
    wait_until(lambda: wrapped.status()["state"] == "serving", what="every worker is ready")
    with Load(wrapped.port, fast=1, slow=1) as load:
        load.wait_in_flight()
        wrapped.release("broken", code="raise RuntimeError('broken')")
        wrapped.hup("failed")
        assert wrapped.said(": rolling back: the successor") == 1
        link, broken = wrapped.folder, f"{wrapped.root}/releases/broken"
        wait_until(lambda: wrapped.said(f"{link} points at {broken} now, but it runs "))
        wrapped.release("v2")
        wrapped.hup()
        wrapped.wait_for_release("v2")
    assert load.dropped == []
    assert len(wrapped.servers()) == 1


def test_a_slow_start_is_waited_for(wrapped: Wrapped) -> None:
    """rainbow-saddle ends the old master before: its pull request 6."""
    wrapped.run(*wrapped.command())
    with Load(wrapped.port, fast=1, slow=0) as load:
        wrapped.release("v2", boot=3)
        wrapped.hup()
        wrapped.wait_for_release("v2")
    assert load.dropped == []
    assert load.patient < 1.5


def test_a_release_that_is_too_slow_is_rolled_back(wrapped: Wrapped) -> None:
    wrapped.run("--ready-timeout=1", *wrapped.command())
    wrapped.release("v2", boot=30)
    wrapped.hup("failed")
    assert wrapped.said("timed out after 1 s waiting for workers to boot")
    assert get(wrapped.port).startswith(b"v1 ")


def test_hups_during_a_reload_become_one(wrapped: Wrapped) -> None:
    """And one that comes while the first generation starts is not lost."""
    wrapped.release("v1", boot=1)
    wrapped.begin(*wrapped.command("-w1", "--preload"))
    wait_until(lambda: "Starting gunicorn" in wrapped.console())
    wrapped.send("HUP")
    wrapped.wait_for_release("v1")
    wait_until(lambda: wrapped.said("succeeded") == 1, what=wrapped.console())
    wrapped.send("HUP")
    wait_until(lambda: wrapped.said("spawning") == 2)
    wrapped.release("v2")
    for _ in range(5):
        wrapped.send("HUP")
        time.sleep(0.05)  # each is heard on its own
    wait_until(lambda: len(wrapped.outcomes()) == 3, what="two more reloads")
    assert wrapped.outcomes()[::2] == ["succeeded", "succeeded"]
    wrapped.wait_for_release("v2")
    assert wrapped.said("spawning:") == 3


def test_the_release_moves_while_the_successor_starts(wrapped: Wrapped) -> None:
    """gunicorn resolves the symlink then, and serves that release for ever after."""
    wrapped.run(*wrapped.command())
    wrapped.release("v2", boot=1)
    wrapped.send("HUP")
    wait_until(lambda: wrapped.console().count("Booting worker") == 2)
    wrapped.release("v3")
    wait_until(lambda: len(wrapped.outcomes()) == 2, what="it is tried once more")
    assert wrapped.outcomes() == ["rolled back", "succeeded"]
    assert wrapped.said("was moved to") == 1
    wrapped.wait_for_release("v3")
    wrapped.release("v4")
    wrapped.hup()
    wrapped.wait_for_release("v4")


@pytest.mark.parametrize("option", ["--gunicorn-pidfile", "-p"])
def test_gunicorns_own_pidfile(wrapped: Wrapped, option: str) -> None:
    """From 19.6 on the successor writes PIDFILE.2 until it is promoted."""
    pidfile = wrapped.root / "gunicorn.pid"
    if option == "-p":
        wrapped.run(*wrapped.command("-w1", "-p", str(pidfile)))
    else:
        wrapped.run(option, pidfile, *wrapped.command())
    for _ in range(2):
        wrapped.hup()
        assert [server.pid for server in wrapped.servers()] == [int(pidfile.read_text())]
        assert not (wrapped.root / "gunicorn.pid.2").exists()


def test_the_new_master_is_a_child(wrapped: Wrapped) -> None:
    """With rainbow-saddle it is an orphan: its issue 14."""
    wrapped.run(*wrapped.command())
    for _ in range(2):
        wrapped.hup()
        master = int(get(wrapped.port).split()[2])
        assert [server.pid for server in wrapped.servers()] == [master]
    psutil.Process(master).kill()
    assert wrapped.wait() == -signal.SIGKILL


def test_a_check_has_the_last_word(wrapped: Wrapped) -> None:
    verdict = wrapped.root / "verdict"
    verdict.write_text("exit 3")
    wrapped.run(
        "--check", f"sh -c 'echo $HOTRELOAD_NEW_PID is bad; . {verdict}'", *wrapped.command()
    )
    wrapped.release("v2")
    wrapped.hup("rolled back")
    assert wrapped.said("exited with status 3: ") == 2  # why, and the outcome
    assert get(wrapped.port).startswith(b"v1 ")
    verdict.write_text("exit 0")
    wrapped.hup()
    wrapped.wait_for_release("v2")


def test_a_release_that_does_not_last_is_rolled_back(wrapped: Wrapped) -> None:
    wrapped.run("--bake=5", *wrapped.command())
    code = (wrapped.folder / "app.py").read_text().replace("'v1'", "'v2'")
    code += "\nimport threading\nthreading.Timer(0.7, os._exit, (9,)).start()\n"
    wrapped.release("v2", code=code)
    wrapped.hup("rolled back")
    assert wrapped.said("died"), wrapped.console()
    wait_until(lambda: get(wrapped.port).startswith(b"v1 "))


@pytest.mark.parametrize("phase", ["spawning", "booting", "draining"])
def test_a_stop_during_a_reload_leaves_nothing(wrapped: Wrapped, phase: str) -> None:
    wrapped.run(*wrapped.command())
    wrapped.release("v2", boot=0.5)
    with Load(wrapped.port, fast=0, slow=1) as load:
        load.wait_in_flight()
        wrapped.send("HUP")
        wait_until(lambda: wrapped.said(f"{phase}:"), what=wrapped.console())
        wrapped.family()
        wrapped.send("TERM")
        assert wrapped.wait() == 0
        load._over.set()
    assert wrapped.kill_leftovers() == []


def test_a_successor_made_by_hand_is_followed(wrapped: Wrapped) -> None:
    """A deploy script from before that sends USR2 and TERM itself."""
    wrapped.run(*wrapped.command())
    old = wrapped.servers()[0]
    wrapped.release("v2")
    old.send_signal(signal.SIGUSR2)
    wait_until(lambda: wrapped.console().count("Booting worker") == 2)
    wrapped.wait_for_release("v2")
    wrapped.send("HUP")
    wait_until(lambda: wrapped.said("has a successor already"), what=wrapped.console())
    old.terminate()
    wait_until(lambda: wrapped.said("serves in its place"), what=wrapped.console())
    assert wrapped.running
    assert [server.pid for server in wrapped.servers()] == [int(get(wrapped.port).split()[2])]


def test_the_old_master_dies_in_the_middle_of_a_reload(wrapped: Wrapped) -> None:
    wrapped.run(*wrapped.command())
    wrapped.release("v2", boot=2)
    old = wrapped.servers()[0]
    wrapped.send("HUP")
    wait_until(lambda: wrapped.said("booting:"))
    old.kill()
    wait_until(lambda: wrapped.said("serves in its place"), what=wrapped.console())
    wrapped.wait_for_release("v2")
    wrapped.hup()


def test_the_new_master_dies_while_the_old_one_drains(wrapped: Wrapped) -> None:
    """Then nothing is left to serve, and a supervisor has to know at once."""
    wrapped.run(*wrapped.command("-w2"))
    with Load(wrapped.port, fast=0, slow=1, slow_path="/slow2") as load:
        load.wait_in_flight()
        wrapped.send("HUP")
        wait_until(lambda: wrapped.said("draining:"), what=wrapped.console())
        psutil.Process(wrapped.successor()).kill()
        load._over.set()
        assert wrapped.wait() == 1
    assert load.dropped == []


def test_a_server_that_is_no_server_is_restarted_all_the_same(wrapped: Wrapped) -> None:
    wrapped.begin("-w0.2", *python("import time; print('up', flush=True); time.sleep(60)"))
    wait_until(lambda: "up" in wrapped.console())
    wrapped.hup()
    wait_until(lambda: wrapped.console().count("up") == 2, what=wrapped.console)
    assert len(wrapped.servers()) == 1
