"""Reads the options of ``supervisorctl hotreload``: one table for usage, help and parsing."""

from __future__ import annotations

import getopt
import shlex
import textwrap
from dataclasses import dataclass, field
from typing import NamedTuple, Union

BAKE_LIMIT_SECONDS = 86400
"""reloadProcess takes less than a day."""

SCREEN_COLUMNS = 80
"""Width of the smallest terminal that the help is laid out for."""


class Option(NamedTuple):
    """One option. Usage, help, completion and parsing all follow from OPTIONS.

    :param flags: its spellings, the long one last.
    :param text: what it does, for the help screen.
    :param value: what stands for its value in the usage; empty if it takes none.
    :param actions: the actions that it goes with. An option with the name of an action
        chooses that action.
    """

    flags: tuple[str, ...]
    text: str
    value: str = ""
    actions: tuple[str, ...] = ("reload",)

    @property
    def name(self) -> str:
        return self.flags[-1][2:]


OPTIONS = (
    Option(
        ("--bake",),
        "Let both generations serve for so long; roll back if a new worker dies",
        "<secs>",
    ),
    Option(("--strategy",), "Reload in another way: graceful, chain, upgrade, ...", "<name>"),
    Option(("--brutal",), "Short for --strategy brutal: uWSGI waits for no request"),
    Option(
        ("-v", "--verbose"),
        "Print all output of a failed reload, not its last lines",
        actions=("reload", "status"),
    ),
    Option(("--cancel",), "Roll back an active reload, until adoption", actions=("cancel",)),
    Option(("--status",), "Show the active or last reload, and bad settings", actions=("status",)),
    Option(("-h", "--help"), "Print this help", actions=("help",)),
)

FLAGS = {flag: option for option in OPTIONS for flag in option.flags}

NAMES = {"reload": "<name>...", "cancel": "<name>...", "status": "[<name>...]", "help": ""}
"""The actions, and the names that each takes."""

FORMS = {
    "<name>...": "Replace a program by a new generation of itself, without dropping a "
    "request. A release that cannot start changes nothing",
    "<gname>:*": "Reload all processes in a group, one after the other",
    "all": "Reload every program that can be reloaded",
}

ENDING = """
Exit status 0: every named program serves its new generation. 2: the command
line is wrong. 7: a program, or supervisord, does not run. 1: anything else; the
last lines say why, and what serves. Ctrl-C ends the command only: the reload
goes on."""

RpcOptions = dict[str, Union[str, float]]
"""What reloadProcess takes in the place of the settings."""


class BadUsage(Exception):
    """The command line is wrong.

    :param action: the one whose usage helps.
    """

    def __init__(self, text: str, action: str = "reload") -> None:
        super().__init__(text)
        self.action = action


@dataclass(frozen=True)
class Request:
    """A command line that makes sense."""

    action: str
    names: tuple[str, ...]
    options: RpcOptions = field(default_factory=dict)
    verbose: bool = False


def parse(arg: str) -> Request:
    """Return what the words behind ``hotreload`` ask for.

    :raises BadUsage: with what is wrong.
    """
    short = "".join(flag[1] for flag in FLAGS if not flag.startswith("--"))
    long = [f"{option.name}=" if option.value else option.name for option in OPTIONS]
    try:
        given, names = getopt.gnu_getopt(shlex.split(arg), short, long)
    except (ValueError, getopt.GetoptError) as error:
        raise BadUsage(str(error)) from None
    action = action_of([FLAGS[flag] for flag, _ in given])
    settings: RpcOptions = {}
    for flag, value in given:
        key, chosen = ("strategy", "brutal") if flag == "--brutal" else (FLAGS[flag].name, value)
        if settings.setdefault(key, chosen) != chosen:
            raise BadUsage(f"a reload has one {key}: {settings[key]} and {chosen} clash")
    if "all" in names:
        names = ["all"]
    if action == "status" and not names:
        names = ["all"]
    options: RpcOptions = {key: settings[key] for key in ("bake", "strategy") if key in settings}
    if "bake" in options:
        options["bake"] = _seconds(str(options["bake"]))
    if not names and action != "help":
        raise BadUsage("hotreload requires a process name", action)
    return Request(action, tuple(dict.fromkeys(names)), options, "verbose" in settings)


def action_of(options: list[Option]) -> str:
    """Return the action that *options* choose.

    :raises BadUsage: when two of them clash.
    """
    chosen = dict.fromkeys(option.name for option in options if option.name in NAMES)
    if len(chosen) > 1:
        raise BadUsage(f"{' and '.join(f'--{name}' for name in chosen)} clash: choose one")
    action = next(iter(chosen), "reload")
    for option in options:
        if action not in option.actions:
            raise BadUsage(f"{option.flags[-1]} and --{action} clash: choose one", action)
    return action


def _seconds(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1
    if not 0 <= number < BAKE_LIMIT_SECONDS:
        limits = f"between 0 and {BAKE_LIMIT_SECONDS}"
        raise BadUsage(f"--bake: {value!r} is not a number of seconds {limits}")
    return number


def usage(action: str) -> str:
    """Return the usage line of *action*."""
    words = [] if action == "reload" else [f"--{action}"]
    words.append(NAMES[action])
    for option in OPTIONS:
        if action in option.actions and option.name != action:
            value = f" {option.value}" if option.value else ""
            words.append(f"[{option.flags[0]}{value}]")
    return f"usage: hotreload {' '.join(words)}"


def help_text() -> str:
    """Return the help of the command. It fits a screen of 24 lines."""
    forms = {f"hotreload {names}": text for names, text in FORMS.items()}
    options = {}
    for option in OPTIONS:
        if option.name not in NAMES:
            options[f"{', '.join(option.flags)} {option.value}"] = option.text
        elif option.name != "help":
            forms[f"hotreload --{option.name} {NAMES[option.name]}"] = option.text
    return "\n".join([*_columns(forms), "", *_columns(options), ENDING])


def _columns(rows: dict[str, str]) -> list[str]:
    wide = max(map(len, rows)) + 1
    lines = []
    for left, text in rows.items():
        first, *rest = textwrap.wrap(text, SCREEN_COLUMNS - wide - 1)
        lines += [left.ljust(wide) + first, *(" " * wide + line for line in rest)]
    return lines
