"""Reads ``[hotreload:NAME]`` sections and factory keys into a Policy.

Every error names the section, the key and the value.
"""

from __future__ import annotations

import configparser
import difflib
import ipaddress
import math
import os
import shlex
import signal
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from string import ascii_letters
from typing import Any, Callable, Optional

from supervisor_hotreload.core.model import Condition, Policy, Ready, Triggers
from supervisor_hotreload.servers import AUTO, STRATEGIES

Sections = Mapping[str, Mapping[str, str]]

PREFIX = "hotreload:"

DEFAULTS = "rpcinterface:hotreload"
"""The section whose keys are the defaults for every program."""


class BadSetting(ValueError):
    """A setting cannot be used. The message names its section, key and value."""


BOOLEANS = configparser.ConfigParser.BOOLEAN_STATES


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
    if value.lower() not in BOOLEANS:
        raise ValueError("neither true nor false")
    return BOOLEANS[value.lower()]


def _path(value: str) -> str:
    if not os.path.isabs(value):
        raise ValueError("not an absolute path")
    return value


def _command(value: str) -> str:
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise ValueError(f"cannot be split into words: {error}") from None
    if not words:
        raise ValueError("empty")
    return value


def _one_line(value: str) -> str:
    """Return a command as one line; it is sent as XML."""
    line = shlex.join(shlex.split(_command(value)))
    if not line.isprintable():
        raise ValueError("has characters that cannot be printed")
    return line


def _ready(value: str) -> Ready:
    """Return the Ready of KIND, KIND:VALUE or URL [TEXT]."""
    if value in ("heartbeat", "accepting", "notify"):
        return Ready(value)
    target, _, text = value.partition(" ")
    kind, _, rest = target.partition(":")
    if kind == "settle" and rest and not text:
        return Ready("settle", _positive(rest))
    if kind == "http":
        return _http(target, text.strip())
    if kind == "tcp" and not text:
        host, colon, port = rest.lstrip("/").rpartition(":")
        if not colon:
            raise ValueError("has to be tcp://ADDRESS:PORT")
        return Ready("tcp", target=f"tcp://{_host(host)}:{_port(port)}")
    if kind in ("unix", "file") and not text:
        return Ready(kind, target=f"{kind}:{_path(rest)}")
    raise ValueError(
        "neither 'heartbeat', 'accepting', 'settle:SECONDS', 'http://ADDRESS:PORT/PATH [TEXT]', "
        "'tcp://ADDRESS:PORT', 'unix:PATH', 'file:PATH' nor 'notify'"
    )


def _http(url: str, text: str) -> Ready:
    parts = urllib.parse.urlsplit(url)
    if parts.username is not None or parts.fragment:
        raise ValueError("a user and a fragment are not allowed in the URL")
    host = _host(parts.hostname or "")
    port = _port(str(parts.port or 80))
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not path.isascii() or not path.isprintable():
        raise ValueError("the path has characters that are not printable ASCII")
    return Ready("http", target=f"http://{host}:{port}{path}", text=text)


def _host(value: str) -> str:
    """Return a numerical address. A look-up of a name would block supervisord."""
    if value == "localhost":
        return "127.0.0.1"
    try:
        host = ipaddress.ip_address(value.strip("[]"))
    except ValueError:
        raise ValueError(
            f"{value!r} is neither a numerical address nor localhost (a look-up would block)"
        ) from None
    return f"[{host}]" if host.version == 6 else str(host)


def _port(value: str) -> int:
    if not value.isdigit() or not 0 < int(value) < 65536:
        raise ValueError(f"{value!r} is not a port")
    return int(value)


def _strategy(value: str) -> str:
    if value != AUTO and value not in STRATEGIES:
        raise ValueError(f"none of {', '.join(sorted({AUTO, *STRATEGIES}))}")
    return value


def _signal(value: str) -> str:
    name = value.upper()
    name = name[3:] if name.startswith("SIG") else name
    if f"SIG{name}" not in signal.Signals.__members__ or name in ("KILL", "STOP"):
        raise ValueError("not the name of a signal that can ask for a reload")
    return name


TIMES = {"s": 1, "m": 60, "h": 3600, "d": 86400}

