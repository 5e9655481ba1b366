"""What the command of a gunicorn says, with GUNICORN_CMD_ARGS of its environment."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from typing import Optional

from supervisor_hotreload.core.text import printable
from supervisor_hotreload.servers.program import Program, mentions
from supervisor_hotreload.system.credentials import rights_of
from supervisor_hotreload.system.files import read_regular

BINARIES = frozenset({"gunicorn", "gunicorn3", "gunicorn_paster"})

SHORT_OPTIONS = {"-p": "pid", "-t": "timeout", "-u": "user", "-g": "group", "-c": "config"}
"""gunicorn's short options that matter here (gunicorn config)."""

DAEMON_OPTIONS = ("--daemon", "-D")

DAEMON_SETTING = re.compile(rb"^daemon[ \t]*=[ \t]*([^#\r\n]*)", re.MULTILINE)
"""The setting as a line of a configuration file. The file may be anybody's, so it is neither
executed nor parsed: deep nesting crashes Python's parser."""

CONFIGURATION_BYTES = 1 << 16
"""Bytes of a configuration file that are read; a longer one is left alone."""


def options(command: str) -> dict[str, str]:
    """Return the long options of a configured command, with their values."""
    try:
        return options_of(shlex.split(command))
    except ValueError:
        return {}


def options_of(words: Sequence[str]) -> dict[str, str]:
    """Return the long options of a command line, with their values."""
    found: dict[str, str] = {}
    for word, value in zip(words, [*words[1:], ""]):
        if word.startswith("--"):
            name, equals, rest = word[2:].partition("=")
            found[name] = rest if equals else value
        elif word[:2] in SHORT_OPTIONS:
            found[SHORT_OPTIONS[word[:2]]] = word[2:].lstrip("=") or value
    return found


def configured(program: Program) -> str:
    """Return a program's command behind GUNICORN_CMD_ARGS, which it overrides."""
    more = program.environment.get("GUNICORN_CMD_ARGS", "")
    return f"{more} {program.command}".strip()


def bound(program: Program) -> list[str]:
    """Return the addresses in a gunicorn's command: HOST:PORT, and absolute paths."""
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


def why_it_daemonizes(program: Program) -> str:
    """Return why gunicorn leaves supervisord, '' when neither its command nor a plain line of
    its configuration file says that it does."""
    consequence = "so the process that was started ends at once"
    if mentions(configured(program), DAEMON_OPTIONS):
        return f"its command has --daemon, {consequence}; remove --daemon"
    path = _configuration(program)
    if path is None or not _sets_daemon(program, path):
        return ""
    return f"{printable(path)} has 'daemon = True', {consequence}; remove that line"


def _configuration(program: Program) -> Optional[str]:
    """Return the path of the configuration file (gunicorn config, get_default_config_file)."""
    name = options(configured(program)).get("config", "gunicorn.conf.py")
    if name.startswith("python:"):
        return None
    return os.path.join(program.directory, name[5:] if name.startswith("file:") else name)


def _sets_daemon(program: Program, path: str) -> bool:
    try:
        with rights_of(program.rights):
            text = read_regular(path, CONFIGURATION_BYTES)
    except OSError:
        return False
    settings = DAEMON_SETTING.findall(text) if len(text) < CONFIGURATION_BYTES else []
    return bool(settings) and settings[-1].strip() in (b"True", b"1")
