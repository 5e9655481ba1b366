"""Hands the state of one version of hotreload-run over to the next, when USR2 upgrades it.

It is a variable in the environment of the exec. Only the process that wrote it believes it: it
holds that process's pid and start time, which an exec does not change. A server or a nested
hotreload-run that inherits the variable ignores it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from dataclasses import asdict, dataclass
from typing import Any, Optional

from supervisor_hotreload.system.process import Process, arguments_of, status_of

VARIABLE = "HOTRELOAD_RUN"


@dataclass(frozen=True)
class Handover:
    """The state of hotreload-run that its processes do not show.

    Versions exchange it by the names of its fields, so a field is never renamed.

    :param server: the tracked process, by pid and start time.
    :param generation: its number.
    :param folder: the working directory, with its symlinks as they are written.
    :param ready: the first generation has been ready.
    :param mask: signals that were blocked when hotreload-run was started.
    :param sockets: descriptors opened by --listen.
    :param counts: how many reloads have had each outcome.
    :param pending: signals that have come and were not handled yet.
    """

    server: Process
    generation: int
    folder: str
    ready: bool
    mask: list[int]
    sockets: list[int]
    counts: dict[str, int]
    pending: list[int]

    def write(self, environment: MutableMapping[str, str]) -> None:
        """Put it into an environment."""
        import json

        environment[VARIABLE] = json.dumps({"wrapper": _self(), **asdict(self)})


def take(environment: MutableMapping[str, str]) -> Optional[Handover]:
    """Remove the state from *environment* and return it if it is this process's own."""
    text = environment.pop(VARIABLE, None)
    if text is None:
        return None
    import json

    try:
        found: dict[str, Any] = json.loads(text)
        if tuple(found.pop("wrapper")) != _self():
            return None
        return Handover(**{**found, "server": Process(*found["server"])})
    except (AttributeError, KeyError, TypeError, ValueError):
        return None  # the other version is too different, or it is forged


def _self() -> tuple[int, int]:
    seen = status_of(os.getpid())
    assert seen is not None
    return seen.process.pid, seen.process.start


def image() -> list[str]:
    """Return the command line that started this process, up to its own arguments."""
    line = getattr(sys, "orig_argv", None) or arguments_of(os.getpid())  # the former: not in 3.9
    line = line or [sys.executable, *sys.argv]
    own = len(line) - len(sys.argv[1:])
    return [sys.executable, *line[1:own]]
