"""Records which running processes are of which program, for the next supervisord.

After supervisord was killed, the record proves who a process is. It never says what to do.
Only supervisord's own user can write it, so nobody else can have a process adopted. The next
supervisord checks what it says against the kernel.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from typing import Any

from supervisor_hotreload.system.files import replace_file
from supervisor_hotreload.system.process import Process, boot_id

LIMIT_BYTES = 1 << 24
"""Bytes of a record that are read."""

SOCKETS = 32
"""How many sockets of one process are recorded at most: a program may have thousands, and the
record of all other programs has to stay short enough to be read."""

Proofs = list[tuple[Process, frozenset[int]]]
"""The processes of one program, each with the listening sockets that it holds (inodes)."""


class Record:
    """One file beside supervisord's pidfile.

    :param path: its path; '' for no file, then nothing is recorded.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._text = ""

    def write(self, programs: Mapping[str, Proofs]) -> None:
        """Replace the file, if *programs* differ from what it says.

        :raises OSError: when it cannot be written.
        """
        rows = {
            name: [[one.pid, one.start, sorted(sockets)[:SOCKETS]] for one, sockets in proofs]
            for name, proofs in programs.items()
            if proofs
        }
        text = json.dumps({"boot": boot_id(), "programs": rows})
        if text == self._text or not self._path:
            return
        replace_file(self._path, text, 0o600)
        self._text = text

    def read(self) -> dict[str, Proofs]:
        """Return what the file says of each program, nothing when others could have written it."""
        try:
            return proofs_in(self._own_text())
        except OSError:
            return {}

    def _own_text(self) -> str:
        """Return the text of the file.

        :raises OSError: when there is none, or when others could have written it.
        """
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        descriptor = os.open(self._path, flags)
        try:
            seen = os.fstat(descriptor)
            mine = seen.st_uid == os.geteuid() and stat.S_IMODE(seen.st_mode) == 0o600
            if not (mine and stat.S_ISREG(seen.st_mode) and seen.st_nlink == 1):
                raise PermissionError(1, "others than supervisord can write it")
            return os.read(descriptor, LIMIT_BYTES).decode("utf-8", "replace")
        finally:
            os.close(descriptor)


def proofs_in(text: str) -> dict[str, Proofs]:
    """Return what the text of a record says of each program.

    :return: nothing when the text is damaged, or of an earlier boot of the machine.
    """
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
