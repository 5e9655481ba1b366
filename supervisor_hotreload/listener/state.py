"""Writes the state file for the next listener, and reads that of the one before.

It is a hint. A listener starts without it when it is missing or damaged. It holds no pid, and
the worst that a wrong one can cause is one reload too many.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from typing import Any, Callable

from supervisor_hotreload.system.files import replace_file

VERSION = 1

MAX_BYTES = 1 << 20
"""Limit for a state file; none is longer."""


class StateFile:
    """Reads and writes a small JSON file, atomically.

    It lies in a directory that only root and our own user can write to. Otherwise the users of
    the programs could make us reload the programs of others. Nothing is synced to disk: after a
    power failure every process is new, and the file does not matter.

    :param path: its path; a new version is written beside it, as ``.new``.
    :param say: logs what is wrong, once.
    """

    def __init__(self, path: str, say: Callable[[str], None]) -> None:
        self._path = path
        self._say = say
        self._complaint = ""
        self._written = ""

    def read(self) -> dict[str, Any]:
        """Return the content that was written last, empty when there is none that can be used."""
        try:
            self._prepare()
            text = self._load()
        except FileNotFoundError:
            return {}
        except OSError as error:
            self._complain(error)
            return {}
        try:
            found = json.loads(text)
            if isinstance(found, dict) and found.get("version") == VERSION:
                self._written = text
                return found
        except (ValueError, RecursionError):
            pass  # logged below
        self._say(f"{self._path} is damaged and is ignored; nothing is reloaded for that")
        return {}

    def write(self, content: dict[str, Any]) -> None:
        """Write *content* unless the file has it already."""
        text = json.dumps({"version": VERSION, **content}, sort_keys=True)
        if text == self._written:
            return
        try:
            self._prepare()
            replace_file(self._path, text, 0o600)
        except OSError as error:
            self._complain(error)
        else:
            self._written, self._complaint = text, ""

    def _load(self) -> str:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(self._path, flags), "rb") as file:
            seen = os.fstat(file.fileno())
            if not stat.S_ISREG(seen.st_mode) or seen.st_uid not in (0, os.geteuid()):
                raise PermissionError(1, "not a file of root or our own user")
            return file.read(MAX_BYTES).decode("utf-8", "replace")

    def _prepare(self) -> None:
        """Use a directory of our own where other users can write to that of the path.

        :raises PermissionError: when other users could replace even that.
        """
        folder, name = os.path.split(self._path)
        if _is_trusted(folder):
            return
        own = os.path.join(folder, f"hotreload-{os.geteuid()}")
        with suppress(FileExistsError):
            os.mkdir(own, 0o700)
        if os.path.islink(own) or not _is_trusted(own):
            raise PermissionError(1, f"{own} can be changed by others")
        self._path = os.path.join(own, name)

    def _complain(self, error: OSError) -> None:
        text = (
            f"{self._path}: {error.strerror}: this listener works without a state file, the next "
            f"one misses what happens between them; name another file with --state"
        )
        if text != self._complaint:
            self._complaint = text
            self._say(text)


def _is_trusted(folder: str) -> bool:
    """Tell whether only root and our own user can change *folder* or replace it."""
    path = os.path.realpath(folder)
    allowed = 0
    while True:
        seen = os.stat(path)
        shared = seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if seen.st_uid not in (0, os.geteuid()) or (shared and not seen.st_mode & allowed):
            return False
        if path == os.path.dirname(path):
            return True
        path = os.path.dirname(path)
        allowed = stat.S_ISVTX  # the sticky bit protects a directory in /tmp
