"""Reads the ``[hotreload:NAME]`` sections as supervisord reads its own file."""

from __future__ import annotations

import glob
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

    def read(self) -> Settings:
        """Return the settings as they are now.

        :raises ValueError: when the file cannot be read or parsed.
        """
        path = self._options.configfile
        if not path:
            return self._settings
        if self._stamp is None or _stamp(name for name, *_ in self._stamp) != self._stamp:
            parser = UnhosedConfigParser()
            files = self._parse(parser, path)
            self._settings = self._extract(parser)
            self._stamp = _stamp(files)
        return self._settings

    def _parse(self, parser: Any, path: str) -> list[str]:
        """Read *path* and what it includes (options.ServerOptions.read_config)."""
        here = os.path.dirname(os.path.abspath(path))
        if not parser.read(path):
            raise ValueError(f"could not read {path}")
        parser.expansions = self._options.environ_expansions
        files = [path]
        parser.expand_here(here)
        if parser.has_section("include") and parser.has_option("include", "files"):
            expansions = dict(self._options.environ_expansions, here=here)
            expansions["host_node_name"] = os.uname().nodename
            patterns = expand(parser.get("include", "files"), expansions, "include.files")
            for pattern in patterns.split():
                for name in sorted(glob.glob(os.path.join(here, pattern))):
                    parser.read(name)
                    parser.expand_here(os.path.abspath(os.path.dirname(name)))
                    files.append(name)
        return files

    def _extract(self, parser: Any) -> Settings:
        expansions = {"host_node_name": os.uname().nodename}
        sections: dict[str, dict[str, str]] = {}
        for section in parser.sections():
            if section.startswith(PREFIX) or section == self._section:
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
