"""Reads what a uWSGI is configured to do: its command, environment and ini files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Optional

from supervisor_hotreload.core.text import printable
from supervisor_hotreload.servers.command_line import StartCommand, behind
from supervisor_hotreload.servers.program import Program
from supervisor_hotreload.system.credentials import Ids, rights_of
from supervisor_hotreload.system.files import read_regular

NAME = re.compile(r"(uwsgi(-core|_(python|psgi|rack_ruby)[\d.]*)?|pyuwsgi)\Z")
"""The names of the program in distributions and wheels (Debian: uwsgi-core, uwsgi_python3)."""

SHORT = {
    "M": "master",
    "w": "module",
    "H": "home",
    "p": "processes",
    "S": "set",
    "x": "xml",
    "y": "yaml",
    "j": "json",
}

SHORT_SWITCHES = frozenset("mcaCTiMhrL")
"""Options of one letter that take no value."""

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

INI_FILES = frozenset(("ini", "include", "inherit", "config", "ini-paste", "ini-paste-logged"))

OTHER_FILES = frozenset(("yaml", "yml", "xml", "xmlconfig", "json", "js"))
"""Options that name a configuration file which is not read here."""

SWITCHES = frozenset(("master", "lazy-apps", "lazy", "die-on-term"))
"""Options without a value on which a decision rests."""

VALUED = frozenset(
    # one string: a line for each name helps nobody
    """
alarm callable cgi-allowed-ext chdir check-static curl-cron daemonize daemonize2 declare-option
declare-option2 early-pyimport early-python-import emperor env envdir eval exception-handler
extract fallback-config fastrouter file-write gid home http http-to-https https https2 ienv import
jid-file load-file-in-cache load-file-in-cache-gzip log-alarm logger logger-req logto logto2
master-fifo mime-file mimefile module mono-config mount paste pecan php-allowed-ext php-config
php-ini php-ini-append pidfile post-pymodule-alias print processes procname py-import pyargv
pyimport pymodule-alias pyrun python-import python-worker-override pythonpath rawrouter req-logger
route set set-ph set-placeholder shared-socket spooler-import spooler-py-import spooler-pyimport
spooler-python-import sslrouter sslrouter2 static-gzip static-safe static-skip-ext stats symcall
test uid unenv unique-cron workers wsgi-file
""".split()  # noqa: SIM905 - see above
)
"""Options whose value decides something, or may look like a word that stands for itself."""

VALUED_PREFIXES = (
    *("attach-", "call-", "cron", "error-page-", "error-route", "exec-", "final-route"),
    *("fs-", "hook-", "legion-", "mount-", "pypy-", "response-route", "route-", "shared-"),
    *("smart-attach-", "static-map", "touch-", "umount-", "vassal", "wait-for-", "worker-"),
)
"""Groups of such options; no option of uWSGI without a value begins so."""

BEFORE_CHDIR = frozenset(("chdir", "pidfile"))
"""Paths that uWSGI uses before it changes into chdir (core/uwsgi.c, uwsgi_start)."""

CONFIGURATION = re.compile(r"\.(ini|ya?ml|xml|json|js)\Z")

APPLICATION = re.compile(r"[^:]+\.(py|wsgi)(:.*)?\Z|[A-Za-z_]\w*(\.\w+)+:[A-Za-z_]")
"""A word that the python plugin loads: a file, or MODULE.NAME:CALLABLE (uwsgi_python_magic)."""

LOGIC = re.compile(r"(if-|ifdir|ifenv|iffile|ifopt|for\b|for-|else\Z)")
"""Options that put a condition on those after them (core/config.c, uwsgi_logic_opt_*)."""

PLACEHOLDER = re.compile(r"[$%@]\(")
"""The begin of a placeholder, whose replacement may come from an ini file."""

MAX_FILES = 8
"""Configuration files that are read, each once: they may include one another."""

MAX_FILE_BYTES = 1 << 14

MAX_OPTIONS = 2000

MAX_VALUE_CHARACTERS = 1 << 12
"""Limit for one value whose placeholders are replaced."""

UNKNOWN = "\0"
"""Stands in a value for a part that cannot be known here."""


@dataclass
class UwsgiOptions:
    """Knows the options that are set: each name with its values in order.

    :param unknown: names whose value cannot be known.
    :param why: why other options may be set as well, '' when all are known.
    :param directory: where uWSGI is started.
    :param environment: what it is started with.
    :param binary: the uWSGI that its command names.
    :param stated: values from supervisord's own configuration, which no ini file can change.
    :param rights: with whose rights every file named here is looked at.
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
        values = self.values.get(name)
        return values is not None and values[-1].lower() not in ("false", "0", "no", "off")

    def all(self, name: str) -> list[str]:
        """Return every value of *name* that is not empty."""
        return [value for value in self.values.get(name, []) if value]

    def last(self, name: str) -> Optional[str]:
        """Return the last value of *name*, which counts for uWSGI, or None."""
        return next(reversed(self.all(name)), None)

    def path(self, name: str) -> Optional[str]:
        """Return the last value of *name* as an absolute path, or None."""
        return next(reversed(self.paths(name)), None)

    def paths(self, name: str, directory: Optional[str] = None) -> list[str]:
        """Return every value of *name* as a path.

        :param directory: where the master runs, None for where it is configured to run
            (chdir2 is for the workers only).
        """
        if directory is None and name not in BEFORE_CHDIR and "chdir" in self.unknown:
            return [value for value in self.all(name) if os.path.isabs(value)]
        chdir = "" if name in BEFORE_CHDIR else self.last("chdir") or ""
        base = directory or os.path.join(self.directory, chdir)
        return [os.path.join(base, value) for value in self.all(name)]

    @property
    def run_directory(self) -> str:
        """Return the directory that the master is configured to run in."""
        return self.path("chdir") or self.directory

    def why_unknown(self, *names: str) -> str:
        """Return why the values of *names* are not all known, '' when they are."""
        if self.why:
            return self.why
        unknown = sorted(self.unknown.intersection(names))
        return f"the value of {', '.join(unknown)} cannot be known" if unknown else ""


