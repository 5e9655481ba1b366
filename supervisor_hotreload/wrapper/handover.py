"""What one image of hotreload-run tells the next when USR2 upgrades it in place.

It travels in the environment of the exec. It is believed only by the process
that wrote it, known by pid and start time, which an exec keeps: a server or a
nested hotreload-run that inherits the variable does not believe it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from dataclasses import asdict, dataclass
from typing import Any, Optional

from supervisor_hotreload.system.process import Process, status_of

VARIABLE = "HOTRELOAD_RUN"


@dataclass(frozen=True)
class Handover:
    """The state of the wrapper that its processes do not show.

    :param server: the tracked process, by pid and start time.
    :param folder: the working directory as it was written; a symlink may have moved since.
    :param ready: the first generation has been ready.
    :param mask: signals that were blocked when the command was started.
    :param sockets: descriptors opened by --listen.
    :param counts: how many reloads have ended how.
    :param pending: signals that have come and have not been heard yet.
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
        return None  # of a version too different, or forged


def _self() -> tuple[int, int]:
    seen = status_of(os.getpid())
    assert seen is not None
    return seen.process.pid, seen.process.start


def image() -> list[str]:
    """Return the command line that started this process, up to its own arguments."""
    line = getattr(sys, "orig_argv", None) or _command_line() or [sys.executable, *sys.argv]
    own = len(line) - len(sys.argv[1:])
    return [sys.executable, *line[1:own]]


def _command_line() -> list[str]:
    """Python 3.9 has no sys.orig_argv."""
    from supervisor_hotreload.system.process import arguments_of

    return arguments_of(os.getpid())
