"""Reads the ``[hotreload:NAME]`` sections as supervisord reads its own file."""

from __future__ import annotations

import configparser
import glob
import itertools
import os
import sys
from typing import Any, Optional

from supervisor.options import ServerOptions, UnhosedConfigParser, expand

from supervisor_hotreload.plugin.log import Log
from supervisor_hotreload.servers.settings import DEFAULTS, PREFIX, Settings

Stamp = tuple[tuple[str, int, int, int], ...]


def _being_parsed() -> Optional[Any]:
    """Return our sections of what supervisord parses while it imports this module.

    supervisord drops its user after that, and then may not be able to read its own file
    any more. It keeps nothing of our sections (ServerOptions.read_config), so they are
    taken from the parser of the call that imports us.
    """
    frame = sys._getframe()
    while frame.f_code is not ServerOptions.get_plugins.__code__:
        if frame.f_back is None:
            return None
        frame = frame.f_back
    known, options = frame.f_locals.get("parser"), frame.f_locals.get("self")
    if not isinstance(known, UnhosedConfigParser) or not isinstance(options, ServerOptions):
        return None
    ours = [name for name in known.sections() if name.startswith(PREFIX) or name == DEFAULTS]
    parser = UnhosedConfigParser()
    parser.read_dict({name: dict(known.items(name)) for name in ours})
    parser.expansions = known.expansions
    parser.expand_here(options.here)
    return parser


AT_START = _being_parsed()
"""Our sections as supervisord has read them, None where something else has imported us."""


class SettingsFile:
    """The settings behind supervisord's configuration file, read again when it changes.

    :param options: supervisord's ServerOptions: the file, ``%(here)s`` and ``%(ENV_x)s``.
    :param defaults: the factory's keys; those of the file are used from the first edit on.
    """

    def __init__(self, options: Any, section: str, defaults: dict[str, str]) -> None:
        self._options = options
        self._section = section
        self._defaults = defaults
        self._stamp: Optional[Stamp] = None
        self._settings = Settings(defaults, {})
        self._patterns: list[str] = []
        self.trouble = ""
        """Why an edit has no effect, '' when it has."""

    def read(self) -> Settings:
        """Return the settings as they are now.

        Where supervisord read its files as root and can read them no more, now that it
        is another user, they are those of its start.

        :raises ValueError: when a file cannot be parsed, or was never read.
        """
        path = self._options.configfile
        if path and (self._stamp is None or _stamp(self._files(path)) != self._stamp):
            self.trouble = ""
            self._settings = self._read(path)
            self._stamp = _stamp(self._files(path))
        return self._settings

    def _read(self, path: str) -> Settings:
        parser = UnhosedConfigParser()
        try:
            self._parse(parser, path)
        except PermissionError as error:
            return self._known(str(error))
        except (configparser.Error, UnicodeDecodeError) as error:
            why = " ".join(str(error).split())
            raise ValueError(f"{path}, or what it includes, cannot be parsed: {why}") from None
        if not parser.has_section("supervisord"):
            raise ValueError(f"{path} has no section [supervisord]")
        return self._extract(parser)

    def _known(self, trouble: str) -> Settings:
        """Return the settings that were read last.

        :raises ValueError: when none were.
        """
        if self._stamp is None and AT_START is None:
            raise ValueError(f"{trouble}; let that user read it")
        self.trouble = (
            f"{trouble}; the settings are those that were read when supervisord was started, an "
            f"edit has no effect until supervisord is started again"
        )
        Log(self._options.logger).warn(f"hotreload: {self.trouble}")
        return self._extract(AT_START) if self._stamp is None else self._settings

    def _files(self, path: str) -> list[str]:
        """Return *path* and what its [include] matches now."""
        here = os.path.dirname(os.path.abspath(path))
        matches = (sorted(glob.glob(os.path.join(here, pattern))) for pattern in self._patterns)
        return [path, *itertools.chain.from_iterable(matches)]

    def _parse(self, parser: Any, path: str) -> None:
        """Read *path* and what it includes (options.ServerOptions.read_config)."""
        here = os.path.dirname(os.path.abspath(path))
        self._must_be_readable(path)
        parser.read(path)
        parser.expansions = self._options.environ_expansions
        parser.expand_here(here)
        self._patterns = []
        if parser.has_section("include") and parser.has_option("include", "files"):
            expansions = dict(self._options.environ_expansions, here=here)
            expansions["host_node_name"] = os.uname().nodename
            patterns = expand(parser.get("include", "files"), expansions, "include.files")
            self._patterns = patterns.split()
        for pattern in self._patterns:
            self._must_be_readable(os.path.dirname(os.path.join(here, pattern)))
        for name in self._files(path)[1:]:
            self._must_be_readable(name)
            parser.read(name)
            parser.expand_here(os.path.abspath(os.path.dirname(name)))

    def _must_be_readable(self, path: str) -> None:
        """Refuse what a parser would take for empty.

        :raises PermissionError: with a sentence for the operator.
        """
        if os.path.exists(path) and not os.access(path, os.R_OK):
            user = self._options.user or os.geteuid()
            raise PermissionError(f"{path} cannot be read by user {user} of supervisord")

    def _extract(self, parser: Any) -> Settings:
        sections: dict[str, dict[str, str]] = {}
        for section in parser.sections():
            if section.startswith(PREFIX) or section == self._section:
                names = section[len(PREFIX) :].split(":")
                expansions = {"host_node_name": os.uname().nodename}
                expansions.update(group_name=names[0], program_name=names[-1])
                sections[section] = {
                    key: parser.saneget(section, key, expansions=expansions)
                    for key in parser.options(section)
                    if key != "supervisor.rpcinterface_factory"
                }
        defaults = sections.pop(self._section, self._defaults)
        return Settings(defaults, {name[len(PREFIX) :]: keys for name, keys in sections.items()})


def _stamp(files: Any) -> Stamp:
    """Return what changes when one of *files* is edited."""
    stamp = []
    for name in files:
        try:
            seen = os.stat(name)
        except OSError:
            stamp.append((name, 0, 0, 0))
        else:
            stamp.append((name, seen.st_ino, seen.st_size, seen.st_mtime_ns + seen.st_ctime_ns))
    return tuple(stamp)