def uwsgi_command(program: Program) -> Optional[StartCommand]:
    """Return the uWSGI that a program's command starts, None when it starts another program."""
    return behind(program, NAME.match)


def options(program: Program) -> UwsgiOptions:
    """Return the options that the command, its environment and its ini files set.

    They are read as uWSGI does (core/ini.c, core/config.c): magic variables (%d) when
    a file is read, then $(ENVIRONMENT) and %(placeholder) in all values.
    """
    command = uwsgi_command(program)
    if command is None:
        why = "no uWSGI is found in its command"
        return UwsgiOptions(program.directory, why=why, rights=program.rights)
    return _Reader(command, program.rights).read()


class _Reader:
    """Reads the options of one command; its files with *rights*."""

    def __init__(self, command: StartCommand, rights: Optional[Ids]) -> None:
        self._command = command
        self._rights = rights
        self._stated: dict[str, list[str]] = {}
        self._set: list[tuple[str, str]] = []
        self._files: list[tuple[str, str]] = []
        self._is_conditional = False
        self._first_magic: Optional[dict[str, str]] = None
        self._why = command.why

    def read(self) -> UwsgiOptions:
        command = self._command
        for name, value in command.environment.items():
            if name.startswith("UWSGI_"):
                self._add(name[6:].lower().replace("_", "-"), value, "")
        self._read_words(list(command.words))
        found = UwsgiOptions(command.directory, command.environment, why=self._why)
        found.binary, found.stated, found.rights = command.binary, self._stated, self._rights
        for name, value in self._resolved():
            name = ALIASES.get(name, name)
            if UNKNOWN in value:
                found.unknown.add(name)
            else:
                found.values.setdefault(name, []).append(value)
        return found

    def _read_words(self, words: list[str]) -> None:
        while words:
            word = words.pop(0)
            if word.startswith("--"):
                name, equals, value = word[2:].partition("=")
                takes = bool(words) and _takes(name, words[0])
            elif len(word) > 1 and word[0] == "-":
                name, value = SHORT.get(word[1], word[1]), word[2:]
                takes = bool(words) and word[1].isalpha() and word[1] not in SHORT_SWITCHES
                equals = value
            else:
                self._add_word(word)
                continue
            self._add(name, words.pop(0) if takes and not equals else value, "")

    def _add_word(self, word: str) -> None:
        """Add a word that is no option: a configuration, or what the python plugin loads."""
        if CONFIGURATION.search(word):
            self._add("ini" if word.endswith(".ini") else "yaml", word, "")
        elif word.partition(":")[0].endswith((".py", ".wsgi")):
            file, colon, called = word.partition(":")
            self._set.append(("wsgi-file", file))
            self._set.extend([("callable", called)] if colon else [])
        elif ":" in word and "." in word:
            self._set.append(("module", word))

    def _add(self, name: str, value: str, file: str) -> None:
        """Add one option that stands in the ini file *file*, or in none ('')."""
        if name.startswith("end"):
            self._is_conditional = False
        elif LOGIC.match(name):
            self._is_conditional = True
        elif name in INI_FILES or name in OTHER_FILES:
            self._include(name, value, file)
        elif name in ("set", "set-placeholder", "set-ph"):
            key, _, value = value.partition("=")
            self._set.append((key, value))
        else:
            self._set.append((name, UNKNOWN if self._is_conditional else value))
            if not file and not self._is_conditional and not PLACEHOLDER.search(value):
                self._stated.setdefault(ALIASES.get(name, name), []).append(value)

    def _include(self, name: str, value: str, last: str) -> None:
        """Add what the file FILE, or the section of FILE:SECTION, sets."""
        path, _, section = value.rpartition(":") if ":" in value else (value, "", "")
        path = os.path.join(self._command.directory, path) if path else last
        option = _described(name, value, last)
        has_placeholder = UNKNOWN in value or "%(" in value or "$(" in value
        if not path or has_placeholder or self._is_conditional:
            self._why = f"the file that {option} names cannot be known"
        elif name in OTHER_FILES or (name != "ini" and not path.endswith(".ini")):
            self._why = f"{option} is not read: only ini files are"
        elif (path, section) not in self._files:
            self._files.append((path, section))
            if len(self._files) > MAX_FILES:
                self._why = f"it has more than {MAX_FILES} configuration files"
                return
            try:
                text = self._text(path, section)
            except (OSError, ValueError) as error:
                why = (isinstance(error, OSError) and error.strerror) or str(error)
                self._why = f"{option} cannot be read: {printable(why)[:200]}"
            else:
                self._read_ini(text, section or "uwsgi", path)

    def _text(self, path: str, section: str) -> str:
        """Return a configuration file with its magic variables replaced.

        :raises OSError, ValueError: when it is no regular file, too large, or no text.
        """
        with rights_of(self._rights):
            raw = read_regular(path, MAX_FILE_BYTES + 1)
            magic = _magic(path, section)
        if len(raw) > MAX_FILE_BYTES:
            raise ValueError(f"more than {MAX_FILE_BYTES} bytes")
        self._first_magic = self._first_magic or {key.upper(): magic[key] for key in magic}
        magic = {**self._first_magic, **magic, "%": "%", "(": "%("}
        return re.sub("%(.)", lambda seen: magic.get(seen[1], UNKNOWN), raw.decode("utf-8"))

    def _read_ini(self, text: str, wanted: str, path: str) -> None:
        """Read lines as core/ini.c does: one key may come again and again."""
        section = ""
        for raw in text.split("\n"):
            line = raw.strip(" \t\r")
            if len(self._set) > MAX_OPTIONS:
                self._why = f"it has more than {MAX_OPTIONS} options"
                return
            if line[:1] == "[":
                section = line[1:-1]
            elif line and line[0] not in ";#" and section == wanted:
                key, _, value = line.partition("=")
                self._add(key.rstrip(" \t\r"), value.strip(" \t\r"), path)

    def _resolved(self) -> list[tuple[str, str]]:
        """Replace $(NAME) and @(FILE) in all values, then %(name) in one after the other."""
        environment = self._command.environment
        half = [
            (key, _replaced(_replaced(value, "$", environment), "@", {}))
            for key, value in self._set
        ]
        first: dict[str, str] = {}
        for key, value in half:
            first.setdefault(key, value)
        found = []
        seen: set[str] = set()
        for key, value in half:
            value = _replaced(value, "%", first)
            if key not in seen:
                seen.add(key)
                first[key] = value
            found.append((key, value))
        return found


