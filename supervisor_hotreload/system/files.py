"""Reads files that belong to a program's user, who may put anything in their place."""

from __future__ import annotations

import os
import stat

PIDFILE_BYTES = 32
"""A pid and a line feed are shorter."""

HIGHEST_PID = 1 << 31
"""A pid fits into 31 bits."""


def read_regular(path: str, limit: int) -> bytes:
    """Return up to *limit* bytes of a regular file.

    The file is held by O_PATH first: to open a fifo or a device has effects.

    :raises OSError: when it is no regular file, or cannot be read.
    """
    held = os.open(path, getattr(os, "O_PATH", os.O_NONBLOCK | os.O_NOCTTY) | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(held).st_mode):
            raise OSError(0, "not a regular file")
        if not hasattr(os, "O_PATH"):
            return os.read(held, limit)
        descriptor = os.open(f"/proc/self/fd/{held}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.read(descriptor, limit)
        finally:
            os.close(descriptor)
    finally:
        os.close(held)


def read_pidfile(path: str) -> int:
    """Return the pid in the pidfile *path*.

    :raises ValueError: with a sentence that names the file and says what is wrong with it.
    """
    try:
        text = read_regular(path, PIDFILE_BYTES)
    except OSError as error:
        raise ValueError(f"pidfile {path}: {error.strerror}") from None
    digits = text.strip()
    if not digits.isdigit() or len(text) >= PIDFILE_BYTES:
        raise ValueError(f"pidfile {path}: it contains no pid")
    pid = int(digits)
    if not 1 < pid < HIGHEST_PID:
        raise ValueError(f"pidfile {path}: {pid} cannot be the pid of a server")
    return pid
