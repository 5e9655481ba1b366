"""The record of whose the running processes are, for the next supervisord.

It proves who a process is after supervisord was killed, and never says what to do. Only
supervisord's own user can write it, so that nobody else can have something adopted; what
it says is checked against the kernel.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from supervisor_hotreload.system.process import Process, boot_id

LIMIT = 1 << 20
"""Bytes of a record that are read."""

Proofs = list[tuple[Process, frozenset[int]]]
"""The processes of one program, and the listening sockets that each holds."""


class Record:
    """One file beside supervisord's pidfile.

    :param path: where it lies; '' for nowhere: nothing is kept.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._text = ""

    def write(self, programs: Mapping[str, Proofs]) -> None:
        """Replace the record, if it has changed.

        :raises OSError: when it cannot be written.
        """
        rows = {
            name: [[process.pid, process.start, sorted(sockets)] for process, sockets in proofs]
            for name, proofs in programs.items()
            if proofs
        }
        text = json.dumps({"boot": boot_id(), "programs": rows})
        if text == self._text or not self._path:
            return
        second = f"{self._path}.new"
        with suppress(FileNotFoundError):
            os.unlink(second)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(second, flags, 0o600)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
        os.replace(second, self._path)
        self._text = text

    def read(self) -> dict[str, Proofs]:
        """Return what it says by program, nothing where it cannot be believed."""
        try:
            return proofs_in(self._own_text())
        except OSError:
            return {}

    def _own_text(self) -> str:
        """Return the text of a regular file that nobody else could have written.

        :raises OSError: when there is none.
        """
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        descriptor = os.open(self._path, flags)
        try:
            seen = os.fstat(descriptor)
            mine = seen.st_uid == os.geteuid() and stat.S_IMODE(seen.st_mode) == 0o600
            if not (mine and stat.S_ISREG(seen.st_mode) and seen.st_nlink == 1):
                raise PermissionError(1, "not a file that only we can write")
            return os.read(descriptor, LIMIT).decode("utf-8", "replace")
        finally:
            os.close(descriptor)


def proofs_in(text: str) -> dict[str, Proofs]:
    """Return what a record says by program, nothing where it makes no sense."""
    try:
        found = json.loads(text)
        if found["boot"] != boot_id():
            return {}
        return {name: _proofs(rows) for name, rows in found["programs"].items()}
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
        return {}


def _proofs(rows: Any) -> Proofs:
    return [
        (Process(int(pid), int(start)), frozenset(map(int, sockets)))
        for pid, start, sockets in rows
    ]
