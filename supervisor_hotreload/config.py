"""``[hotreload:NAME]`` sections and factory keys become a Policy; every error names
the section, the key and the value."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Optional

from supervisor_hotreload.model import Policy, Ready

Sections = Mapping[str, Mapping[str, str]]

PREFIX = "hotreload:"

DEFAULTS = "rpcinterface:hotreload"
"""The section whose keys are the defaults for every program."""


class BadSetting(ValueError):
    """A setting cannot be used; the message names section, key and value."""


def _seconds(value: str) -> float:
    number = float(value)
    if not math.isfinite(number) or number < 0:
        raise ValueError("not a number of seconds")
    return number


def _positive(value: str) -> float:
    number = _seconds(value)
    if number == 0:
        raise ValueError("has to be more than 0")
    return number


def _boolean(value: str) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True}
    words.update({"false": False, "no": False, "off": False, "0": False})
    if value.lower() not in words:
        raise ValueError("neither true nor false")
    return words[value.lower()]


def _path(value: str) -> str:
    if not os.path.isabs(value):
        raise ValueError("not an absolute path")
    return value


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("empty")
    return value.strip()


def _ready(value: str) -> Ready:
    if value == "heartbeat":
        return Ready()
    kind, _, seconds = value.partition(":")
    if kind == "settle" and seconds:
        return Ready("settle", _positive(seconds))
    raise ValueError("neither 'heartbeat' nor 'settle:SECONDS'")


KEYS: dict[str, Callable[[str], Any]] = {
    "pidfile": _path,
    "ready": _ready,
    "spawn_timeout": _positive,
    "ready_timeout": _positive,
    "bake": _seconds,
    "check": _text,
    "check_timeout": _positive,
    "drain_timeout": _positive,
    "promote_timeout": _positive,
    "relay_sighup": _boolean,
    "adopt_orphans": _boolean,
}
"""What each key takes. A key is a field of Policy."""

SINGULAR = frozenset({"pidfile"})
"""Keys that cannot be a default for every program."""

GLOBAL = frozenset({"programs"})
"""Keys of the plugin itself, which no program has."""


@dataclass(frozen=True)
class Settings:
    """Every setting of one supervisord, as its configuration is now.

    :param defaults: keys of [rpcinterface:hotreload].
    :param sections: keys of each [hotreload:NAME], by NAME.
    """

    defaults: Mapping[str, str] = field(default_factory=dict)
    sections: Sections = field(default_factory=dict)

    def errors(self) -> list[str]:
        """Return one line for every setting that cannot be used."""
        lines: list[str] = []
        for section, keys in self._all():
            for key, value in keys.items():
                try:
                    _parse(section, key, value)
                except BadSetting as error:
                    lines.append(str(error))
        return lines

    def policy(self, group: str, process: str) -> Policy:
        """Return the settings of one program.

        Defaults give way to [hotreload:GROUP], that to [hotreload:PROCESS],
        and that to [hotreload:GROUP:PROCESS].

        :raises BadSetting: for the first setting that cannot be used.
        """
        found: dict[str, Any] = {}
        for section, keys in self._of(group, process):
            for key, value in keys.items():
                if key not in GLOBAL:
                    found[key] = _parse(section, key, value)
        return replace(Policy(), **found)

    def programs(self) -> Optional[list[str]]:
        """Return the names that ``all`` is limited to, None for no limit."""
        value = self.defaults.get("programs")
        return None if value is None else value.replace(",", " ").split()

    def _all(self) -> list[tuple[str, Mapping[str, str]]]:
        named = [(PREFIX + name, keys) for name, keys in self.sections.items()]
        return [(DEFAULTS, self.defaults), *named]

    def _of(self, group: str, process: str) -> list[tuple[str, Mapping[str, str]]]:
        names = dict.fromkeys((group, process, f"{group}:{process}"))
        named = [(PREFIX + name, self.sections[name]) for name in names if name in self.sections]
        return [(DEFAULTS, self.defaults), *named]


def read(key: str, value: str) -> Any:
    """Return what *value* means for *key*, one of KEYS.

    :raises ValueError: with what is wrong with the value.
    """
    try:
        return KEYS[key](value.strip())
    except ValueError as error:
        why = str(error)
        raise ValueError("not a number" if why.startswith("could not convert") else why) from None


def _parse(section: str, key: str, value: str) -> Any:
    if section == DEFAULTS and key in GLOBAL:
        return value
    if key not in KEYS or (section == DEFAULTS and key in SINGULAR):
        known = ", ".join(sorted(KEYS))
        raise BadSetting(f"[{section}] {key} = {value}: unknown key (there are: {known})")
    try:
        return read(key, value)
    except ValueError as error:
        raise BadSetting(f"[{section}] {key} = {value}: {error}") from None
