"""Other worlds: namespaces, hidden processes, missing privileges, clocks that jump."""

from __future__ import annotations

import os
import subprocess

import pytest

from supervisor_hotreload.system.world import World
from tests.harness.house import House
from tests.harness.load import Load
from tests.harness.sabotage import saboteur
from tests.harness.waiting import wait_until

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root makes namespaces")


def reload_under_load(house: House) -> str:
    with Load(house.port) as load:
        load.wait_in_flight()
        house.release("v2")
        done = house.reload()
        load.wait_for("v2")
    assert load.dropped == []
    return str(done.stdout)


@needs_root
def test_supervisord_is_pid_1_of_a_namespace(house: House) -> None:
    house.wrapper = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    house.configure()
    house.start()
    assert house.rpc().supervisor.getPID() == 1
    reload_under_load(house)
    assert house.ctl("stop", "myapp").stdout == "myapp: stopped\n"


@needs_root
def test_processes_of_others_are_hidden(house: House) -> None:
    """A supervisord of user nobody, under /proc mounted with hidepid."""
    house.open_to_all()
    script = 'mount -t proc -o hidepid=2 proc /proc && exec "$@"'
    house.wrapper = [
        "unshare",
        "--pid",
        "--mount",
        "--fork",
        "--kill-child",
        "sh",
        "-c",
        script,
        "-",
    ]
    house.configure(supervisord="user = nobody")
    house.start(running="")
    house.wait_for("RUNNING")
    reload_under_load(house)


@needs_root
def test_root_without_ptrace_looks_with_the_programs_rights(house: House) -> None:
    """As root in a container (Docker's default): readiness is proved, not guessed."""
    house.open_to_all()
    house.wrapper = ["setpriv", "--bounding-set", "-sys_ptrace"]
    house.configure(program="user = nobody")
    house.start()
    printed = reload_under_load(house)
    assert "warning" not in printed
    assert "there are 2" in printed
    assert "settle:10" not in printed


@needs_root
def test_another_subreaper_above_it(house: House) -> None:
    code = (
        "import ctypes, subprocess, sys\n"
        "ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n"
        "sys.exit(subprocess.call(sys.argv[1:]))\n"
    )
    house.wrapper = [house.python, "-c", code]
    house.configure()
    house.start()
    reload_under_load(house)
    assert house.reload_info()["watched"] is False
    house.ctl("shutdown")
    house.wait_for_exit()


def test_without_a_subreaper_it_is_adopted_by_watching(house: House) -> None:
    house.configure(defaults="subreaper = false")
    house.start()
    for _ in range(2):
        reload_under_load(house)
        house.release("v1")
    assert house.reload_info()["watched"] is True
    assert "adopted by watching" in house.log()
    pid = house.info()["pid"]
    os.kill(pid, 15)
    wait_until(lambda: house.info()["pid"] not in (0, pid), what="its exit is seen")
    house.wait_until_complete()
    house.reload()
    assert house.ctl("stop", "myapp").stdout == "myapp: stopped\n"
    assert house.application() == []


@pytest.mark.parametrize("hour", [3600, -3600])
def test_the_system_clock_jumps(house: House, hour: int) -> None:
    house.configure(more=saboteur(clock="true"), settings="bake = 1")
    house.start()
    with Load(house.port) as load:
        load.wait_in_flight()
        house.release("v2")
        house.rpc().hotreload.reloadProcess("myapp", False)
        house.wait_for_phase("baking")
        house.rpc().saboteur.setClock(hour)
        info = house.wait_for_outcome()
    assert info["outcome"] == "succeeded"
    assert 1 <= info["seconds"] < 60
    assert load.dropped == []
    assert house.info()["statename"] == "RUNNING"
    os.kill(house.info()["pid"], 15)
    assert house.wait_for("EXITED")["exitstatus"] == 0


@needs_root
def test_a_program_starts_where_supervisord_may_not_look(house: House) -> None:
    """supervisord in a folder of root's, a program of nobody's without a directory."""
    house.configure(name="plain", command="/bin/sleep 1000", program="user = nobody")
    text = (house.root / "supervisord.conf").read_text().replace("directory = %(here)s/current", "")
    (house.root / "supervisord.conf").write_text(text)
    house.root.chmod(0o700)
    house.start(running="plain")


def test_a_signal_needs_no_pid_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """An old kernel or a seccomp filter has none; the identity is compared all the same."""

    def refuse(_pid: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "pidfd_open", refuse, raising=False)
    child = subprocess.Popen(["sleep", "1000"])
    try:
        world = World()
        process = world.lookup(child.pid)
        assert process is not None
        assert not world.signal(process._replace(start=process.start + 1), "KILL")
        assert child.poll() is None
        assert world.signal(process, "KILL")
        assert child.wait(10) == -9
        assert not world.signal(process, "KILL")
    finally:
        child.kill()
        child.wait()
