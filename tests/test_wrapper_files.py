"""What hotreload-run keeps for a server: its own sockets and pidfile, and nothing else."""

from __future__ import annotations

import os
import pathlib
import socket
import tempfile
from collections.abc import Iterator
from functools import partial

import pytest

from supervisor_hotreload.system import sock_diag
from supervisor_hotreload.system.credentials import Ids, ids_of
from supervisor_hotreload.system.process import lookup
from supervisor_hotreload.system.sockets import is_bound_to
from supervisor_hotreload.system.world import World
from supervisor_hotreload.wrapper import copy_survey
from supervisor_hotreload.wrapper.files import SecondName, is_own_file

NOBODY = Ids.of_user(65534)

FORGED = "00000000deadbeef: 00000002 00000000 00010000 0001 01 {inode} {path}"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def unix(tmp_path: pathlib.Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "app.sock"))
        made.listen()
        yield made


def inode(unix: socket.socket) -> int:
    return os.fstat(unix.fileno()).st_ino


def refuse(*_: object) -> Iterator[bytes]:
    raise sock_diag.Refused(1)


@pytest.mark.parametrize("asked", [True, False], ids=["sock_diag", "tables"])
def test_a_forged_line_names_no_file(
    unix: socket.socket, tmp_path: pathlib.Path, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any local user may bind a name with a line feed in it."""
    if not asked:
        monkeypatch.setattr(sock_diag, "_answers", refuse)
    me = lookup(os.getpid())
    assert me is not None
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as torn, socket.socket(socket.AF_UNIX) as forged:
        torn.bind("\0a\nb")
        assert copy_survey.survey(World(), me).paths[str(path)] == inode(unix)
        forged.bind("\0a\n" + FORGED.format(inode=inode(unix), path="/etc/passwd"))
        found = copy_survey.survey(World(), me).paths
    assert "/etc/passwd" not in found
    assert found.get(str(path)) == (inode(unix) if asked else None)


@pytest.mark.parametrize("asked", [True, False], ids=["sock_diag", "tables"])
def test_only_a_socket_is_kept_for_a_socket(
    unix: socket.socket, tmp_path: pathlib.Path, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not asked:
        monkeypatch.setattr(sock_diag, "_answers", refuse)
    path = tmp_path / "app.sock"
    genuine = partial(is_bound_to, inode(unix))
    name = SecondName(str(path), ids_of(os.getpid()), genuine)
    path.unlink()
    name.restore()
    assert path.is_socket()
    path.unlink()
    path.write_text("a file that somebody has put there")
    name.restore()
    assert path.is_file()
    name.remove()
    with pytest.raises(OSError, match="not what the server"):
        SecondName(str(path), ids_of(os.getpid()), genuine)
    assert list(tmp_path.iterdir()) == [path]


def test_only_its_own_pidfile_is_kept(tmp_path: pathlib.Path) -> None:
    path, mine = tmp_path / "pid", ids_of(os.getpid())
    path.symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="not what the server"):
        SecondName(str(path), mine, lambda p: is_own_file(p, mine))
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def shared() -> Iterator[pathlib.Path]:
    """A folder that every user can reach."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield pathlib.Path(name)


@needs_root
def test_root_does_nothing_that_the_server_may_not(shared: pathlib.Path) -> None:
    """A server of another user cannot let root link or replace files for it."""
    path, folder = shared / "pid", shared / "everybodys"
    path.write_text("1")
    with pytest.raises(PermissionError, match=r"not permitted|denied"):
        SecondName(str(path), NOBODY, lambda p: True)
    folder.mkdir()
    folder.chmod(0o777)
    linked = folder / "pid"
    os.link(path, linked)
    with pytest.raises(OSError, match=r"not (what the server|permitted)"):
        SecondName(str(linked), NOBODY, lambda p: is_own_file(p, NOBODY))
    assert list(folder.iterdir()) == [linked]


@needs_root
def test_root_keeps_what_is_the_servers(shared: pathlib.Path) -> None:
    path = shared / "pid"
    path.write_text("7")
    for name in (shared, path):
        os.chown(name, 65534, 65534)
    name = SecondName(str(path), NOBODY, lambda p: is_own_file(p, NOBODY))
    path.unlink()
    name.restore()
    assert path.read_text() == "7"
    name.remove()
    assert list(shared.iterdir()) == [path]
