"""A program as it is configured in supervisord."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Optional

from supervisor_hotreload.system.credentials import Ids


@dataclass(frozen=True)
class Program:
    """A program as it is configured in supervisord.

    :param stopsignal: the name of the signal that stops it, such as 'TERM'.
    :param user: the id of the user that it is configured to run as; None: supervisord's own.
    :param rights: whose rights read the files that it names; None: nobody's, they are not read.
    :param pidfile: the path of ``pidfile`` in its settings.
    """

    name: str
    command: str
    directory: str
    environment: Mapping[str, str] = field(default_factory=dict)
    stopsignal: str = "TERM"
    user: Optional[int] = None
    rights: Optional[Ids] = None
    pidfile: Optional[str] = None

    @property
    def started_with(self) -> Mapping[str, str]:
        """Return the environment that supervisord gives it.

        The process's own environment is not read: that waits for an exec of the process,
        which its user can delay (fs/exec.c, exec_update_lock).
        """
        return {**os.environ, "PWD": self.directory, **self.environment}

    @property
    def words(self) -> list[str]:
        """Return the words of the command, none when it cannot be split."""
        try:
            return shlex.split(self.command)
        except ValueError:
            return []


def mentions(command: str, names: Iterable[str]) -> bool:
    """Tell whether a word of *command*, or the last part of a path in it, is one of *names*."""
    known = "|".join(map(re.escape, names))
    return bool(known) and re.search(rf"(^|[\s/'\"])({known})($|[\s'\"])", command) is not None
