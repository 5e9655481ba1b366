"""Reads the command line of hotreload-run, and those of rainbow-saddle and hupwatch."""

from __future__ import annotations

import getopt
import os
import shlex
import signal
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Optional

from supervisor_hotreload.core.model import Policy
from supervisor_hotreload.core.text import printable
from supervisor_hotreload.servers import family_by_command
from supervisor_hotreload.servers.base import AnyFamily
from supervisor_hotreload.servers.program import Program
from supervisor_hotreload.servers.settings import read
from supervisor_hotreload.system.credentials import ids_of

USAGE = "usage: hotreload-run [options] [--] COMMAND [ARGUMENT...]"

HELP = f"""\
{USAGE}

Runs COMMAND under a pid that never changes. HUP replaces the server by a new
generation of itself without dropping a request; a release that cannot start
changes nothing. Every other signal reaches the server, whose exit status is
that of hotreload-run. USR2 upgrades hotreload-run itself, in place.

  --chdir DIRECTORY       enter DIRECTORY again for every generation: a symlink may
                          have moved to another release
  --pid FILE              write the pid of hotreload-run to FILE
  --gunicorn-pidfile FILE gunicorn writes its own pid to FILE
  --ready RULE            'heartbeat' (what the server itself proves; default)
                          or 'settle:SECONDS'
  --ready-timeout SECONDS roll back when the new generation is not ready (60)
  --check COMMAND         roll back when COMMAND fails, once it is ready
  --check-timeout SECONDS ... or takes longer (30)
  --bake SECONDS          roll back when it does not stay ready that long (0)
  --drain-timeout SECONDS then end the old generation at once
                          (gunicorn: its own graceful_timeout; else 300)
  --stop-signal NAME      ends gracefully a server that is ended by another
                          signal than TERM
  --listen ADDRESS        open HOST:PORT or unix:PATH and pass it on as
                          descriptor 3 and up (LISTEN_FDS); may be repeated
  --notify                report to systemd (Type=notify)
  --status-file FILE      keep FILE up to date with the state, as JSON
  -w, --warmup-time SECONDS
                          seconds that both generations run side by side (1;
                          not needed where a server proves that it is ready)
  -k, --kill-at-exit      on TERM, INT, QUIT end the server too (default)
  --no-kill-at-exit       on TERM, INT, QUIT leave the server serving
  -v, --verbose           report the progress within a phase
  --version, -h, --help
"""

SHORT = "vw:kh"

PATHS = ("chdir", "pid", "status_file")
"""Options whose value is a path and nothing else."""

KEYS = ("ready", "ready_timeout", "check", "check_timeout", "bake", "drain_timeout")
"""Options that mean what the key of the same name means to the plugin."""

VALUED = (*PATHS, *KEYS, "gunicorn_pidfile", "listen", "stop_signal", "warmup_time")

SWITCHES = ("kill-at-exit", "no-kill-at-exit", "notify", "verbose", "version", "help")

HUPWATCH = "hupwatch"
"""The name under which it leaves the server serving unless --kill-at-exit."""

WARMUP_SECONDS = 1.0
"""hupwatch's default: by then a server that cannot start has ended."""

PIDFILE_OPTIONS = ("-p", "--pid", "--pidfile")
"""Options by which servers are given the path of their pidfile."""


class Usage(Exception):
    """The command line cannot be used, or asks for help.

    :param text: for the operator.
    :param status: the exit status.
    """

    def __init__(self, text: str, status: int = 2) -> None:
        super().__init__(text)
        self.status = status


class UsageError(Usage):
    """The command line cannot be used. The usage line comes before *text*."""

    def __init__(self, text: str) -> None:
        super().__init__(f"{USAGE}\nhotreload-run: {text}")


@dataclass(frozen=True)
class RunOptions:
    """The command line of one hotreload-run.

    :param command: the server's.
    :param directory: the working directory of the server, with its symlinks as they are written.
    :param warmup: seconds that both generations of a server run side by side
        when it does not prove by itself that it is ready.
    :param leave: leave the server serving at exit.
    """

    command: tuple[str, ...]
    directory: str = "/"
    policy: Policy = field(default_factory=Policy)
    pid: Optional[str] = None
    status_file: Optional[str] = None
    listen: tuple[str, ...] = ()
    notify: bool = False
    stop_signal: str = "TERM"
    warmup: float = WARMUP_SECONDS
    leave: bool = False
    verbose: bool = False

    @property
    def line(self) -> str:
        return shlex.join(self.command)

    @property
    def name(self) -> str:
        """Return what the lines on stderr call the server."""
        return printable(os.path.basename(self.command[0]))

    @property
    def program(self) -> Program:
        """Return the command as the families of servers know it."""
        rights, pidfile = ids_of(os.getpid()), self.policy.pidfile
        return Program(
            self.name, self.line, self.directory, os.environ, rights=rights, pidfile=pidfile
        )

    @property
    def pidfile(self) -> Optional[str]:
        """Return the path to which the command lets the server write its pid, if it does."""
        for word, following in zip(self.command, [*self.command[1:], ""]):
            option, equals, value = word.partition("=")
            if option in PIDFILE_OPTIONS:
                return os.path.join(self.directory, value if equals else following)
        return None


