"""Who listens, as the kernel's tables tell it: everybody may write names into them."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from supervisor_hotreload import listeners

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")

FORGED = "00000000deadbeef: 00000002 00000000 00010000 0001 01 {inode} {path}"


def bound(name: str, listen: bool = False) -> socket.socket:
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(name)
    if listen:
        unix.listen()
    return unix


def inode(unix: socket.socket) -> int:
    return os.fstat(unix.fileno()).st_ino


@pytest.mark.parametrize("rest", ["b", "0: 1 2 3", "x: y z 00010000 1 2 9", "\r", "", "\xff"])
def test_a_name_with_a_line_feed_in_it_tears_nothing(rest: str) -> None:
    with bound(f"\0a{os.getpid()}\n{rest}"), bound(f"\0good{os.getpid()}", True) as good:
        found = listeners.listening(os.getpid())
        assert found[inode(good)] == f"@good{os.getpid()}"
        assert 9 not in found


def test_a_forged_line_makes_no_listener_of_a_socket_that_is_none() -> None:
    with bound(f"\0quiet{os.getpid()}") as quiet:
        line = FORGED.format(inode=inode(quiet), path="x")
        with bound(f"\0a\n{line}"):
            assert inode(quiet) not in listeners.listening(os.getpid())


def test_a_forged_line_gives_no_other_name_to_a_listener() -> None:
    with bound(f"\0loud{os.getpid()}", True) as loud:
        line = FORGED.format(inode=inode(loud), path="/run/stats")
        with bound(f"\0a\n{line}"):
            assert listeners.listening(os.getpid())[inode(loud)] == ""
