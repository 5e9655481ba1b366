"""Launchers: what stands between supervisord and a master, such as a shell or an init.

Some end the successor together with the old master. All have to be gone before the program
belongs to the successor.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Callable, NamedTuple, Optional

from supervisor_hotreload.core.model import Failure, Fault
from supervisor_hotreload.servers.command_line import SHELLS, own_name
from supervisor_hotreload.servers.generation import WALK_LEVELS, Generation
from supervisor_hotreload.servers.lineage import same_command
from supervisor_hotreload.servers.program import Program
from supervisor_hotreload.servers.signals import QUICK_SECONDS
from supervisor_hotreload.servers.workers import sockets_of
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World

SIGNALS_ARRIVE_SECONDS = 0.5
"""Seconds after the end of a launcher in which its last signals arrive."""

WAITS_SECONDS = 0.5
"""Seconds after which a launcher that still has other children waits for them."""


class FatalLauncher(NamedTuple):
    """One kind of launcher that ends the successor.

    :param ends: tells from its arguments and environment whether this one does so.
    :param why: what it does, as the end of a sentence.
    :param cure: how to start the program instead.
    """

    ends: Callable[[Sequence[str], Mapping[str, str]], bool]
    why: str
    cure: str


def _signals_group(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Tell whether a dumb-init is in the mode in which it signals a process group (dumb-init.c,
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


FATAL = {
    "dumb-init": FatalLauncher(
        _signals_group,
        "sends TERM to the whole process group when its child exits",
        "start it as: dumb-init --single-child ...",
    ),
    "honcho": FatalLauncher(
        lambda arguments, environment: True,
        "ends all that it has started as soon as one process exits",
        "start the server itself, without honcho",
    ),
    "script": FatalLauncher(
        lambda arguments, environment: True,
        "closes its terminal when its child exits, which hangs up the process group",
        "start the server itself, without script",
    ),
}
"""By name. tini ends nothing (reap_zombies); with -g it only forwards the signals it receives."""

LAUNCHERS = SHELLS | {
    "tini",
    "tini-static",
    "catatonit",
    "docker-init",
    "hotreload-orphan",
    "sudo",
    "timeout",
    *FATAL,
}
"""Programs that only start other programs. Not all of them wait in wait4(2)."""


def names_of(world: World, process: Process) -> tuple[str, ...]:
    """Return the names under which *process* may be known: its file, its command, its title."""
    words = world.arguments(process)
    return (world.program(process), own_name(words), *map(os.path.basename, words[:1]))


def must_spare_successor(world: World, program: Program, old: Generation) -> None:
    """Refuse to replace a master whose launcher would end the successor with it.

    :raises Failure: NOT_RELOADABLE with the cure.
    """
    launchers = [*above(world, old)]
    for process in (old.master, *launchers):
        if world.leads_a_namespace(process):
            raise Failure(
                Fault.NOT_RELOADABLE,
                f"{program.name} runs in a pid namespace of its own: when its first process "
                f"({process}) ends with the old master, the kernel would kill the new generation, "
                f"too; nothing was sent. Start the server without that namespace (unshare --pid)",
            )
    for process in launchers:
        title = next((name for name in names_of(world, process) if name in FATAL), None)
        if title is None:
            continue
        kind = FATAL[title]
        if kind.ends(world.arguments(process), program.started_with):
            raise Failure(
                Fault.NOT_RELOADABLE,
                f"{program.name} is started by {title} ({process}), which {kind.why}: it would "
                f"end the new generation together with the old master; nothing was sent. "
                f"{kind.cure[0].upper()}{kind.cure[1:]}",
            )


def above(world: World, old: Generation) -> Iterator[Process]:
    """Yield the ancestors of the master, up to the supervised process."""
    process = old.master
    for _ in range(WALK_LEVELS):
        if process == old.tracked:
            return
        parent = world.parent(process)
        if parent is None:
            return
        process = parent
        yield process


class LauncherEnd:
    """The end of the supervised process, where that is the launcher of an old master.

    It ends by itself. One that waits for other children (``gunicorn | cat``) would stay for
    their sake: it is killed, and they are left alone.
    """

    def __init__(self, world: World, old: Generation) -> None:
        self._world = world
        self._process = old.tracked
        self._is_launcher = old.tracked != old.master
        self._since: Optional[float] = None
        self._awaited: list[Process] = []
        self._command = world.arguments(old.master)
        self._starter = next(above(world, old), None)
        self._started = self._children_of_starter()

    def _children_of_starter(self) -> list[Process]:
        return [] if self._starter is None else self._world.children(self._starter)

    def stop_another(self, new: Optional[Process]) -> None:
        """Kill a launcher that starts the server again (``while true; do gunicorn; done``), and
        what it has started. That would take the address from *new*, the successor; once it
        holds sockets it is too late for that.
        """
        for child in self._children_of_starter():
            if child == new or child in self._started or self._starter is None:
                continue
            if not same_command(self._world.arguments(child), self._command):
                continue
            with suppress(Unreadable):
                if not sockets_of(self._world, child):
                    self._world.signal(self._starter, "KILL")
                    self._world.signal(child, "KILL")

    def ended(self) -> bool:
        """Tell whether it is gone. Ask once the master is gone."""
        if self._since is None:
            self._since = self._world.now()
            self._awaited = self._world.children(self._process)
        if not self._world.alive(self._process):
            return True
        waits = any(self._world.alive(child) for child in self._awaited)
        if self._world.now() - self._since > (WAITS_SECONDS if waits else QUICK_SECONDS):
            self._world.signal(self._process, "KILL")  # it cannot forward that to others
        return False

    def is_over(self) -> bool:
        """Tell whether the signals that it has sent at its end have arrived."""
        since = self._since if self._is_launcher else None
        return since is None or self._world.now() - since >= SIGNALS_ARRIVE_SECONDS
