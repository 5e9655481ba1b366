"""What stands between supervisord and a master: a shell, an init. Some end the successor
together with the old master; all are to be gone once the program is the successor's own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Callable, NamedTuple, Optional

from supervisor_hotreload.core.model import Failure, Fault
from supervisor_hotreload.servers.command_line import own_name
from supervisor_hotreload.servers.generation import DEPTH, Generation
from supervisor_hotreload.servers.program import Program
from supervisor_hotreload.servers.reexec import QUICK
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World

LAST_LOOK = 0.5
"""Seconds after the end of a wrapper in which what it has sent to others has arrived."""

WAITS = 0.5
"""Seconds after which a wrapper that still has other children is taken to wait for them."""


class Wrapper(NamedTuple):
    """One kind of wrapper that does not let a successor live.

    :param ends: tells by its arguments and environment whether this one does so.
    :param why: what it does, as the end of a sentence.
    :param cure: how to start the program instead.
    """

    ends: Callable[[Sequence[str], Mapping[str, str]], bool]
    why: str
    cure: str


def _sweeps(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Tell whether a dumb-init is in the mode in which it signals a group (dumb-init.c,
    parse_command, handle_signal)."""
    if environment.get("DUMB_INIT_SETSID") == "0":
        return False
    rest = list(arguments[1:])
    while rest and rest[0].startswith("-") and rest[0] != "--":
        option = rest.pop(0)
        if option == "--single-child" or (option[1] != "-" and "c" in option.partition("r")[0]):
            return False
        if option in ("-r", "--rewrite"):
            del rest[:1]
    return True


def _always(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    return True


WRAPPERS = {
    "dumb-init": Wrapper(
        _sweeps,
        "sends TERM to the whole process group when its child exits",
        "start it as: dumb-init --single-child ...",
    ),
    "honcho": Wrapper(
        _always,
        "ends all that it has started as soon as one process exits",
        "start the server itself, without honcho",
    ),
    "script": Wrapper(
        _always,
        "closes its terminal when its child exits, which hangs up the process group",
        "start the server itself, without script",
    ),
}
"""By name; tini ends nothing (reap_zombies), with -g it only forwards what it is sent."""


def must_spare_successor(world: World, program: Program, old: Generation) -> None:
    """Refuse to replace a master whose successor would be ended together with it.

    :raises Failure: NOT_RELOADABLE with the cure.
    """
    for process in above(world, old):
        arguments = world.arguments(process)
        names = (world.program(process), own_name(arguments), *map(os.path.basename, arguments[:1]))
        kind = next((WRAPPERS[known] for known in names if known in WRAPPERS), None)
        if kind is not None and kind.ends(arguments, program.started_with):
            title = next(known for known in names if known in WRAPPERS)
            raise Failure(
                Fault.NOT_RELOADABLE,
                f"{program.name} is started by {title} ({process}), which {kind.why}: it would "
                f"end the new generation together with the old master; {kind.cure}; nothing was "
                f"sent",
            )


def above(world: World, old: Generation) -> Iterator[Process]:
    """Yield what stands before the master, up to the supervised process."""
    process = old.master
    for _ in range(DEPTH):
        if process == old.tracked:
            return
        status = world.status(process.pid)
        parent = world.lookup(status.parent) if status is not None else None
        if parent is None:
            return
        process = parent
        yield process


class LauncherEnd:
    """The end of the supervised process that stood before an old master, if one did.

    It ends by itself, or is ended: one that waits for its other children (``gunicorn | cat``)
    would stay for their sake. They are left alone.
    """

    def __init__(self, world: World, old: Generation) -> None:
        self._world = world
        self._process = old.tracked
        self._stood = old.tracked != old.master
        self._since: Optional[float] = None
        self._awaited: list[Process] = []

    def ended(self) -> bool:
        """Tell whether it is gone; asked once the master is."""
        if self._since is None:
            self._since = self._world.now()
            self._awaited = self._world.children(self._process)
        if not self._world.alive(self._process):
            return True
        waits = any(self._world.alive(child) for child in self._awaited)
        if self._world.now() - self._since > (WAITS if waits else QUICK):
            self._world.signal(self._process, "KILL")  # no other: it might hand that on
        return False

    def forgotten(self) -> bool:
        """Tell whether what it has sent to others when it ended has arrived."""
        since = self._since if self._stood else None
        return since is None or self._world.now() - since >= LAST_LOOK
