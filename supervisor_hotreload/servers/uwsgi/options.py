"""What a uWSGI is configured to do: its command, its environment and its ini files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Optional

from supervisor_hotreload.core.text import printable
from supervisor_hotreload.servers.command_line import Command
from supervisor_hotreload.servers.program import Program
from supervisor_hotreload.servers.uwsgi.command import uwsgi_command
from supervisor_hotreload.servers.uwsgi.flags import FLAGS, SHORT_FLAGS, VALUED
from supervisor_hotreload.system.credentials import Ids, rights_of
from supervisor_hotreload.system.files import read_regular

SHORT = {
    "M": "master",
    "i": "single-interpreter",
    "w": "module",
    "H": "home",
    "L": "disable-logging",
    "T": "enable-threads",
    "p": "processes",
    "s": "socket",
    "S": "set",
    "x": "xml",
    "y": "yaml",
    "j": "json",
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
    "lazy": "lazy-apps",
    "httprouter": "http",
    "undeferred-shared-socket": "shared-socket",
}

EARLY = frozenset(("chdir", "pidfile"))
"""Paths that are taken before uWSGI changes into chdir (core/uwsgi.c, uwsgi_start)."""

INCLUDES = frozenset(("ini", "include", "inherit", "config", "ini-paste", "ini-paste-logged"))

OTHERS = frozenset(("yaml", "yml", "xml", "xmlconfig", "json", "js"))
"""Options that name a file which is not read here."""

CONFIGURATION = re.compile(r"\.(ini|ya?ml|xml|json|js)\Z")

LOGIC = re.compile(r"(if-|ifdir|ifenv|iffile|ifopt|for\b|for-|else\Z)")
"""Options after which others are set only perhaps (core/config.c, uwsgi_logic_opt_*)."""

PLACEHOLDER = re.compile(r"[$%@]\(")
"""What begins something that is replaced by what may stand in an ini file."""

FILES = 8
"""Configuration files that are read, each once: they may include one another."""

SIZE = 1 << 14
"""Bytes of one configuration file that are read."""

MANY = 2000
"""Options that are read."""

LONG = 1 << 12
"""Characters of one value, placeholders replaced."""

UNTOLD = "\0"
"""Stands in a value for what cannot be told."""


@dataclass
class Options:
    """What is set, each name with its values in order, the last one last.

    :param unknown: names that are set to something that cannot be told.
    :param why: why nothing is known for sure about all the others, '' when it is.
    :param directory: where uWSGI is started.
    :param environment: what it is started with.
    :param binary: the uWSGI that its command names.
    :param stated: what supervisord's own configuration sets, and no ini file can change.
    :param rights: with whose rights all files that are named here are looked at.
    """

    directory: str
    environment: Mapping[str, str] = field(default_factory=dict)
    values: dict[str, list[str]] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    why: str = ""
    binary: str = ""
    stated: dict[str, list[str]] = field(default_factory=dict)
    rights: Optional[Ids] = None

    def __contains__(self, name: str) -> bool:
        return name in self.values or name in self.unknown

    def on(self, name: str) -> bool:
        """Tell whether a switch is set."""
        told = self.values.get(name)
        return told is not None and told[-1].lower() not in ("false", "0", "no", "off")

    def all(self, name: str) -> list[str]:
        """Return every value of *name* that is not empty."""
        return [value for value in self.values.get(name, []) if value]

    def last(self, name: str) -> Optional[str]:
        """Return the value of *name* that counts, None without one."""
        return next(reversed(self.all(name)), None)

    def path(self, name: str) -> Optional[str]:
        """Return the value of *name* that counts as a path, None without one."""
        return next(reversed(self.paths(name)), None)

    def paths(self, name: str, directory: Optional[str] = None) -> list[str]:
        """Return every value of *name* as a path.

        :param directory: where the master is, if that is known; else where it is
            configured to be: chdir2 is of the workers only.
        """
        if directory is None and name not in EARLY and "chdir" in self.unknown:
            return [value for value in self.all(name) if os.path.isabs(value)]
        later = "" if name in EARLY else self.last("chdir") or ""
        base = directory or os.path.join(self.directory, later)
        return [os.path.join(base, value) for value in self.all(name)]

    def untold(self, *names: str) -> str:
        """Return why not all of *names* are known, '' when they are."""
        if self.why:
            return self.why
        hidden = sorted(self.unknown.intersection(names))
        return f"what {', '.join(hidden)} is set to cannot be told" if hidden else ""


def options(program: Program) -> Options:
    """Return what the command, its environment and its ini files set.

    It is read as uWSGI does (core/ini.c, core/config.c): magic variables (%d) when
    a file is read, then $(ENVIRONMENT) and %(placeholder) in all values.
    """
    command = uwsgi_command(program)
    if command is None:
        why = "no uWSGI is found in its command"
        return Options(program.directory, why=why, rights=program.rights)
    return _Reader(command, program.rights).read()


class _Reader:
    """Reads the options of one command.

    :param rights: with whose rights its files are read.
    """

    def __init__(self, command: Command, rights: Optional[Ids]) -> None:
        self._command = command
        self._rights = rights
        self._stated: dict[str, list[str]] = {}
        self._set: list[tuple[str, str]] = []
        self._files: list[tuple[str, str]] = []
        self._perhaps = False
        self._first: Optional[dict[str, str]] = None
        self._why = command.why

    def read(self) -> Options:
        for name, value in self._command.environment.items():
            if name.startswith("UWSGI_"):
                self._add(name[6:].lower().replace("_", "-"), value, "")
        self._read_words(list(self._command.words))
        command = self._command
        found = Options(command.directory, command.environment, why=self._why)
        found.binary, found.stated, found.rights = command.binary, self._stated, self._rights
        for name, value in self._resolved():
            name = ALIASES.get(name, name)
            if UNTOLD in value:
                found.unknown.add(name)
            else:
                found.values.setdefault(name, []).append(value)
        return found

    def _read_words(self, words: list[str]) -> None:
        while words:
            word = words.pop(0)
            if word.startswith("--"):
                name, equals, value = word[2:].partition("=")
                bare = name in FLAGS
            elif len(word) > 1 and word[0] == "-":
                name, value = SHORT.get(word[1], word[1]), word[2:]
                equals, bare = value, word[1] in SHORT_FLAGS
            else:
                self._add_word(word)
                continue
            if not equals and not bare and words and not self._stands_alone(name, words[0]):
                value = words.pop(0)
            self._add(name, value, "")

    @staticmethod
    def _stands_alone(name: str, word: str) -> bool:
        """Tell whether *word* is no value of *name*, which may be a flag of an unknown plugin."""
        known = name in VALUED or len(name) == 1
        return not known and CONFIGURATION.search(word) is not None

    def _add_word(self, word: str) -> None:
        """Take a word that is no option: a configuration, or what the python plugin loads."""
        if CONFIGURATION.search(word):
            self._add("ini" if word.endswith(".ini") else "yaml", word, "")
        elif word.partition(":")[0].endswith((".py", ".wsgi")):
            file, colon, called = word.partition(":")
            self._set.append(("wsgi-file", file))
            self._set.extend([("callable", called)] if colon else [])
        elif ":" in word and "." in word:
            self._set.append(("module", word))

    def _add(self, name: str, value: str, file: str) -> None:
        """Add one option.

        :param file: the ini file that it stands in, '' for none.
        """
        if name.startswith("end"):
            self._perhaps = False
        elif LOGIC.match(name):
            self._perhaps = True
        elif name in INCLUDES or name in OTHERS:
            self._include(name, value, file)
        elif name in ("set", "set-placeholder", "set-ph"):
            key, _, told = value.partition("=")
            self._set.append((key, told))
        else:
            self._set.append((name, UNTOLD if self._perhaps else value))
            if not file and not self._perhaps and not PLACEHOLDER.search(value):
                self._stated.setdefault(ALIASES.get(name, name), []).append(value)

    def _include(self, name: str, value: str, last: str) -> None:
        """Add what the file FILE, or the section of FILE:SECTION, sets."""
        path, _, section = value.rpartition(":") if ":" in value else (value, "", "")
        path = os.path.join(self._command.directory, path) if path else last
        if not path or UNTOLD in value or "%(" in value or "$(" in value or self._perhaps:
            self._why = f"which file {_shown(name, value, last)} is cannot be told"
        elif name in OTHERS or (name != "ini" and not path.endswith(".ini")):
            self._why = f"{_shown(name, value, last)} is not read: only ini files are"
        elif (path, section) not in self._files:
            self._files.append((path, section))
            if len(self._files) > FILES:
                self._why = f"it has more than {FILES} configuration files"
                return
            try:
                text = self._text(path, section)
            except (OSError, ValueError) as error:
                why = (isinstance(error, OSError) and error.strerror) or str(error)
                self._why = f"{_shown(name, value, last)} cannot be read: {printable(why)[:200]}"
            else:
                self._read_ini(text, section or "uwsgi", path)

    def _text(self, path: str, section: str) -> str:
        """Return a configuration file with its magic variables replaced.

        :raises OSError, ValueError: when it is no regular file, too large, or no text.
        """
        with rights_of(self._rights):
            raw = read_regular(path, SIZE + 1)
            magic = _magic(path, section)
        if len(raw) > SIZE:
            raise ValueError(f"more than {SIZE} bytes")
        self._first = self._first or {key.upper(): told for key, told in magic.items()}
        magic = {**self._first, **magic, "%": "%", "(": "%("}
        text = raw.decode("utf-8")
        return re.sub("%(.)", lambda seen: magic.get(seen[1], UNTOLD), text)

    def _read_ini(self, text: str, wanted: str, path: str) -> None:
        """Read lines as core/ini.c does: one key may come again and again."""
        section = ""
        for raw in text.split("\n"):
            line = raw.strip(" \t\r")
            if len(self._set) > MANY:
                self._why = f"it has more than {MANY} options"
                return
            if line[:1] == "[":
                section = line[1:-1]
            elif line and line[0] not in ";#" and section == wanted:
                key, _, value = line.partition("=")
                self._add(key.rstrip(" \t\r"), value.strip(" \t\r"), path)

    def _resolved(self) -> list[tuple[str, str]]:
        """Replace $(NAME) and @(FILE) in all values, then %(name) in one after the other."""
        given = self._command.environment
        told = [(key, _replaced(_replaced(value, "$", given), "@", {})) for key, value in self._set]
        first: dict[str, str] = {}
        for key, value in told:
            first.setdefault(key, value)
        found = []
        seen: set[str] = set()
        for key, value in told:
            value = _replaced(value, "%", first)
            if key not in seen:
                seen.add(key)
                first[key] = value
            found.append((key, value))
        return found


def _shown(name: str, value: str, file: str) -> str:
    """Return how an option that names a file is called; what a *file* says of it, which may
    have been meant for others only, is not repeated."""
    told = f"{name} in {file}" if file else f"{name} = {value}"
    return printable(told)[:200]


def _magic(path: str, section: str) -> dict[str, str]:
    """Return the magic variables of a file (core/uwsgi.c, config_magic_table_fill)."""
    full = os.path.abspath(path) if os.path.islink(path) else os.path.realpath(path)
    folder, base = os.path.split(full)
    stem, dot, extension = base.rpartition(".")
    parts = [part for part in folder.split("/") if part][:10]
    numbered = {str(number): part for number, part in enumerate(parts)}
    return {
        **dict.fromkeys("0123456789", ""),
        **numbered,
        "o": path,
        "p": full,
        "s": base,
        "d": folder.rstrip("/") + "/",
        "c": os.path.basename(folder),
        "n": stem if dot else base,
        "e": extension if dot else "",
        "x": section,
    }


def _replaced(value: str, mark: str, told: Mapping[str, str]) -> str:
    """Replace MARK(name) in *value*, by UNTOLD where that is not known."""
    found: list[str] = []
    length = at = 0
    for seen in re.finditer(re.escape(mark) + r"\(([^()]*)\)", value):
        new = told.get(seen[1], UNTOLD)
        found += [value[at : seen.start()], new]
        at = seen.end()
        length += len(new)
        if length > LONG:
            return UNTOLD
    return "".join(found) + value[at:]
