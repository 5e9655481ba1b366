"""The uWSGI behind the words of a program's command: its wrappers are looked through."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Optional

from supervisor_hotreload.printable import printable
from supervisor_hotreload.servers.family import Program

NAME = re.compile(r"(uwsgi(-core|_(python|psgi|rack_ruby)[\d.]*)?|pyuwsgi)\Z")
"""What distributions and wheels call the program (Debian: uwsgi-core, uwsgi_python3)."""

PYTHON = re.compile(r"python[\d.]*\Z")

SHELLS = frozenset(("sh", "bash", "dash", "ash", "ksh", "zsh"))

PLAIN = frozenset(("exec", "nohup", "setsid", "ddtrace-run", "opentelemetry-instrument"))
"""Wrappers whose next word is the command."""

ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)

SPECIAL = re.compile(r"[$`*?\[\]{}~!\\]")
"""What a shell would expand."""

DEPTH = 6
"""Wrappers in one another."""


@dataclass(frozen=True)
class Command:
    """What a program executes in the end.

    :param words: the arguments of uWSGI.
    :param binary: the uWSGI itself.
    :param why: why they cannot be told, '' when they are.
    """

    words: tuple[str, ...]
    directory: str
    environment: Mapping[str, str] = field(default_factory=dict)
    why: str = ""
    binary: str = ""


def uwsgi_command(program: Program) -> Optional[Command]:
    """Return the uWSGI that a program's command starts, None when it starts another program."""
    environment = {**os.environ, **program.environment}
    return _behind(Command(tuple(program.words), program.directory, environment), DEPTH)


def _behind(command: Command, depth: int) -> Optional[Command]:
    """Look through one wrapper after the other."""
    words = command.words
    while words and depth:
        depth -= 1
        name, rest = os.path.basename(words[0]), words[1:]
        if NAME.match(name):
            return replace(command, words=rest, binary=words[0])
        if name in PLAIN:
            words = rest
        elif name == "newrelic-admin" and rest[:1] == ("run-program",):
            words = rest[1:]
        elif name == "nice":
            words = _behind_nice(rest)
        elif name == "env":
            command, words = _behind_assignments(command, rest)
        elif PYTHON.match(name):
            words = rest[1:] if rest[:1] == ("-m",) else rest
        elif name in SHELLS:
            return _behind_shell(command, rest, depth)
        else:
            return None
    return None


def _behind_nice(words: tuple[str, ...]) -> tuple[str, ...]:
    while words and words[0].startswith("-"):
        words = words[2:] if words[0] in ("-n", "--adjustment") else words[1:]
    return words


def _behind_assignments(
    command: Command, words: tuple[str, ...]
) -> tuple[Command, tuple[str, ...]]:
    environment = dict(command.environment)
    while words:
        found = ASSIGNMENT.match(words[0])
        if found is None:
            break
        environment[found[1]] = found[2]
        words = words[1:]
    return replace(command, environment=environment), words


def _behind_shell(command: Command, words: tuple[str, ...], depth: int) -> Optional[Command]:
    """Read ``-c 'cd X && A=b exec uwsgi ...'``: what is not plain leaves the options unknown."""
    if len(words) < 2 or not re.match(r"-[a-z]*c\Z", words[0]):
        return None
    script = words[1]
    try:
        lexer = shlex.shlex(script.replace("\n", ";"), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        lexer.commenters = ""
        tokens = list(lexer)
    except ValueError:
        return None
    plain = not SPECIAL.search(script)
    steps: list[list[str]] = [[]]
    for token in tokens:
        if set(token) <= set("();<>|&"):
            plain = plain and token in (";", "&&")
            steps.append([])
        else:
            steps[-1].append(token)
    steps = [step for step in steps if step]
    for number, step in enumerate(steps):
        if step[0] == "cd" and len(step) == 2:
            command = replace(command, directory=os.path.join(command.directory, step[1]))
            continue
        if step[0] == "export":
            command, left = _behind_assignments(command, tuple(step[1:]))
            plain = plain and not left
            continue
        inner, left = _behind_assignments(command, tuple(step))
        found = _behind(replace(inner, words=left), depth) if left else None
        if found is not None:
            plain = plain and number == len(steps) - 1
            why = f"{printable(script)[:200]!r} is more than one plain command"
            return found if plain else replace(found, words=(), why=found.why or why)
        if not left:
            command = inner
        elif step[0] != "set":
            plain = False
    return None
