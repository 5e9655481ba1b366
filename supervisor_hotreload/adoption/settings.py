"""Reads the ``[hotreload:NAME]`` sections as supervisord reads its own file."""

from __future__ import annotations

import configparser
import glob
import itertools
import os
from typing import Any, Optional

from supervisor.options import UnhosedConfigParser, expand

from supervisor_hotreload.config import PREFIX, Settings

Stamp = tuple[tuple[str, int, int, int], ...]


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

    def read(self) -> Settings:
        """Return the settings as they are now.

        A file that supervisord read as root and can read no more, now that it
        is another user, keeps the settings that are known.

        :raises ValueError: when the file cannot be parsed.
        """
        path = self._options.configfile
        if not path or not os.access(path, os.R_OK):
            return self._settings
        if self._stamp is None or _stamp(self._files(path)) != self._stamp:
            parser = UnhosedConfigParser()
            try:
                self._parse(parser, path)
            except (configparser.Error, UnicodeDecodeError) as error:
                why = " ".join(str(error).split())
                raise ValueError(f"{path}, or what it includes, cannot be parsed: {why}") from None
            if not parser.has_section("supervisord"):
                raise ValueError(f"{path} has no section [supervisord]")
            self._settings = self._extract(parser)
            self._stamp = _stamp(self._files(path))
        return self._settings

    def _files(self, path: str) -> list[str]:
        """Return *path* and what its [include] matches now."""
        here = os.path.dirname(os.path.abspath(path))
        matches = (sorted(glob.glob(os.path.join(here, pattern))) for pattern in self._patterns)
        return [path, *itertools.chain.from_iterable(matches)]

    def _parse(self, parser: Any, path: str) -> None:
        """Read *path* and what it includes (options.ServerOptions.read_config)."""
        here = os.path.dirname(os.path.abspath(path))
        parser.read(path)
        parser.expansions = self._options.environ_expansions
        parser.expand_here(here)
        self._patterns = []
        if parser.has_section("include") and parser.has_option("include", "files"):
            expansions = dict(self._options.environ_expansions, here=here)
            expansions["host_node_name"] = os.uname().nodename
            patterns = expand(parser.get("include", "files"), expansions, "include.files")
            self._patterns = patterns.split()
        for name in self._files(path)[1:]:
            parser.read(name)
            parser.expand_here(os.path.abspath(os.path.dirname(name)))

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
            stamp.append((name, seen.st_ino, seen.st_size, seen.st_mtime_ns))
    return tuple(stamp)
