"""Asks the kernel for sockets (sock_diag(7)). It filters them, and nobody can forge an answer."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple, Optional

from supervisor_hotreload.system.budget import Unreadable

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST, NLM_F_DUMP = 0x1, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3

TCP_SYN_RECV, TCP_LISTEN = 3, 10
"""States of a socket (net/tcp_states.h). A unix socket that listens is in TCP_LISTEN too."""

UDIAG_SHOW_NAME, UDIAG_SHOW_VFS = 0x1, 0x2
UNIX_DIAG_NAME, UNIX_DIAG_VFS = 0, 1

NO_COOKIE = b"\xff" * 8
"""Asks for a socket whatever its cookie is."""

HEADER = struct.Struct("=IHHII")
INET = struct.Struct("=4B2s2s16s16s28xI")
"""struct inet_diag_msg up to the inode: family, state, timer, retransmissions, ports and
addresses of both ends."""
UNIX = struct.Struct("=4BI8x")
ATTRIBUTE = struct.Struct("=HH")

ROOM = 1 << 16
"""Bytes of one answer. The kernel makes none longer than 32 kB."""

ANSWERS = 1024
"""How many answers to one question are read at most."""

ENTRIES = 4096
"""How many sockets one look reads at most."""


class Refused(Exception):
    """The kernel, or a filter before it, does not answer such questions."""

    def __init__(self, code: int) -> None:
        super().__init__(os.strerror(code))
        self.code = code


class Tcp(NamedTuple):
    """A TCP socket.

    :param name: its own address, as /proc/net/tcp writes it.
    """

    state: int
    inode: int
    name: str


class Unix(NamedTuple):
    """A unix socket.

    :param name: '@name' for an abstract one; '' for none.
    :param file: device and inode of the path that it is bound to.
    """

    state: int
    inode: int
    name: str
    file: Optional[tuple[int, int]]


def listeners() -> Iterator[tuple[int, str]]:
    """Yield inode and name of each listening socket of our network namespace.

    :raises Refused: when the kernel does not answer.
    :raises Unreadable: when there are too many.
    """
    count = 0
    for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        if family == socket.AF_UNIX:
            question = _unix_question(0, UDIAG_SHOW_NAME)
        else:
            question = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, 1 << TCP_LISTEN)
            question += bytes(48)
        for answer in _answers(question, NLM_F_DUMP):
            count += 1
            if count > ENTRIES:
                raise Unreadable(f"more than {ENTRIES} listening sockets")
            found = read_unix(answer) if family == socket.AF_UNIX else read_tcp(answer)
            if found is not None and found.state == TCP_LISTEN:
                yield found.inode, found.name


def connection(here: tuple[bytes, int], there: tuple[bytes, int], scope: int = 0) -> Optional[Tcp]:
    """Return the TCP socket whose own end is *here* and whose other end is *there*.

    :param here: a packed address and a port.
    :param scope: the index of the interface of a link-local address.
    :raises Refused: when the kernel does not answer.
    """
    family = socket.AF_INET if len(here[0]) == 4 else socket.AF_INET6
    question = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF)
    question += struct.pack(">HH16s16s", here[1], there[1], here[0], there[0])
    question += struct.pack("=I", scope) + NO_COOKIE
    for answer in _answers(question, 0):
        found = read_tcp(answer)
        if found is not None and found.state != TCP_LISTEN:
            return found
    return None


def unix_socket(inode: int) -> Optional[Unix]:
    """Return the unix socket *inode* of our network namespace.

    :raises Refused: when the kernel does not answer.
    """
    if not 0 < inode < 1 << 32:
        return None
    for answer in _answers(_unix_question(inode, UDIAG_SHOW_NAME | UDIAG_SHOW_VFS), 0):
        found = read_unix(answer)
        if found is not None and found.inode == inode:
            return found
    return None


def _unix_question(inode: int, show: int) -> bytes:
    states = 1 << TCP_LISTEN
    return struct.pack("=BBHIII", socket.AF_UNIX, 0, 0, states, inode, show) + NO_COOKIE


def _answers(question: bytes, flags: int) -> Iterator[bytes]:
    """Yield the answers of the kernel, without waiting for them.

    :raises Refused: when it does not answer, or there is no such socket.
    """
    try:
        asked = socket.socket(
            socket.AF_NETLINK,  # type: ignore[attr-defined, unused-ignore]
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            NETLINK_SOCK_DIAG,
        )
    except (AttributeError, OSError) as error:
        raise Refused(getattr(error, "errno", 0) or errno.EPROTONOSUPPORT) from None
    with asked:
        try:
            length = HEADER.size + len(question)
            header = HEADER.pack(length, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | flags, 1, 0)
            asked.sendto(header + question, (0, 0))
            for _ in range(ANSWERS):
                data, _, cut, (sender, _) = asked.recvmsg(ROOM)
                if sender != 0:
                    continue  # not from the kernel
                if cut & socket.MSG_TRUNC:
                    raise Unreadable("the kernel's answer is longer than expected")
                for kind, body in messages(data):
                    if kind == NLMSG_DONE:
                        return
                    if kind == SOCK_DIAG_BY_FAMILY:
                        yield body
                if not flags:
                    return
        except OSError as error:
            raise Refused(error.errno or errno.EIO) from None
    raise Unreadable("the kernel reports too many sockets")


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and body of each netlink message in *data* (netlink(7)).

    :raises Refused: when one is an error.
    :raises Unreadable: when one is torn.
    """
    at = 0
    while at < len(data):
        if len(data) - at < HEADER.size:
            raise Unreadable("a torn answer of the kernel")
        length, kind, _, _, _ = HEADER.unpack_from(data, at)
        if not HEADER.size <= length <= len(data) - at:
            raise Unreadable("a torn answer of the kernel")
        body = data[at + HEADER.size : at + length]
        if kind == NLMSG_ERROR:
            if len(body) < 4:
                raise Unreadable("a torn answer of the kernel")
            code = int.from_bytes(body[:4], sys.byteorder, signed=True)
            raise Refused(abs(code) if -4096 < code < 0 else errno.EIO)
        yield kind, body
        at += (length + 3) & ~3