def makes_successors(family: AnyFamily) -> bool:
    """Tell whether servers of *family* start their own successor, unless they are configured
    otherwise; any other server is reloaded by a second copy."""
    first = next(iter(family.strategies.values()))
    return not first.in_place and not family.only_if_asked_for


def _written_directory() -> str:
    """Return the working directory as a shell wrote it, with its symlinks; the root where it
    is gone."""
    written = os.environ.get("PWD", "")
    with suppress(OSError):
        if os.path.isabs(written) and os.path.samefile(written, "."):
            return written
    with suppress(OSError):
        return os.getcwd()
    return "/"


def parse(program: str, arguments: list[str]) -> RunOptions:
    """Return the options of a command line.

    :param program: the name under which hotreload-run was called.
    :raises Usage: when the command line cannot be used, or asks for help.
    """
    try:
        valued = [f"{key.replace('_', '-')}=" for key in VALUED]
        pairs, command = getopt.getopt(arguments, SHORT, [*valued, *SWITCHES])
    except getopt.GetoptError as error:
        raise UsageError(f"{error.msg} (see hotreload-run --help)") from None
    found: dict[str, Any] = {"listen": (), "leave": os.path.basename(program) == HUPWATCH}
    policy: dict[str, Any] = {}
    for option, value in pairs:
        try:
            _take(option, value, found, policy)
        except (ValueError, OSError) as error:
            raise UsageError(f"{option} {value}: {error}") from None
    if found.pop("version", False):  # said last: an upgrade asks whether all options are known
        from supervisor_hotreload import __version__

        raise Usage(f"hotreload-run {__version__}", 0)
    if not command:
        raise UsageError("no command (see hotreload-run --help)")
    return _complete(tuple(command), found, policy)


def _take(option: str, value: str, found: dict[str, Any], policy: dict[str, Any]) -> None:
    """Put one option into *found* or *policy*."""
    key = option.lstrip("-").replace("-", "_")
    if key in KEYS:
        policy[key] = read(key, value)
        if key == "ready" and policy[key].kind == "notify":
            raise ValueError("only the plugin of supervisord receives what servers notify")
    elif option in ("-h", "--help"):
        raise Usage(HELP, 0)
    elif option in ("-w", "--warmup-time"):
        found["warmup"] = read("bake", value)
    elif key == "stop_signal":
        found[key] = value.upper().removeprefix("SIG")
        if f"SIG{found[key]}" not in signal.Signals.__members__:
            raise ValueError("not a signal")
    elif option in ("-k", "--kill-at-exit", "--no-kill-at-exit"):
        found["leave"] = option == "--no-kill-at-exit"
    elif key == "listen":
        found[key] += (value,)
    elif key == "gunicorn_pidfile":
        policy["pidfile"] = os.path.abspath(read("check", value))
    elif key in PATHS:
        found[key] = os.path.abspath(read("check", value))
    else:
        found["verbose" if option == "-v" else key] = True


def _complete(command: tuple[str, ...], found: dict[str, Any], given: dict[str, Any]) -> RunOptions:
    """Add what follows from the family that the command names.

    :raises UsageError: when a server of that family cannot be run so.
    """
    directory = found.pop("chdir", None) or _written_directory()
    options = RunOptions(command, directory, **found)
    policy = replace(Policy(), **given)
    family = family_by_command(options.program)
    if family is not None and makes_successors(family):
        why = family.why_not_running(options.program)
        if why:
            raise UsageError(f"the server has to stay in the foreground: {why}")
        if "warmup" in found and "bake" not in given:
            policy = replace(policy, bake=options.warmup)
        if policy.pidfile is None:
            policy = replace(policy, pidfile=family.pidfile(options.program))
        if policy.pidfile is not None and options.listen:
            raise UsageError(
                f"--listen starts a second {family.name} beside the first, which refuses a "
                f"pidfile that the first one has: take the pidfile away from its command"
            )
    if "pidfile" in given:
        command = (*command, "--pid", given["pidfile"])
    return replace(options, command=command, policy=policy)
