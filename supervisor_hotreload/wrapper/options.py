"""The command line of hotreload-run, which takes those of rainbow-saddle and hupwatch too."""

from __future__ import annotations

import getopt
import os
import shlex
import signal
from dataclasses import dataclass, field, replace
from typing import Any, Optional

from supervisor_hotreload.core.model import Policy
from supervisor_hotreload.servers.gunicorn import command as gunicorn_command
from supervisor_hotreload.servers.settings import read

USAGE = """\
usage: hotreload-run [options] [--] COMMAND [ARGUMENT...]

Runs COMMAND under a pid that never changes. HUP replaces the server by a new
generation of itself without dropping a request; a release that cannot start
changes nothing. Every other signal reaches the server, whose exit status is
that of hotreload-run. USR2 upgrades hotreload-run itself, in place.

  --chdir DIRECTORY       enter DIRECTORY anew for every generation: a symlink may
                          have moved to another release
  --pid FILE              write the pid of hotreload-run to FILE
  --gunicorn-pidfile FILE gunicorn writes its own pid to FILE
  --ready RULE            'heartbeat' (as proven by the server itself; default)
                          or 'settle:SECONDS'
  --ready-timeout SECONDS roll back when the new generation is not ready (60)
  --check COMMAND         roll back when COMMAND fails, once it is ready
  --check-timeout SECONDS ... or takes longer (30)
  --bake SECONDS          roll back when it does not stay ready that long (0)
  --drain-timeout SECONDS end the old generation the hard way after that
                          (gunicorn: its own graceful_timeout; else 300)
  --stop-signal NAME      ends a server gracefully that is not gunicorn (TERM)
  --listen ADDRESS        open HOST:PORT or unix:PATH and pass it on as
                          descriptor 3 and up (LISTEN_FDS); may be repeated
  --notify                tell systemd (Type=notify)
  --status-file FILE      keep the state in FILE, as JSON
  -w, --warmup-time SECONDS
                          seconds that both generations run side by side (1;
                          gunicorn tells by itself when it is ready)
  -k, --kill-at-exit      on TERM, INT, QUIT take the server along (default)
  --no-kill-at-exit       on TERM, INT, QUIT leave the server serving
  -v, --verbose           tell the progress within a phase
  --version, -h, --help
"""

SHORT = "vw:kh"
LONG = [
    "chdir=",
    "pid=",
    "gunicorn-pidfile=",
    "ready=",
    "ready-timeout=",
    "check=",
    "check-timeout=",
    "bake=",
    "drain-timeout=",
    "stop-signal=",
    "listen=",
    "notify",
    "status-file=",
    "warmup-time=",
    "kill-at-exit",
    "no-kill-at-exit",
    "verbose",
    "version",
    "help",
]

KEYS = ("ready", "ready_timeout", "check", "check_timeout", "bake", "drain_timeout")
"""Options that mean what the key of the same name means to the plugin."""

LEAVERS = frozenset({"hupwatch"})
"""Names under which it leaves the server serving unless --kill-at-exit."""

WARMUP = 1.0
"""hupwatch's default: by then a server that cannot start has ended."""


class Usage(Exception):
    """The command line cannot be used, or asks for help.

    :param status: the exit status.
    """

    def __init__(self, text: str, status: int = 2) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Options:
    """What the command line says.

    :param command: the server's.
    :param warmup: seconds that both generations of a server run side by side
        when it does not tell by itself that it is ready.
    :param leave: leave the server serving at exit.
    """

    command: tuple[str, ...]
    policy: Policy = field(default_factory=Policy)
    chdir: Optional[str] = None
    pid: Optional[str] = None
    status_file: Optional[str] = None
    listen: tuple[str, ...] = ()
    notify: bool = False
    stop_signal: str = "TERM"
    warmup: float = WARMUP
    leave: bool = False
    verbose: bool = False

    @property
    def line(self) -> str:
        return shlex.join(self.command)

    @property
    def name(self) -> str:
        """Return what the lines on stderr call the server."""
        name = os.path.basename(self.command[0])
        return "".join(c if c.isprintable() else "?" for c in name)

    @property
    def looks_like_gunicorn(self) -> bool:
        return gunicorn_command.looks_like_gunicorn(self.command)


def parse(program: str, arguments: list[str]) -> Options:
    """Return what the command line says.

    :param program: the name under which it was called.
    :raises Usage: with what to tell the operator.
    """
    try:
        pairs, command = getopt.getopt(arguments, SHORT, LONG)
    except getopt.GetoptError as error:
        raise Usage(f"hotreload-run: {error.msg} (see hotreload-run --help)") from None
    found: dict[str, Any] = {"listen": (), "leave": os.path.basename(program) in LEAVERS}
    policy: dict[str, Any] = {}
    for option, value in pairs:
        try:
            _take(option, value, found, policy)
        except (ValueError, OSError) as error:
            raise Usage(f"hotreload-run: {option} {value}: {error}") from None
    if found.pop("version", False):  # said last: an upgrade asks whether all options are known
        from supervisor_hotreload import __version__

        raise Usage(f"hotreload-run {__version__}", 0)
    if not command:
        raise Usage("hotreload-run: no command (see hotreload-run --help)")
    return _complete(tuple(command), found, policy)


def _take(option: str, value: str, found: dict[str, Any], policy: dict[str, Any]) -> None:
    """Put one option into *found* or *policy*."""
    key = option.lstrip("-").replace("-", "_")
    if key in KEYS:
        policy[key] = read(key, value)
        if key == "ready" and policy[key].kind == "notify":
            raise ValueError("only a supervisord with hotreload hears it")
    elif option in ("-h", "--help"):
        raise Usage(USAGE, 0)
    elif key == "version":
        found[key] = True
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
    elif option in ("-v", "--verbose", "--notify"):
        found["notify" if key == "notify" else "verbose"] = True
    else:
        found[key] = os.path.abspath(read("check", value))


def _complete(command: tuple[str, ...], found: dict[str, Any], given: dict[str, Any]) -> Options:
    options = Options(command, **found)
    policy = replace(Policy(), **given)
    if options.looks_like_gunicorn:
        if {"-D", "--daemon"} & set(command):
            raise Usage("hotreload-run: gunicorn has to stay in the foreground: drop --daemon")
        if "warmup" in found and "bake" not in given:
            policy = replace(policy, bake=options.warmup)
        told = gunicorn_command.options(options.line)
        if told.get("pid") and policy.pidfile is None:
            folders = (options.chdir or "", told.get("chdir", ""))
            policy = replace(policy, pidfile=os.path.abspath(os.path.join(*folders, told["pid"])))
        if policy.pidfile is not None and options.listen:
            raise Usage(
                "hotreload-run: gunicorn refuses a second master on one pidfile, which --listen "
                "needs: drop its --pid"
            )
    if "pidfile" in given:
        command = (*command, "--pid", given["pidfile"])
    return replace(options, command=command, policy=policy)
