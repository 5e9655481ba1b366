"""Finds the server that a program is: its start script may start several, sidecars too.

All of them are descendants of what supervisord has started, and belong to the program. The
supervised process itself comes first; then the server that the configured command runs in the
foreground, on the addresses that it names; then the master in the configured ``pidfile``.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Optional

from supervisor_hotreload.servers.base import AnyFamily
from supervisor_hotreload.servers.command_line import SHELLS, own_name, shell_tokens
from supervisor_hotreload.servers.generation import WALK_LEVELS, Generation
from supervisor_hotreload.servers.launchers import LAUNCHERS, above, names_of
from supervisor_hotreload.servers.lineage import runs
from supervisor_hotreload.servers.program import Program
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World


@dataclass(frozen=True)
class Found:
    """A running server whose family is known.

    :param old: its generation, as the family's survey has returned it.
    """

    family: AnyFamily
    old: Generation


class Ambiguous(LookupError):
    """Several processes may be the program."""

    def __init__(self, problem: str, program: Program) -> None:
        super().__init__(
            f"{problem}; nothing was sent: set pidfile = PATH in [hotreload:{program.name}] to "
            f"name the server, or start it by exec"
        )


def find_server(
    world: World, tracked: Process, program: Program, families: Iterable[AnyFamily]
) -> Optional[Found]:
    """Return the server that *program* is, None when none of *families* recognises one.

    :param tracked: the supervised process.
    :raises Ambiguous: with a sentence that names the servers and the cure.
    """
    found = [one for family in families for one in _under(family, world, tracked, program)]
    direct = [one for one in found if one.old.master == tracked]
    if direct or not found:
        return next(iter(direct), None)
    foreground = replace(program, command=_foreground(program))
    if len({one.old.master for one in found}) > 1:
        chosen = _in_pidfile(world, program, found) or _by_command(world, foreground, found)
        if len({one.old.master for one in chosen}) != 1:
            servers = " and ".join(f"{o.old.master} ({o.family.name})" for o in found)
            raise Ambiguous(f"{servers} are both servers under {tracked}", program)
        return chosen[0]
    one = found[0]
    if not one.family.is_named_in(foreground) and not _in_pidfile(world, program, [one]):
        other = _busy_ancestor(world, one.old, program)
        if other:
            raise Ambiguous(
                f"{one.old.master} ({one.family.name}) runs below {other}, and either may be "
                f"the program",
                program,
            )
    return one


def _under(
    family: AnyFamily, world: World, top: Process, program: Program, depth: int = WALK_LEVELS
) -> list[Found]:
    """Return the topmost masters of *family* under *top*, one for each branch."""
    old = family.survey(world, top, program)
    if old is None:
        return []
    if old.master == top or depth == 0 or family.knows_rivals:
        return [Found(family, old)]
    if own_name(world.arguments(top)) in family.binaries:
        return []  # a server without workers that has started another, or has been replaced
    below = [
        one
        for child in world.children(top)
        for one in _under(family, world, child, program, depth - 1)
        if one.old.children
    ]
    return [Found(family, replace(one.old, tracked=top)) for one in below] or [Found(family, old)]


def _busy_ancestor(world: World, old: Generation, program: Program) -> str:
    """Return a description of the ancestor of the master that runs something of its own, '' when
    all its ancestors only wait."""
    for process in above(world, old):
        if process == old.tracked and runs(world.arguments(process), program.words):
            return ""  # it is the configured command itself, and has started the server
        names = names_of(world, process)
        if LAUNCHERS.isdisjoint(names) and not world.waits(process):
            return f"{process} ({names[0] or 'hidden'})"
    return ""


def _in_pidfile(world: World, program: Program, found: list[Found]) -> list[Found]:
    """Return those that the configured pidfile names; the program writes that file."""
    if program.pidfile is None:
        return []
    try:
        pid = world.read_pid(program.pidfile, program.rights)
    except ValueError:
        return []
    return [one for one in found if one.old.master.pid == pid]


def _by_command(world: World, foreground: Program, found: list[Found]) -> list[Found]:
    """Return those that the command in the foreground names, by family and then by address."""
    named = [one for one in found if one.family.is_named_in(foreground)]
    if len(named) < 2:
        return named
    fits = []
    for one in named:
        wanted = one.family.addresses(foreground)
        try:
            known = world.listening(one.old.master)
            held = {known[inode] for inode in world.held(one.old.master) if inode in known}
        except Unreadable:
            return []
        if wanted and all(any(_is_same(address, name) for name in held) for address in wanted):
            fits.append(one)
    return fits


def _is_same(address: str, name: str) -> bool:
    """Tell whether a configured *address* is the socket that the kernel calls *name*: by the
    path of a unix socket, or by the port."""
    if address.startswith("/"):
        return name == address
    port = address.rpartition(":")[2]
    return port.isdecimal() and ":" in name and name.rpartition(":")[2] == f"{int(port):04X}"


def _foreground(program: Program) -> str:
    """Return the part of a command that a shell runs in the foreground; all of the command where
    it has no shell script."""
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
    last: Sequence[str] = ()
    for token in [*tokens, ";"]:
        if token in ("&", ";", ";;"):
            if lists[-1] and token != "&":
                last = lists[-1]
            lists.append([])
        else:
            lists[-1].append(token)
    return shlex.join(last)
