"""What the program's user can write is hostile: pidfiles that lie, hang or are no files."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
from collections.abc import Iterator

import psutil
import pytest

from supervisor_hotreload.system.world import World
from tests.harness.house import House
from tests.harness.load import get, wait_for_answer
from tests.harness.waiting import wait_until

CONTENTS = {
    "empty": b"",
    "zero": b"0\n",
    "init": b"1\n",
    "negative": b"-5\n",
    "plus": b"+5\n",
    "garbage": b"\xff\xfe pid\n",
    "float": b"12.5\n",
    "nul": b"12\x0034\n",
    "huge number": b"99999999999999999999\n",
    "70 kB": b"1" * 70_000,
    "two": b"12 13\n",
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_contents_that_are_no_pid(tmp_path: pathlib.Path, kind: str) -> None:
    path = tmp_path / "app.pid"
    path.write_bytes(CONTENTS[kind])
    with pytest.raises(ValueError, match=r"app\.pid") as caught:
        World().read_pid(str(path))
    assert "\n" not in str(caught.value)


def test_a_pid(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "app.pid"
    path.write_text(" 1234\n")
    assert World().read_pid(str(path)) == 1234


def make(kind: str, path: pathlib.Path) -> None:
    """Put something in the place of the pidfile."""
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "directory":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "dangling":
        path.symlink_to("/no/such/file")
    elif kind == "secret":
        path.symlink_to("/etc/shadow")


KINDS = ["fifo", "device", "directory", "loop", "dangling", "missing", "secret"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_neither_hangs_nor_leaks(tmp_path: pathlib.Path, kind: str) -> None:
    path = tmp_path / "app.pid"
    make(kind, path)
    with pytest.raises(ValueError, match=r"app\.pid") as caught:
        World().read_pid(str(path))
    assert "root:" not in str(caught.value)


@pytest.fixture
def strangers() -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Processes that are none of supervisord's: one that lives, a zombie, one that is gone."""
    started = {
        "a stranger": subprocess.Popen(["sleep", "1000"]),
        "a zombie": subprocess.Popen(["true"]),
        "nobody": subprocess.Popen(["true"]),
    }
    started["nobody"].wait()
    yield started
    for process in started.values():
        process.kill()
        process.wait()


@pytest.mark.long
def test_a_pidfile_that_names_somebody_else(
    house: House, strangers: dict[str, subprocess.Popen[bytes]]
) -> None:
    """Nothing foreign is signalled, and the reload goes on by kinship."""
    pidfile = house.root / "app.pid"
    other = "[program:other]\ncommand = /bin/sleep 1000\n"
    house.configure("--workers 1", settings=f"pidfile = {pidfile}", more=other)
    house.start()
    house.wait_for("RUNNING", "other")
    named = {who: process.pid for who, process in strangers.items()}
    named.update({"supervisord": house.pid, "another program": house.info("other")["pid"]})
    living = [psutil.Process(named[who]) for who in ("a stranger", "another program")]
    for who, pid in named.items():
        pidfile.write_text(f"{pid}\n")
        done = house.reload()
        assert f"pidfile {pidfile} names pid {pid}, which is not" in done.stdout, who
    for kind in ("fifo", "device", "secret"):
        make(kind, pidfile)
        done = house.reload()
        assert f"pidfile {pidfile}: " in done.stdout
        pidfile.unlink()
    pidfile.write_text(f"{named['another program']}\n")
    os.kill(house.info()["pid"], signal.SIGKILL)
    wait_until(lambda: house.log().count("spawned: 'myapp'") == 2, what="spawned again")
    assert all(process.is_running() for process in living)
    assert "is adopted" not in house.log()
    assert wait_for_answer(house.port)


def test_log_lines_cannot_command_a_terminal(house: House) -> None:
    house.configure("--workers 1")
    house.start()
    house.release("v2", code="print('\\x1b]0;owned\\x07\\x00', flush=True)\nimport nothing_such\n")
    done = house.ctl("hotreload", "-v", "myapp")
    assert done.returncode == 1
    assert "nothing_such" in done.stdout
    assert "owned" in done.stdout
    assert not set(done.stdout) & {"\x1b", "\x07", "\x00"}
    assert get(house.port)
