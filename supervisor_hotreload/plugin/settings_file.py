"""Reads the ``[hotreload:NAME]`` sections as supervisord reads its own sections."""

from __future__ import annotations

import configparser
import difflib
import glob
import itertools
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from supervisor.options import ServerOptions, UnhosedConfigParser, expand

from supervisor_hotreload.core.model import Failure, Fault, Policy
from supervisor_hotreload.plugin.log import Log
from supervisor_hotreload.plugin.process_view import ProcessView
from supervisor_hotreload.servers.settings import DEFAULTS, PREFIX, BadSetting, Settings

Groups = Mapping[str, Sequence[ProcessView]]
"""The programs of each group."""

Stamp = tuple[tuple[str, int, int, int], ...]


def _sections_being_parsed() -> Optional[Any]:
    """Return hotreload's sections of the file that supervisord parses at this moment.

    supervisord imports this module while it parses its file as root, and then becomes the
    user that it is configured to be, who may not be able to read that file. It remembers
    nothing of these sections (ServerOptions.read_config), so they are copied from the
    parser of the call that imports this module.
    """
    frame = sys._getframe()
    while frame.f_code is not ServerOptions.get_plugins.__code__:
        if frame.f_back is None:
            return None
        frame = frame.f_back
    known, options = frame.f_locals.get("parser"), frame.f_locals.get("self")
    if not isinstance(known, UnhosedConfigParser) or not isinstance(options, ServerOptions):
        return None
    names = [name for name in known.sections() if name.startswith(PREFIX) or name == DEFAULTS]
    parser = UnhosedConfigParser()
    parser.read_dict({name: dict(known.items(name)) for name in names})
    parser.expansions = known.expansions
    parser.expand_here(options.here)
    return parser


AT_START = _sections_being_parsed()
"""The sections as supervisord has parsed them; None where another module imports this one."""