SIZES = {"KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}


def _with_unit(
    units: Mapping[str, float], value: str, parse: Callable[[str], float] = _positive
) -> float:
    """Return the number in *value*, which may end with one of *units*."""
    digits = value.rstrip(ascii_letters)
    if not digits:
        raise ValueError("not a number")
    unit = value[len(digits) :]
    if unit and unit not in units:
        raise ValueError(f"unknown unit {unit} (there are: {', '.join(units)})")
    number = parse(digits.strip())
    return number * units[unit] if unit else number


def _duration(value: str) -> float:
    return _with_unit(TIMES, value.lower())


def _pause(value: str) -> float:
    return _with_unit(TIMES, value.lower(), _seconds)


def _size(value: str) -> float:
    return _with_unit(SIZES, value.upper())


def _list(value: str) -> tuple[str, ...]:
    found = tuple(word.strip() for line in value.splitlines() for word in line.split(","))
    if not any(found):
        raise ValueError("empty")
    return tuple(word for word in found if word)


def _paths(value: str) -> tuple[str, ...]:
    """Return the paths in *value*; they are sent as XML."""
    if not "".join(_list(value)).isprintable():
        raise ValueError("has characters that cannot be printed")
    return tuple(_path(path) for path in _list(value))


def _conditions(value: str) -> tuple[Condition, ...]:
    return tuple(_condition(item) for item in _list(value))


def _condition(value: str) -> Condition:
    """Return the Condition of ``EVENT[:KEY=VALUE ...]``."""
    event, _, rest = value.partition(":")
    tokens = []
    for word in rest.split():
        key, equals, wanted = word.partition("=")
        if not key or not equals:
            raise ValueError(f"{word} is not KEY=VALUE")
        tokens.append((key, wanted))
    return Condition(event.strip().upper(), tuple(tokens))


TRIGGERS: dict[str, Callable[[str], Any]] = {
    "touch": _paths,
    "watch": _paths,
    "settle": _pause,
    "after": _list,
    "on": _conditions,
    "max_memory": _size,
    "every": _duration,
    "min_interval": _duration,
    "allow_requests_from": _list,
    "notify": _one_line,
}
"""The converter of each key of unattended reloads. A key is a field of Triggers."""

KEYS: dict[str, Callable[[str], Any]] = {
    "pidfile": _path,
    "ready": _ready,
    "spawn_timeout": _positive,
    "ready_timeout": _positive,
    "bake": _seconds,
    "check": _command,
    "check_timeout": _positive,
    "check_before": _command,
    "strategy": _strategy,
    "signal": _signal,
    "drain_timeout": _positive,
    "promote_timeout": _positive,
    "relay_sighup": _boolean,
    "adopt_orphans": _boolean,
    **TRIGGERS,
}
"""The converter of each key. A key is a field of Policy, or of Triggers."""

SINGULAR = frozenset({"pidfile", *TRIGGERS}) - {"settle", "min_interval", "notify"}
"""Keys that cannot be a default for every program."""

GLOBAL: dict[str, Callable[[str], Any]] = {
    "programs": str.split,
    "reload_on_sighup": str.split,
    "subreaper": _boolean,
}
"""The converter of each key of the plugin itself, which no program has."""


@dataclass(frozen=True)
class Settings:
    """The settings in the configuration of one supervisord, as it is now.

    :param defaults: keys of [rpcinterface:hotreload].
    :param sections: keys of each [hotreload:NAME], by NAME.
    """

    defaults: Mapping[str, str] = field(default_factory=dict)
    sections: Sections = field(default_factory=dict)

    def errors(self) -> list[str]:
        """Return one line for every setting that cannot be used."""
        lines: list[str] = []
        named = ((PREFIX + name, keys) for name, keys in self.sections.items())
        for section, keys in ((DEFAULTS, self.defaults), *named):
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
                if key not in TRIGGERS and not (section == DEFAULTS and key in GLOBAL):
                    found[key] = _parse(section, key, value)
        policy = replace(Policy(), **found)  # the time to settle does not count as a delay
        return replace(policy, ready_timeout=policy.ready_timeout + policy.ready.seconds)

    def triggers(self, group: str, process: str) -> tuple[Triggers, list[str]]:
        """Return the unattended reloads of one program, and a line for each unusable setting.

        An unusable setting is left out; the others hold.
        """
        found: dict[str, Any] = {}
        errors: list[str] = []
        for section, keys in self._of(group, process):
            for key in keys.keys() & TRIGGERS.keys():
                try:
                    found[key] = _parse(section, key, keys[key])
                except BadSetting as error:
                    errors.append(str(error))
        return replace(Triggers(), **found), errors

    def sighup(self) -> list[str]:
        """Return the names that a HUP to the listener reloads."""
        return self.defaults.get("reload_on_sighup", "").replace(",", " ").split()

    def programs(self) -> Optional[list[str]]:
        """Return the names that ``all`` is limited to, None for no limit."""
        value = self.defaults.get("programs")
        return None if value is None else value.replace(",", " ").split()

    def subreaper(self) -> bool:
        """Tell whether supervisord may become a subreaper."""
        value = self.defaults.get("subreaper", "true")
        return bool(_parse(DEFAULTS, "subreaper", value))

    def _of(self, group: str, process: str) -> list[tuple[str, Mapping[str, str]]]:
        names = dict.fromkeys((group, process, f"{group}:{process}"))
        named = [(PREFIX + name, self.sections[name]) for name in names if name in self.sections]
        return [(DEFAULTS, self.defaults), *named]


def read(key: str, value: str, known: Mapping[str, Callable[[str], Any]] = KEYS) -> Any:
    """Return the converted *value* of *key*, one of *known*.

    :raises ValueError: with the problem of the value.
    """
    try:
        return known[key](value.strip())
    except ValueError as error:
        why = str(error)
        raise ValueError("not a number" if why.startswith("could not convert") else why) from None


def _parse(section: str, key: str, value: str) -> Any:
    known_keys = {**KEYS, **GLOBAL} if section == DEFAULTS else KEYS
    if key not in known_keys or (section == DEFAULTS and key in SINGULAR):
        near = difflib.get_close_matches(key, known_keys, 1)
        known = (
            f"; did you mean {near[0]}"
            if near
            else f" (there are: {', '.join(sorted(known_keys))})"
        )
        raise BadSetting(f"[{section}] {key} = {value}: unknown key{known}")
    try:
        return read(key, value, known_keys)
    except ValueError as error:
        raise BadSetting(f"[{section}] {key} = {value}: {error}") from None
