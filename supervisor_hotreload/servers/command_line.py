"""Finds the server in a program's command, behind its wrappers."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Callable, Optional

from supervisor_hotreload.core.text import printable
from supervisor_hotreload.servers.program import Program

PYTHON = re.compile(r"(python|pypy)[\d.]*\Z")

SHELLS = frozenset(("sh", "bash", "dash", "ash", "ksh", "zsh"))

STUBS = frozenset(("hotreload-orphan", "supervisor_hotreload.wrapper.orphan"))
"""The names of hotreload's stub, as a script and as a module."""

PLAIN = STUBS | {"exec", "nohup", "setsid", "ddtrace-run", "opentelemetry-instrument"}
"""Wrappers whose next word is the command."""

ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)

SPECIAL = re.compile(r"[$`*?\[\]{}~!\\]")
"""Characters that a shell would expand."""

NESTING = 6
"""Wrappers that may be nested."""

FIRST_WORDS = 5
"""Words in which a server is looked for behind an unknown wrapper."""

INTERPRETERS = re.compile(r"(python|pypy|ruby|perl)[\d.]*$")


def own_name(words: Sequence[str]) -> str:
    """Return the name of the program that a command line runs, behind its interpreter.

    The only word may be a title, such as 'gunicorn: master [app]' or 'puma 5.6 (tcp://...)'.
    """
    first = "".join(words[:1])
    title = first.partition(" ")[0]
    name = os.path.basename(first if "/" in title else title)
    if INTERPRETERS.match(name):
        rest = (word for word in words[1:] if not word.startswith("-"))
        name = os.path.basename(next(rest, ""))
    return name.partition(":")[0]


Names = Callable[[str], object]


@dataclass(frozen=True)
class StartCommand:
    """The command that a program executes in the end.

    :param words: the arguments of the server.
    :param why: why they are not certain, '' when they are.
    :param binary: the server itself.
    """

    words: tuple[str, ...]
    directory: str
    environment: Mapping[str, str] = field(default_factory=dict)
    why: str = ""
    binary: str = ""


def assigned(program: Program, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a StartCommand's *environment* that its wrappers have set."""
    before = _whole(program).environment
    return {key: value for key, value in environment.items() if before.get(key) != value}


def behind(program: Program, names: Names) -> Optional[StartCommand]:
    """Return the server that a program's command starts, None when it starts another program.

    :param names: tells whether a name is the server's.
    """
    return _behind(_whole(program), names, NESTING)


def among(program: Program, names: Names) -> Optional[StartCommand]:
    """Return the server among the first words of a command, behind an unknown wrapper.

    The words of a shell are its script, so a shell starts no server here.
    """
    whole = _whole(program)
    if {os.path.basename(word) for word in whole.words[:1]} & SHELLS:
        return None
    for position, word in enumerate(whole.words[:FIRST_WORDS]):
        if names(os.path.basename(word)):
            return replace(whole, words=whole.words[position + 1 :], binary=word)
    return None


def _whole(program: Program) -> StartCommand:
    environment = {**os.environ, **program.environment}
    return StartCommand(tuple(program.words), program.directory, environment)


def _behind(command: StartCommand, names: Names, depth: int) -> Optional[StartCommand]:
    """Look through one wrapper after the other."""
    words = command.words
    while words and depth:
        depth -= 1
        name, rest = os.path.basename(words[0]), words[1:]
        if names(name):
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
            return _behind_shell(command, rest, names, depth)
        else:
            return None
    return None


def _behind_nice(words: tuple[str, ...]) -> tuple[str, ...]:
    while words and words[0].startswith("-"):
        words = words[2:] if words[0] in ("-n", "--adjustment") else words[1:]
    return words


def _behind_assignments(
    command: StartCommand, words: tuple[str, ...]
) -> tuple[StartCommand, tuple[str, ...]]:
    environment = dict(command.environment)
    while words:
        found = ASSIGNMENT.match(words[0])
        if found is None:
            break
        environment[found[1]] = found[2]
        words = words[1:]
    return replace(command, environment=environment), words


def shell_tokens(script: str) -> Optional[list[str]]:
    """Return the words and operators of a shell script, None when it cannot be split."""
    try:
        lexer = shlex.shlex(script.replace("\n", ";"), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        lexer.commenters = ""
        return list(lexer)
    except ValueError:
        return None


def _behind_shell(
    command: StartCommand, words: tuple[str, ...], names: Names, depth: int
) -> Optional[StartCommand]:
    """Read ``-c 'cd X && A=b exec SERVER ...'``. In a script that does more, the arguments of the
    server are not certain."""
    if len(words) < 2 or not re.match(r"-[a-z]*c\Z", words[0]):
        return None
    script = words[1]
    tokens = shell_tokens(script)
    if tokens is None:
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
        found = _behind(replace(inner, words=left), names, depth) if left else None
        if found is not None:
            plain = plain and number == len(steps) - 1
            why = f"{printable(script)[:200]!r} is more than one plain command"
            return found if plain else replace(found, words=(), why=found.why or why)
        if not left:
            command = inner
        elif step[0] != "set":
            plain = False
    return None
