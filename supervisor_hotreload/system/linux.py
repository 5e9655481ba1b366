"""Calls the kernel where Python has no function for it: prctl, statx, timerfd, SO_PASSRIGHTS.

Each function says what it does where the system lacks the call, which is also so on other
systems than Linux.
"""

from __future__ import annotations

import ctypes
import functools
import os
import socket
import struct
import sys
import time
from typing import Any, NamedTuple, Optional

LINUX = sys.platform.startswith("linux")

PR_SET_CHILD_SUBREAPER = 36
"""prctl(2), Linux 3.4."""

SO_PASSRIGHTS = 83
"""A socket option of Linux 6.16 (include/uapi/asm-generic/socket.h)."""

AT_FDCWD = -100
AT_STATX_DONT_SYNC = 0x4000
STATX_BASIC_STATS = 0x7FF
"""statx(2), Linux 4.11."""

STATX_BYTES = 256
"""The size of struct statx."""

STATX = struct.Struct("=28xH2xQ56xqI4xqI4x8xII")
"""struct statx: mode, inode, change time, modification time, major and minor of the device."""

NANOSECONDS = 1_000_000_000
"""In one second."""


@functools.cache
def libc() -> Any:
    """Return the C library."""
    return ctypes.CDLL(None, use_errno=True)


def read_whole(path: str, limit: int = 1 << 16) -> bytes:
    """Return what a file of the kernel's contains, up to *limit* bytes.

    :raises OSError: when it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(descriptor, limit)
        while text and len(text) < limit:
            more = os.read(descriptor, limit - len(text))
            if not more:
                break
            text += more
        return text
    finally:
        os.close(descriptor)


def become_subreaper() -> bool:
    """Become the parent of every descendant that loses its own parent.

    A fork does not inherit this: call it after daemonizing. It needs no privilege.

    :return: False where the system cannot do it.
    """
    if not LINUX:
        return False
    try:
        return bool(libc().prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (AttributeError, OSError):
        return False


def refuse_descriptors(sock: socket.socket) -> bool:
    """Make the kernel refuse every message to a unix socket that carries descriptors.

    The process that closes the last reference to a descriptor may have to wait for as long
    as its sender likes: the descriptor may be a TCP connection with SO_LINGER, and the peer
    may read nothing. The sender gets an error instead. Call this before anybody can reach
    the socket.

    :return: False where the kernel cannot refuse.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
    except OSError:
        return False
    return True


class State(NamedTuple):
    """The state of a file. Times are in nanoseconds."""

    mode: int
    device: int
    inode: int
    modified: int
    changed: int


def state_of(path: str) -> State:
    """Return the state of the file *path* as the kernel has it now.

    The kernel does not ask the server of the file system: the owner of a FUSE file system,
    or a network, may let stat(2) wait for ever.

    :raises OSError: when there is no such file.
    """
    call = _statx()
    if call is None:
        seen = os.stat(path)
        return State(seen.st_mode, seen.st_dev, seen.st_ino, seen.st_mtime_ns, seen.st_ctime_ns)
    room = ctypes.create_string_buffer(STATX_BYTES)
    if call(AT_FDCWD, os.fsencode(path), AT_STATX_DONT_SYNC, STATX_BASIC_STATS, room):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    mode, inode, changed, more, modified, rest, major, minor = STATX.unpack_from(room)
    device = os.makedev(major, minor)
    return State(mode, device, inode, modified * NANOSECONDS + rest, changed * NANOSECONDS + more)


@functools.cache
def _statx() -> Any:
    """Return the C library's call, None where the library or the kernel has none."""
    call = getattr(libc(), "statx", None)
    if call is None or call(AT_FDCWD, b"/", 0, 0, ctypes.create_string_buffer(STATX_BYTES)):
        return None
    return call


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


class _Itimerspec(ctypes.Structure):
    _fields_ = [("interval", _Timespec), ("value", _Timespec)]


def timerfd() -> Optional[int]:
    """Return a new timer descriptor, None where the system has none. It never blocks."""
    if sys.version_info >= (3, 13):
        if not hasattr(os, "timerfd_create"):
            return None
        return os.timerfd_create(time.CLOCK_MONOTONIC, flags=os.TFD_CLOEXEC | os.TFD_NONBLOCK)
    try:
        flags = os.O_CLOEXEC | os.O_NONBLOCK
        descriptor: int = libc().timerfd_create(time.CLOCK_MONOTONIC, flags)
    except (AttributeError, OSError):
        return None
    return descriptor if descriptor >= 0 else None


def set_timer(descriptor: int, interval: float) -> None:
    """Let the timer *descriptor* fire every *interval* seconds; 0 disarms it.

    :raises OSError: when the kernel refuses.
    """
    if sys.version_info >= (3, 13):
        os.timerfd_settime(descriptor, initial=interval, interval=interval)
        return
    every = _Timespec(int(interval), int(interval % 1 * NANOSECONDS))
    setting = _Itimerspec(every, every)
    if libc().timerfd_settime(descriptor, 0, ctypes.byref(setting), None) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