def read_tcp(body: bytes) -> Optional[Tcp]:
    """Return the TCP socket in an answer, None when it is of another family.

    :raises Unreadable: when the answer is torn.
    """
    if len(body) < INET.size:
        raise Unreadable("a torn answer of the kernel")
    family, state, _, _, port, _, source, _, inode = INET.unpack_from(body)
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    packed = source[:4] if family == socket.AF_INET else source
    return Tcp(state, inode, hexadecimal(packed, int.from_bytes(port, "big")))


def read_unix(body: bytes) -> Optional[Unix]:
    """Return the unix socket in an answer, as :func:`read_tcp` does."""
    if len(body) < UNIX.size:
        raise Unreadable("a torn answer of the kernel")
    family, _, state, _, inode = UNIX.unpack_from(body)
    if family != socket.AF_UNIX:
        return None
    name, file = "", None
    for kind, value in _attributes(body[UNIX.size :]):
        if kind == UNIX_DIAG_NAME:
            abstract = value[:1] == b"\0"
            name = os.fsdecode(value.replace(b"\0", b"@") if abstract else value.split(b"\0")[0])
        elif kind == UNIX_DIAG_VFS and len(value) >= 8:
            inode_of_file, device = struct.unpack_from("=II", value)
            file = device, inode_of_file
    return Unix(state, inode, name, file)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while len(data) - at >= ATTRIBUTE.size:
        length, kind = ATTRIBUTE.unpack_from(data, at)
        if not ATTRIBUTE.size <= length <= len(data) - at:
            raise Unreadable("a torn answer of the kernel")
        yield kind, data[at + ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


def hexadecimal(packed: bytes, port: int) -> str:
    """Return an address as /proc/net/tcp writes it: words of 32 bits in native order."""
    words = (packed[at : at + 4] for at in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(w, sys.byteorder):08X}" for w in words) + f":{port:04X}"
