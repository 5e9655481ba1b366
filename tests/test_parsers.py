"""What reads the kernel's answers believes nothing that is torn, and raises nothing else."""

from __future__ import annotations

import contextlib
import os
import socket
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor_hotreload.system import descriptors, sock_diag, sockets
from supervisor_hotreload.system.budget import Unreadable
from supervisor_hotreload.system.sock_diag import Refused

EXAMPLES = settings(max_examples=int(os.environ.get("HOTRELOAD_EXAMPLES", "300")), deadline=None)

numbers = st.integers(0, 2**32 - 1)


def message(kind: int, body: bytes) -> bytes:
    length = sock_diag.HEADER.size + len(body)
    return sock_diag.HEADER.pack(length, kind, 0, 1, 0) + body + bytes(-length % 4)


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


@st.composite
def unix_bodies(draw: st.DrawFn) -> tuple[sock_diag.Unix, bytes]:
    """A unix socket, and how the kernel tells of it."""
    state, inode = draw(st.integers(0, 255)), draw(numbers)
    name = draw(st.binary(min_size=1, max_size=108).filter(lambda b: b"\0" not in b))
    abstract, file = draw(st.booleans()), (draw(numbers), draw(numbers))
    body = struct.pack("=4BI8x", socket.AF_UNIX, 1, state, 0, inode)
    body += attribute(0, b"\0" + name if abstract else name + b"\0")
    body += attribute(1, struct.pack("=II", file[1], file[0])) + attribute(7, b"x")
    told = os.fsdecode(b"@" + name if abstract else name)
    return sock_diag.Unix(state, inode, told, file), body


@EXAMPLES
@given(unix_bodies())
def test_what_the_kernel_tells_of_a_unix_socket(told: tuple[sock_diag.Unix, bytes]) -> None:
    assert sock_diag.read_unix(told[1]) == told[0]


@EXAMPLES
@given(st.binary(max_size=300), st.data())
def test_no_answer_raises_anything_else(noise: bytes, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([2, 3, 20, 99]))
    for text in (noise, message(kind, noise)):
        with contextlib.suppress(Unreadable, Refused):
            list(sock_diag.messages(text))
    for read in (sock_diag.read_tcp, sock_diag.read_unix):
        with contextlib.suppress(Unreadable):
            read(noise)  # type: ignore[operator]


@EXAMPLES
@given(st.lists(st.binary(max_size=100), max_size=5), st.integers(0, 600))
def test_a_torn_answer_is_not_believed(bodies: list[bytes], cut: int) -> None:
    found = []
    with contextlib.suppress(Unreadable):
        for _, body in sock_diag.messages(b"".join(message(20, b) for b in bodies)[:cut]):
            found.append(body)
    assert found == bodies[: len(found)]


@EXAMPLES
@given(unix_bodies(), st.integers(0, 300))
def test_a_torn_socket_is_not_believed(told: tuple[sock_diag.Unix, bytes], cut: int) -> None:
    with contextlib.suppress(Unreadable):
        found = sock_diag.read_unix(told[1][:cut])
        assert found is not None
        assert found.name in ("", told[0].name)
        assert found.file in (None, told[0].file)


LINE = "{:016x}: 00000002 00000000 {:08X} 0001 01 {:5d}{}"
forged = st.builds(
    lambda inode, path: LINE.format(0, 0x10000, inode, path),
    st.integers(1, 8),
    st.sampled_from(["", " ", " /run/other", " @x"]),
)
names = st.lists(st.one_of(st.text(max_size=10), forged), min_size=1, max_size=3).map("\n".join)


@EXAMPLES
@given(st.lists(st.tuples(st.booleans(), names), max_size=8))
def test_no_name_makes_a_listener(bound: list[tuple[bool, str]]) -> None:
    """The sockets 1, 2, ... are bound to any names; nothing else is known of them."""
    table = "\n".join(
        LINE.format(inode, 0x10000 if listens else 0, inode, f" {name}")
        for inode, (listens, name) in enumerate(bound, 1)
    )
    found = sockets._unix(iter(table.split("\n")))
    for inode, (listens, name) in enumerate(bound, 1):
        if inode in found:
            assert listens
            assert found[inode] in ("", name.partition("\n")[0])


TCP = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 777 1 x"


@EXAMPLES
@given(st.one_of(st.text(max_size=200), st.integers(0, len(TCP)).map(lambda cut: TCP[:cut])))
def test_a_torn_line_of_tcp_is_not_believed(line: str) -> None:
    seen = sockets.TCP_LINE.fullmatch(line)
    if seen is not None:
        assert seen["here"] == "0100007F:1F90"
        assert "777".startswith(seen["inode"])


INFO = b"pos:\t0\nflags:\t02\nmnt_id:\t15\ntfd:        5 events:       19 data: 5  pos:0 ino:8\n"


@EXAMPLES
@given(st.one_of(st.binary(max_size=200), st.integers(0, len(INFO)).map(lambda cut: INFO[:cut])))
def test_a_torn_line_of_an_epoll_set_is_not_believed(info: bytes) -> None:
    found = descriptors.targets(info)
    assert all(name.isdigit() for name in found)
    assert not (INFO.startswith(info) and info != INFO and found)


@EXAMPLES
@given(st.one_of(st.text(max_size=40), numbers.map("socket:[{}]".format)))
def test_what_a_link_is(link: str) -> None:
    inode = descriptors.inode_of(link)
    assert inode is None or link == f"socket:[{inode:0{len(link) - 9}d}]"
    descriptors.is_heartbeat(link)
