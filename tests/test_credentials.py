"""Looking with a program's own rights, and coming back from it."""

from __future__ import annotations

import ctypes
import os
import pathlib
import subprocess
from collections.abc import Iterator

import pytest

from supervisor_hotreload.listener.watched_program import WatchedProgram
from supervisor_hotreload.listener.watcher import Watcher
from supervisor_hotreload.system.credentials import Ids, ids_of, rights_of

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root has rights to lend")

NOBODY = Ids.of_user(65534, 65534)
DAEMON = Ids.of_user(1, 1)


@pytest.fixture
def files(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file of root's, one that root's group may read, one of each user's."""
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_mode & 0o005 != 0o005:
            path.chmod(path.stat().st_mode | 0o055)
    for name, mode, owner in (
        ("root", 0o600, 0),
        ("group", 0o640, 0),
        ("nobody", 0o600, 65534),
        ("daemon", 0o600, 1),
    ):
        path = tmp_path / name
        path.write_text("secret")
        os.chown(path, owner, 0 if owner == 0 else -1)
        path.chmod(mode)
    yield tmp_path


def readable(folder: pathlib.Path) -> set[str]:
    found = set()
    for path in folder.iterdir():
        try:
            path.read_text()
        except PermissionError:
            continue
        found.add(path.name)
    return found


def test_the_rights_of_a_user_and_no_others(files: pathlib.Path) -> None:
    groups = os.getgroups()
    os.setgroups([0])  # root's shell has that
    try:
        with rights_of(NOBODY):
            assert readable(files) == {"nobody"}
        assert len(readable(files)) == 4
        assert os.getgroups() == [0]
    finally:
        os.setgroups(groups)


def test_one_look_within_another(files: pathlib.Path) -> None:
    with rights_of(NOBODY):
        with rights_of(DAEMON):
            assert readable(files) == {"daemon"}
        assert readable(files) == {"nobody"}
    assert len(readable(files)) == 4


def test_an_exception_gives_them_back(files: pathlib.Path) -> None:
    with pytest.raises(ZeroDivisionError), rights_of(NOBODY):
        raise ZeroDivisionError
    assert len(readable(files)) == 4


@pytest.mark.parametrize(
    "ids", [None, Ids((65534, 0, 0, 0), (65534,) * 4), Ids((65534,) * 4, (65534, 0, 0, 0))]
)
def test_ids_that_differ_among_themselves_have_no_rights(ids: Ids) -> None:
    with pytest.raises(PermissionError), rights_of(ids):
        raise AssertionError("looked")


def test_what_a_change_of_ids_clears_is_put_back() -> None:
    libc = ctypes.CDLL(None)
    signal = ctypes.c_int()
    assert libc.prctl(1, 15, 0, 0, 0) == 0
    try:
        with rights_of(NOBODY):
            pass
        libc.prctl(2, ctypes.byref(signal), 0, 0, 0)
        assert signal.value == 15
        assert libc.prctl(3, 0, 0, 0, 0) == 1
    finally:
        libc.prctl(1, 0, 0, 0, 0)


def test_the_four_ids_of_a_process() -> None:
    child = subprocess.Popen(["sleep", "1000"], user=65534, group=65534, extra_groups=[7])
    try:
        found = ids_of(child.pid)
        assert found == Ids((65534,) * 4, (65534,) * 4, (7,))
        assert found.user == 65534
    finally:
        child.kill()
        child.wait()
    assert ids_of(child.pid) is None


def test_the_listener_looks_at_paths_as_the_program_may(files: pathlib.Path) -> None:
    """A link of the program's user does not lead it where only root may look."""
    said: list[str] = []
    hidden = files / "hidden"
    hidden.mkdir(0o700)
    (hidden / "flag").touch()
    (files / "link").symlink_to(hidden / "flag")
    rights = [" ".join(map(str, ids)) for ids in NOBODY]
    row = {"triggers": {"touch": [str(files / "link")]}, "rights": rights}
    watcher = Watcher(said.append)
    program = WatchedProgram("myapp", row)
    watcher.look(program, 0.0)
    assert said == [f"myapp: touch {files / 'link'}: permission denied"]
    assert program.stamps == {}
    row["rights"] = ["0 0 0 0", "0 0 0 0", ""]
    watcher.look(program, 1.0)
    assert said[1:] == [f"myapp: touch {files / 'link'}: it is all right now"]


def test_the_listener_looks_at_the_age_of_a_path_as_the_program_may(
    files: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readable_then: list[set[str]] = []

    def changed(path: str) -> float:
        readable_then.append(readable(files))
        return 0.0

    monkeypatch.setattr("supervisor_hotreload.listener.watcher.changed", changed)
    rights = [" ".join(map(str, ids)) for ids in NOBODY]
    row = {"triggers": {"touch": [str(files / "nobody")]}, "rights": rights}
    said: list[str] = []
    program = WatchedProgram("myapp", row, stamps={f"touch {files / 'nobody'}": [1, 1]})
    Watcher(said.append).look(program, 0.0)
    Watcher(said.append).look(WatchedProgram("myapp", row), 0.0, unseen=1.0)
    assert readable_then == [{"nobody"}] * 2
