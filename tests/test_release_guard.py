"""A successor that booted in a release that is no longer the current one is refused."""

from __future__ import annotations

import os
import pathlib
from typing import Optional

import pytest

from supervisor_hotreload.core.model import Failure, Fault
from supervisor_hotreload.core.reload import Reload
from supervisor_hotreload.servers.release_guard import ReleaseGuard, release_advice
from supervisor_hotreload.system.credentials import ids_of
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World

SUCCESSOR = Process(7, 7)


class OneDirectory(World):
    """A world in which every process runs in one directory; None hides it."""

    def __init__(self, directory: Optional[str]) -> None:
        super().__init__()
        self._directory = directory

    def alive(self, process: Process) -> bool:
        return True

    def directory(self, process: Process) -> Optional[str]:
        return self._directory


def switch(root: pathlib.Path, release: str) -> None:
    (root / release / "src").mkdir(parents=True, exist_ok=True)
    (root / "next").symlink_to(release)
    os.replace(root / "next", root / "current")


@pytest.mark.parametrize(
    ("runs_in", "refused"),
    [("v1", True), ("v2", False), ("v2/src", False), ("v20", True), (None, True)],
)
def test_a_move_refuses_what_does_not_run_in_the_new_release(
    tmp_path: pathlib.Path, runs_in: Optional[str], refused: bool
) -> None:
    switch(tmp_path, "v1")
    world = OneDirectory(None if runs_in is None else str(tmp_path / runs_in))
    guard = ReleaseGuard(world, str(tmp_path / "current"), ids_of(os.getpid()))
    assert guard.refusal(SUCCESSOR) == ""
    switch(tmp_path, "v2")
    refusal = guard.refusal(SUCCESSOR)
    assert bool(refusal) == refused
    if refused:
        assert f"was moved to {tmp_path}/v2 while the successor (pid 7) booted" in refusal


@pytest.mark.parametrize(
    ("runs_in", "directory", "advised"),
    [
        ("v1", "current", True),
        ("v1/src", "current", True),
        ("v2", "current", False),
        ("v2/src", "current", False),
        ("v1", "v2", False),  # no link has moved
        (None, "current", False),
    ],
)
def test_a_link_that_points_at_another_release_is_named(
    tmp_path: pathlib.Path, runs_in: Optional[str], directory: str, advised: bool
) -> None:
    switch(tmp_path, "v1")
    switch(tmp_path, "v2")
    world = OneDirectory(None if runs_in is None else str(tmp_path / runs_in))
    reload = Reload("myapp", world.now, print)
    reload.abandon(Failure(Fault.NOT_READY, "it was too slow"))
    link, rights = str(tmp_path / directory), ids_of(os.getpid())
    advice = release_advice(reload, world, link, rights, SUCCESSOR)
    assert bool(advice) == advised
    if advised:
        assert advice.startswith(f"; {tmp_path}/current points at {tmp_path}/v2 now, but it runs ")
    reload.adopted = True
    assert release_advice(reload, world, link, rights, SUCCESSOR) == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root takes the rights of others")
def test_the_symlinks_are_followed_with_nobodys_rights_where_none_are_given(
    tmp_path: pathlib.Path,
) -> None:
    with pytest.raises(PermissionError):
        ReleaseGuard(OneDirectory(None), str(tmp_path), None)
