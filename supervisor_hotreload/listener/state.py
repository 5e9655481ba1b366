"""The state file: what a listener needs to know of the one before it.

It is a hint. What is not there, or not as it should be, is begun anew; it
holds no pid, and nothing that is worth more than a reload too many.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from typing import Any, Callable

VERSION = 1

LIMIT = 1 << 20
"""Bytes; no state is longer."""


class StateFile:
    """A small JSON file, written atomically.

    It lies in a directory that only root and our own user can write, or the
    users of the programs could let us reload each other's. Nothing is synced
    to disk: what a power failure loses is older than every process.

    :param path: where; beside it ``.new`` is written.
    :param say: told once what is wrong, for the operator.
    """

    def __init__(self, path: str, say: Callable[[str], None]) -> None:
        self._path = path
        self._say = say
        self._said = ""
        self._written = ""

    def read(self) -> dict[str, Any]:
        """Return what was written last; empty when there is nothing that can be used."""
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
            pass  # said below
        self._say(f"{self._path} cannot be understood: begun anew, nothing is reloaded for it")
        return {}

    def write(self, content: dict[str, Any]) -> None:
        """Write *content* if it has changed since."""
        text = json.dumps({"version": VERSION, **content}, sort_keys=True)
        if text == self._written:
            return
        new = self._path + ".new"
        try:
            self._prepare()
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(new, flags, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(new, self._path)
        except OSError as error:
            self._complain(error)
        else:
            self._written, self._said = text, ""

    def _load(self) -> str:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(self._path, flags), "rb") as file:
            seen = os.fstat(file.fileno())
            if not stat.S_ISREG(seen.st_mode) or seen.st_uid not in (0, os.geteuid()):
                raise PermissionError(1, "not a file of our own")
            return file.read(LIMIT).decode("utf-8", "replace")

    def _prepare(self) -> None:
        """Use a directory of our own where others can write to that of the path.

        :raises PermissionError: when even that could be replaced by others.
        """
        folder, name = os.path.split(self._path)
        if _trusted(folder):
            return
        own = os.path.join(folder, f"hotreload-{os.geteuid()}")
        with suppress(FileExistsError):
            os.mkdir(own, 0o700)
        if os.path.islink(own) or not _trusted(own):
            raise PermissionError(1, f"{own} can be changed by others")
        self._path = os.path.join(own, name)

    def _complain(self, error: OSError) -> None:
        text = (
            f"{self._path}: {error.strerror}: what was seen is forgotten when this listener ends; "
            f"name another file with --state"
        )
        if text != self._said:
            self._said = text
            self._say(text)


def _trusted(folder: str) -> bool:
    """Tell whether only root and our own user can change *folder*, or put another there."""
    path = os.path.realpath(folder)
    allowed = 0
    while True:
        seen = os.stat(path)
        shared = seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if seen.st_uid not in (0, os.geteuid()) or (shared and not seen.st_mode & allowed):
            return False
        if path == os.path.dirname(path):
            return True
        path, allowed = os.path.dirname(path), stat.S_ISVTX  # /tmp protects what is in it
