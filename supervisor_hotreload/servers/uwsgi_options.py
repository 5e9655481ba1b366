"""What a uWSGI is configured to do: its command, its environment and its ini files."""

from __future__ import annotations

import configparser
import os
import stat
from typing import Optional

from supervisor_hotreload.servers.family import Program

FLAGS = frozenset(
    {
        "master",
        "lazy",
        "lazy-apps",
        "die-on-term",
        "need-app",
        "enable-threads",
        "vacuum",
        "single-interpreter",
        "thunder-lock",
        "no-orphans",
        "memory-report",
        "disable-logging",
        "strict",
        "stats-http",
        "stats-minified",
        "auto-procname",
    }
)
"""Options that take no value, where a word may follow that is not theirs."""

SHORT = {
    "M": "master",
    "i": "single-interpreter",
    "w": "module",
    "H": "home",
    "L": "disable-logging",
    "T": "enable-threads",
}

ALIASES = {
    "wsgi": "module",
    "file": "wsgi-file",
    "virtualenv": "home",
    "venv": "home",
    "pyhome": "home",
    "stats-server": "stats",
    "python-path": "pythonpath",
    "pp": "pythonpath",
    "chdir2": "chdir",
    "lazy": "lazy-apps",
}

FILES = 8
"""Configuration files that are read, each once: they may include one another."""

SIZE = 1 << 14
"""Bytes of one configuration file that are read."""

Options = dict[str, list[str]]


def options(program: Program) -> Options:
    """Return what the command, its environment and its ini files set, last value last.

    Values with placeholders other than %d (the file's directory) are left out:
    they cannot be told.
    """
    found: Options = {}
    seen: set[str] = set()
    for name, value in program.environment.items():
        if name.startswith("UWSGI_"):
            _set(found, name[6:].lower().replace("_", "-"), value, program.directory, seen)
    words = program.words[1:]
    while words:
        word = words.pop(0)
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
        elif len(word) > 1 and word[0] == "-":
            name, value = SHORT.get(word[1], word[1]), word[2:]
            equals = value
        else:
            if word.endswith(".ini"):
                _set(found, "ini", word, program.directory, seen)
            continue
        if not equals and name not in FLAGS and words and not words[0].startswith("-"):
            value = words.pop(0)
        _set(found, name, value, program.directory, seen)
    return found


def _set(found: Options, name: str, value: str, directory: str, seen: set[str]) -> None:
    """Add one option; *seen* are the files that have been read."""
    name = ALIASES.get(name, name)
    if name == "ini":
        if value not in seen and len(seen) < FILES:
            seen.add(value)
            _include(found, value, directory, seen)
    elif "%" not in value and "$(" not in value:
        found.setdefault(name, []).append(value)


def _include(found: Options, value: str, directory: str, seen: set[str]) -> None:
    """Add what the ini file *value* sets in its section [uwsgi], or in FILE:SECTION."""
    name, _, section = value.partition(":")
    path = os.path.join(directory, name)
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",), allow_no_value=True)
    here = os.path.dirname(os.path.abspath(path)) + "/"
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), encoding="utf-8") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return
            parser.read_string(_unrepeated(file.read(SIZE)))
        for key, told in parser.items(section or "uwsgi"):
            for one in (told or "").split("\0"):
                _set(found, key.partition("\1")[0], one.replace("%d", here), directory, seen)
    except (OSError, ValueError, configparser.Error):
        return  # uWSGI itself will say what is wrong with it


def _unrepeated(text: str) -> str:
    """Tell keys that come more than once apart: an ini parser keeps only the last."""
    lines = []
    for number, line in enumerate(text.splitlines()):
        key, equals, value = line.strip().partition("=")
        if key[:1] in (";", "#", "["):
            lines.append(line.strip())
        else:
            lines.append(f"{key.strip()}\1{number}{equals}{value}" if key else "")
    return "\n".join(lines)


def is_on(found: Options, name: str) -> bool:
    return name in found and found[name][-1].lower() not in ("false", "0", "no", "off")


def last(found: Options, name: str, directory: str = "") -> Optional[str]:
    values = [value for value in found.get(name, []) if value]
    return os.path.join(directory, values[-1]) if values else None
