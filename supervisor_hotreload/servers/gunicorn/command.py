"""What the command line of a gunicorn tells, and GUNICORN_CMD_ARGS in its environment."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

from supervisor_hotreload.servers.program import Program, mentions

BINARIES = frozenset({"gunicorn", "gunicorn3", "gunicorn_paster"})

SHORT = {"-p": "pid", "-t": "timeout", "-u": "user", "-g": "group"}
"""gunicorn's short options that matter here (gunicorn config)."""

DAEMON = ("--daemon", "-D")


def options(command: str) -> dict[str, str]:
    """Return the long options with a value that a configured command has."""
    try:
        return options_of(shlex.split(command))
    except ValueError:
        return {}


def options_of(words: Sequence[str]) -> dict[str, str]:
    """Return the long options with a value that a command line has."""
    found: dict[str, str] = {}
    for word, value in zip(words, [*words[1:], ""]):
        if word.startswith("--"):
            name, equals, rest = word[2:].partition("=")
            found[name] = rest if equals else value
        elif word[:2] in SHORT:
            found[SHORT[word[:2]]] = word[2:].lstrip("=") or value
    return found


def configured(program: Program) -> str:
    """Return a program's command, after the arguments that gunicorn takes from the
    environment (GUNICORN_CMD_ARGS), which give way to it."""
    more = program.environment.get("GUNICORN_CMD_ARGS", "")
    return f"{more} {program.command}".strip()


def bound(program: Program) -> list[str]:
    """Return where a gunicorn listens as its command tells: HOST:PORT, and paths."""
    found = []
    for word, value in zip(program.words, [*program.words[1:], ""]):
        if word in ("-b", "--bind"):
            found.append(value)
        elif word.startswith("--bind="):
            found.append(word[7:])
        elif word.startswith("-b"):
            found.append(word[2:])
    if not found:
        port = program.environment.get("PORT")
        return [f":{port}" if port else "127.0.0.1:8000"]
    paths = [one[5:] for one in found if one.startswith("unix:")]
    others = [one for one in found if not one.startswith("unix:")]
    return [*others, *(os.path.join(program.directory, path) for path in paths)]


def daemonizes(program: Program) -> bool:
    """Tell whether a program's command asks gunicorn to leave its parent."""
    return mentions(configured(program), DAEMON)
