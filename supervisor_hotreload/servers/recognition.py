"""Which master under a supervised process is the program's own, and which is a sidecar.

A start script may start several servers. Each of them is a descendant of what supervisord
has started, and belongs to the program; only one of them *is* it. The supervised process
itself comes first; then what the configured command runs in the foreground, on the
addresses that it names; then the master that a configured ``pidfile`` names.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Optional

from supervisor_hotreload.servers.base import AnyFamily
from supervisor_hotreload.servers.command_line import SHELLS, own_name, shell_tokens
from supervisor_hotreload.servers.generation import DEPTH, Generation
from supervisor_hotreload.servers.launchers import WRAPPERS
from supervisor_hotreload.servers.lineage import runs
from supervisor_hotreload.servers.program import Program
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World

LAUNCHERS = SHELLS | {
    "tini",
    "tini-static",
    "catatonit",
    "docker-init",
    "hotreload-orphan",
    "sudo",
    "timeout",
    *WRAPPERS,
}
"""Programs that do nothing but start others; not all of them wait in wait4(2)."""


@dataclass(frozen=True)
class Found:
    """A running program whose family is known.

    :param old: the family's Generation.
    """

    family: AnyFamily
    old: Generation


class Ambiguous(LookupError):
    """It cannot be told which of several processes the program is."""


def find_server(
    world: World, tracked: Process, program: Program, families: Iterable[AnyFamily]
) -> Optional[Found]:
    """Return the master that *program* is, None when there is none.

    :raises Ambiguous: with a sentence that names those that it may be.
    """
    found = [one for family in families for one in _under(family, world, tracked, program)]
    direct = [one for one in found if one.old.master == tracked]
    if direct or not found:
        return next(iter(direct), None)
    foreground = _foreground(program)
    masters = {one.old.master for one in found}
    if len(masters) > 1:
        named = _named(world, program, found) or _addressed(world, foreground, program, found)
        if len({one.old.master for one in named}) != 1:
            raise Ambiguous(
                f"{' and '.join(f'{o.old.master} ({o.family.name})' for o in found)} are both "
                f"servers under {tracked}; nothing was sent: {_CURE.format(program=program.name)}"
            )
        return named[0]
    one = found[0]
    if one.family.is_named_in(replace(program, command=foreground)) or _named(
        world, program, [one]
    ):
        return one
    beside = _beside(world, tracked, one.old.master, program)
    if beside:
        raise Ambiguous(
            f"{one.old.master} ({one.family.name}) runs below {beside}, it cannot be told which "
            f"of them is the program; nothing was sent: {_CURE.format(program=program.name)}"
        )
    return one


_CURE = "set pidfile = PATH in [hotreload:{program}] to name the server, or start it by exec"


def _under(
    family: AnyFamily, world: World, top: Process, program: Program, depth: int = DEPTH
) -> list[Found]:
    """Return the topmost masters of *family* under *top*, one for each branch."""
    old = family.survey(world, top, program)
    if old is None:
        return []
    if old.master == top or depth == 0 or family.knows_rivals:
        return [Found(family, old)]
    if own_name(world.arguments(top)) in family.binaries:
        return []  # a server without workers, which has started another, or has been followed
    below = [
        one
        for child in world.children(top)
        for one in _under(family, world, child, program, depth - 1)
        if one.old.children
    ]
    return [Found(family, replace(one.old, tracked=top)) for one in below] or [Found(family, old)]


def _beside(world: World, tracked: Process, master: Process, program: Program) -> str:
    """Return what of the program runs beside *master*, '' when all that stands before it does
    nothing but wait: what has executed something else runs that."""
    status = world.status(master.pid)
    for _ in range(DEPTH):
        above = world.lookup(status.parent) if status is not None else None
        if above is None:
            return ""
        name = world.program(above)
        words = world.arguments(above)
        known = {name, own_name(words), *map(os.path.basename, words[:1])}
        if above == tracked and runs(words, program.words):
            return ""  # it has executed nothing else, so it has started the server itself
        if known.isdisjoint(LAUNCHERS) and not world.waits(above):
            return f"{above} ({name or 'hidden'})"
        if above == tracked:
            return ""
        status = world.status(above.pid)
    return ""


def _named(world: World, program: Program, found: list[Found]) -> list[Found]:
    """Return those that the configured pidfile names; it is written by the program."""
    if program.pidfile is None:
        return []
    try:
        pid = world.read_pid(program.pidfile, program.rights)
    except ValueError:
        return []
    return [one for one in found if one.old.master.pid == pid]


def _addressed(world: World, foreground: str, program: Program, found: list[Found]) -> list[Found]:
    """Return those that listen where the command in the foreground says."""
    named = [one for one in found if one.family.is_named_in(replace(program, command=foreground))]
    if len(named) < 2:
        return named
    fits = []
    for one in named:
        wanted = one.family.addresses(replace(program, command=foreground))
        try:
            known = world.listening(one.old.master)
            held = {known[inode] for inode in world.held(one.old.master) if inode in known}
        except Unreadable:
            return []
        if wanted and all(any(_same(address, name) for name in held) for address in wanted):
            fits.append(one)
    return fits


def _same(address: str, name: str) -> bool:
    """Tell whether a configured *address* is the socket that the kernel calls *name*: by the
    path of a unix socket, or by the port."""
    if address.startswith("/"):
        return name == address
    port = address.rpartition(":")[2]
    return port.isdecimal() and ":" in name and name.rpartition(":")[2] == f"{int(port):04X}"


def _foreground(program: Program) -> str:
    """Return what of a command is not run in the background by a shell; all of it where no
    shell is told what to run."""
    words = program.words
    for at, word in enumerate(words[:-2]):
        option = words[at + 1]
        if os.path.basename(word) in SHELLS and option[:1] == "-" and option[-1:] == "c":
            return _last_list(words[at + 2])
    return program.command


def _last_list(script: str) -> str:
    """Return the last list of a shell script that is not put into the background."""
    tokens = shell_tokens(script)
    if tokens is None:
        return ""
    lists: list[list[str]] = [[]]
    kept: Sequence[str] = ()
    for token in [*tokens, ";"]:
        if token in ("&", ";", ";;"):
            if lists[-1] and token != "&":
                kept = lists[-1]
            lists.append([])
        else:
            lists[-1].append(token)
    return shlex.join(kept)