class SettingsFile:
    """The settings in supervisord's configuration file, read again when it changes.

    :param options: supervisord's ServerOptions, with the file and its expansions.
    :param defaults: the factory's keys, which hold where there is no file.
    """

    def __init__(self, options: Any, defaults: dict[str, str]) -> None:
        self._options = options
        self._defaults = defaults
        self._stamp: Optional[Stamp] = None
        self._settings = Settings(defaults, {})
        self._patterns: list[str] = []
        self.trouble = ""
        """Why an edit of the file has no effect, '' where it has."""

    def read(self) -> Settings:
        """Return the settings as they are now.

        Where supervisord has read its files as root and can no longer read them as another
        user, they are the settings of its start.

        :raises Failure: BAD_SETTING when a file cannot be parsed, or was never read.
        """
        path = self._options.configfile
        if path and (self._stamp is None or _stamp(self._files(path)) != self._stamp):
            self.trouble = ""
            try:
                self._settings = self._read(path)
            except ValueError as error:
                raise Failure(Fault.BAD_SETTING, str(error)) from None
            self._stamp = _stamp(self._files(path))
        return self._settings

    def policy(self, program: ProcessView) -> Policy:
        """Return the settings of one program as they are now.

        :raises Failure: BAD_SETTING with the section, the key and the value.
        """
        try:
            return self.read().policy(program.group, str(program.process.config.name))
        except BadSetting as error:
            raise Failure(Fault.BAD_SETTING, str(error)) from None

    def use_subreaper(self) -> bool:
        """Tell whether supervisord may become a subreaper. A bad setting does not forbid it."""
        try:
            return self.read().subreaper()
        except (Failure, BadSetting):
            return True

    # -- what has no effect

    def warnings(self, groups: Groups) -> list[str]:
        """Return what is wrong with the settings, one line each."""
        bad = self.bad()
        return [*filter(None, [self.trouble]), *bad, *self.unmatched(groups)]

    def bad(self) -> list[str]:
        """Return a line for each setting that cannot be used."""
        try:
            return [f"bad setting: {line}" for line in self.read().errors()]
        except Failure as failure:
            return [failure.reason]

    def unmatched(self, groups: Groups) -> list[str]:
        """Return a line for each section that no program has the name of."""
        known = ", ".join(groups) or "none"
        return [
            f"[{PREFIX}{name}] has no effect: no program has this name (there are: {known})"
            for name in self._unmatched(groups)
        ]

    def near_misses(self, groups: Groups, program: ProcessView) -> list[str]:
        """Return those of these lines whose section may be meant for *program*."""
        names = {program.name, program.group, str(program.process.config.name)}
        pairs = zip(self._unmatched(groups), self.unmatched(groups))
        return [line for name, line in pairs if difflib.get_close_matches(name, names)]

    def _unmatched(self, groups: Groups) -> list[str]:
        """Return the sections that are named like no group, process or group:process."""
        known: set[str] = set()
        for group, members in groups.items():
            processes = [str(member.process.config.name) for member in members]
            known |= {group, *processes, *(f"{group}:{name}" for name in processes)}
        try:
            return [name for name in self.read().sections if name not in known]
        except Failure:
            return []

    # -- the file

    def _read(self, path: str) -> Settings:
        parser = UnhosedConfigParser()
        try:
            self._parse(parser, path)
        except PermissionError as error:
            return self._last_known(str(error))
        except (configparser.Error, UnicodeDecodeError) as error:
            why = " ".join(str(error).split())
            raise ValueError(f"{path} or a file it includes cannot be parsed: {why}") from None
        if not parser.has_section("supervisord"):
            raise ValueError(f"{path} has no section [supervisord]")
        return self._extract(parser)

    def _last_known(self, trouble: str) -> Settings:
        """Return the settings that were read last.

        :raises ValueError: when none were.
        """
        if self._stamp is None and AT_START is None:
            raise ValueError(f"{trouble}; let that user read it")
        self.trouble = (
            f"{trouble}: the settings of supervisord's start hold, and an edit has no effect "
            f"until supervisord is started again; let that user read it"
        )
        Log(self._options.logger).warn(f"hotreload: {self.trouble}")
        return self._extract(AT_START) if self._stamp is None else self._settings

    def _files(self, path: str) -> list[str]:
        """Return *path* and the files that its [include] matches now."""
        here = os.path.dirname(os.path.abspath(path))
        matches = (sorted(glob.glob(os.path.join(here, pattern))) for pattern in self._patterns)
        return [path, *itertools.chain.from_iterable(matches)]

    def _parse(self, parser: Any, path: str) -> None:
        """Read *path* and the files that it includes (options.ServerOptions.read_config).

        :raises PermissionError: when one of them cannot be read.
        """
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
        """Refuse a path that the parser would take for an empty one.

        :raises PermissionError: with a sentence for the operator.
        """
        if os.path.exists(path) and not os.access(path, os.R_OK):
            user = self._options.user or os.geteuid()
            raise PermissionError(f"{path} cannot be read by user {user} of supervisord")

    def _extract(self, parser: Any) -> Settings:
        """Return the settings in the sections of *parser*, with their expansions."""
        sections: dict[str, dict[str, str]] = {}
        for section in parser.sections():
            if section.startswith(PREFIX) or section == DEFAULTS:
                names = section[len(PREFIX) :].split(":")
                expansions = {"host_node_name": os.uname().nodename}
                expansions.update(group_name=names[0], program_name=names[-1])
                sections[section] = {
                    key: parser.saneget(section, key, expansions=expansions)
                    for key in parser.options(section)
                    if key != "supervisor.rpcinterface_factory"
                }
        defaults = sections.pop(DEFAULTS, self._defaults)
        return Settings(defaults, {name[len(PREFIX) :]: keys for name, keys in sections.items()})


def _stamp(files: Any) -> Stamp:
    """Return a value that changes when one of *files* is edited."""
    stamp = []
    for name in files:
        try:
            seen = os.stat(name)
        except OSError:
            stamp.append((name, 0, 0, 0))
        else:
            stamp.append((name, seen.st_ino, seen.st_size, seen.st_mtime_ns + seen.st_ctime_ns))
    return tuple(stamp)