def _takes(name: str, word: str) -> bool:
    """Tell whether *word*, which stands behind ``--name``, is its value.

    uWSGI has 900 options, and plugins add more. For most of them only one thing matters: a
    word that names a configuration or an application must not be lost as their value.
    """
    if name in SWITCHES:
        return False
    known = ALIASES.get(name, name) in VALUED or name in INI_FILES or name in OTHER_FILES
    if known or name.startswith(VALUED_PREFIXES):
        return True
    if LOGIC.match(name) and not name.endswith("reload"):  # if-reload has no value
        return True
    return not (word[:1] == "-" or CONFIGURATION.search(word) or APPLICATION.match(word))


def _described(name: str, value: str, file: str) -> str:
    """Return a name for an option that includes a file.

    Its value is left out when it stands in a *file*: that may be secret.
    """
    return printable(f"{name} in {file}" if file else f"{name} = {value}")[:200]


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


def _replaced(value: str, mark: str, names: Mapping[str, str]) -> str:
    """Replace MARK(name) in *value*, by UNKNOWN where the name is not in *names*."""
    found: list[str] = []
    length = at = 0
    for seen in re.finditer(re.escape(mark) + r"\(([^()]*)\)", value):
        new = names.get(seen[1], UNKNOWN)
        found += [value[at : seen.start()], new]
        at = seen.end()
        length += len(new)
        if length > MAX_VALUE_CHARACTERS:
            return UNKNOWN
    return "".join(found) + value[at:]
