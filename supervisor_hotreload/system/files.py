"""Reads and replaces files where another user may put anything in their place."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

PIDFILE_BYTES = 32
"""A pid and a line feed are shorter."""

HIGHEST_PID = 1 << 31
"""A pid fits into 31 bits."""


def replace_file(path: str, text: str, mode: int) -> None:
    """Replace the file *path* by one that holds *text*; a reader sees all of it or nothing.

    A symlink at *path* is replaced, not followed. The new file is written as ``PATH.new``.

    :raises OSError: when that is impossible; then the file is as it was.
    """
    beside = f"{path}.new"
    with suppress(FileNotFoundError):
        os.unlink(beside)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(beside, flags, mode), "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(beside, path)
    except OSError:
        with suppress(OSError):
            os.unlink(beside)
        raise


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
