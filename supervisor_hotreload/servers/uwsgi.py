"""uWSGI: the master keeps its pid and replaces its workers, all at once or one by one.

HUP waits for the workers to finish, then execs the master in place; 'c' on the
master fifo or a touched file replaces one worker after the other, which needs
lazy-apps; TERM is a brutal reload unless die-on-term is set (uWSGI's
documentation: Management, TheArtOfGracefulReloading, MasterFIFO).
"""

from __future__ import annotations

import configparser
import json
import os
import pathlib
import shlex
import stat
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Optional

from supervisor_hotreload.endpoints import Address, Exchange
from supervisor_hotreload.identity import Process, Unreadable
from supervisor_hotreload.model import Failure, Fault, Policy, Progress, Readiness
from supervisor_hotreload.probes import Verdict, counts
from supervisor_hotreload.servers.family import (
    Crew,
    Family,
    Program,
    Renewal,
    Strategy,
    Trial,
    crew,
    user_of,
)
from supervisor_hotreload.world import World

FLAGS = frozenset(
    {
        "master",
        "lazy",
        "lazy-apps",
        "die-on-term",
        "need-app",
        "enable-threads",
        "vacuum",
        "single-interpreter",
        "thunder-lock",
        "no-orphans",
        "memory-report",
        "disable-logging",
        "strict",
        "stats-http",
        "stats-minified",
        "auto-procname",
    }
)
"""Options that take no value, where a word may follow that is not theirs."""

SHORT = {
    "M": "master",
    "i": "single-interpreter",
    "w": "module",
    "H": "home",
    "L": "disable-logging",
    "T": "enable-threads",
}

ALIASES = {
    "wsgi": "module",
    "file": "wsgi-file",
    "virtualenv": "home",
    "venv": "home",
    "pyhome": "home",
    "stats-server": "stats",
    "python-path": "pythonpath",
    "pp": "pythonpath",
    "chdir2": "chdir",
    "lazy": "lazy-apps",
}

ROUTERS = ("http", "https", "http-to-https", "fastrouter", "rawrouter", "sslrouter")
"""Options that start a process which hands requests on to the workers."""

FILES = 8
"""Configuration files that are read, each once: they may include one another."""

SIZE = 1 << 14
"""Bytes of one configuration file that are read."""

STATS = 1 << 22
"""Bytes of one answer of a stats server, at most."""

STATS_PATIENCE = 3.0
"""Seconds until an answer of the stats server is given up."""

STATS_TRUST = 10.0
"""Seconds without an answer after which the kernel's word is taken alone."""

STATS_PAUSE = 0.2
"""Seconds between two questions."""

Options = dict[str, list[str]]


# -- the configuration


def options(program: Program) -> Options:
    """Return what the command, its environment and its ini files set, last value last.

    Values with placeholders other than %d (the file's directory) are left out:
    they cannot be told.
    """
    found: Options = {}
    seen: set[str] = set()
    for name, value in program.environment.items():
        if name.startswith("UWSGI_"):
            _set(found, name[6:].lower().replace("_", "-"), value, program.directory, seen)
    words = program.words[1:]
    while words:
        word = words.pop(0)
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
        elif len(word) > 1 and word[0] == "-":
            name, value = SHORT.get(word[1], word[1]), word[2:]
            equals = value
        else:
            if word.endswith(".ini"):
                _set(found, "ini", word, program.directory, seen)
            continue
        if not equals and name not in FLAGS and words and not words[0].startswith("-"):
            value = words.pop(0)
        _set(found, name, value, program.directory, seen)
    return found


def _set(found: Options, name: str, value: str, directory: str, seen: set[str]) -> None:
    """Add one option; *seen* are the files that have been read."""
    name = ALIASES.get(name, name)
    if name == "ini":
        if value not in seen and len(seen) < FILES:
            seen.add(value)
            _include(found, value, directory, seen)
    elif "%" not in value and "$(" not in value:
        found.setdefault(name, []).append(value)


def _include(found: Options, value: str, directory: str, seen: set[str]) -> None:
    """Add what the ini file *value* sets in its section [uwsgi], or in FILE:SECTION."""
    name, _, section = value.partition(":")
    path = os.path.join(directory, name)
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",), allow_no_value=True)
    here = os.path.dirname(os.path.abspath(path)) + "/"
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), encoding="utf-8") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return
            parser.read_string(_unrepeated(file.read(SIZE)))
        for key, told in parser.items(section or "uwsgi"):
            for one in (told or "").split("\0"):
                _set(found, key.partition("\1")[0], one.replace("%d", here), directory, seen)
    except (OSError, ValueError, configparser.Error):
        return  # uWSGI itself will say what is wrong with it


def _unrepeated(text: str) -> str:
    """Tell keys that come more than once apart: an ini parser keeps only the last."""
    lines = []
    for number, line in enumerate(text.splitlines()):
        key, equals, value = line.strip().partition("=")
        if key[:1] in (";", "#", "["):
            lines.append(line.strip())
        else:
            lines.append(f"{key.strip()}\1{number}{equals}{value}" if key else "")
    return "\n".join(lines)


def _is_on(found: Options, name: str) -> bool:
    return name in found and found[name][-1].lower() not in ("false", "0", "no", "off")


def _last(found: Options, name: str, directory: str = "") -> Optional[str]:
    values = [value for value in found.get(name, []) if value]
    return os.path.join(directory, values[-1]) if values else None


# -- the ways to ask it


def fifo(world: World, master: Process, told: Optional[str]) -> Optional[str]:
    """Return the master fifo by the master's own descriptor, which proves whose it is.

    :param told: the configured path; needed only where the master reads several.
    """
    try:
        links = world.descriptors(master)
    except Unreadable:
        return None
    found = {
        link: f"/proc/{master.pid}/fd/{name}"
        for name, link in links.items()
        if link.startswith("/") and int(name) > 2 and _is_fifo(f"/proc/{master.pid}/fd/{name}")
    }
    if told is not None and os.path.realpath(told) in found:
        return found[os.path.realpath(told)]
    return next(iter(found.values())) if len(found) == 1 and told is not None else None


def _is_fifo(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False


def write_to_fifo(path: str, command: bytes) -> None:
    """Write to the fifo that a master reads.

    :raises OSError: when nobody reads it, or it is no fifo.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            raise OSError(0, "not a fifo")
        os.write(descriptor, command)
    finally:
        os.close(descriptor)


def touch(path: str, owners: Iterable[Optional[int]]) -> None:
    """Let a file be newer by a second at least (uWSGI compares whole seconds).

    :param owners: whose it has to be: it lies where the application may write.
    :raises OSError: when it is another's, or no regular file.
    """
    held = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        seen = os.fstat(held)
        if not stat.S_ISREG(seen.st_mode) or seen.st_uid not in owners:
            raise OSError(0, "not a regular file of the program's user")
        os.utime(held)
        if int(os.fstat(held).st_mtime) <= int(seen.st_mtime):
            os.utime(held, (seen.st_atime, int(seen.st_mtime) + 1))
    finally:
        os.close(held)


# -- what the stats server tells


def stats_address(world: World, master: Process, told: Optional[str]) -> Optional[Address]:
    """Return where the stats server listens, if the master itself holds that socket.

    :param told: the configured address, a path or HOST:PORT.
    """
    if told is None:
        return None
    try:
        known = world.listening(master)
        held = {known[inode] for inode in world.sockets(master, known).held}
    except Unreadable:
        return None
    host, colon, port = told.rpartition(":")
    if colon and port.isdigit():
        mine = any(name.rpartition(":")[2] == f"{int(port):04X}" for name in held if ":" in name)
        local = host in ("", "0.0.0.0", "localhost") or host.startswith("127.")
        number = "127.0.0.1" if host in ("", "0.0.0.0", "localhost") else host
        return (number, int(port)) if mine and local else None
    return told if told in held or os.path.realpath(told) in held else None


class Stats:
    """Asks the stats server again and again; every byte of its answers is distrusted.

    :param master: who has to listen there.
    """

    def __init__(self, world: World, master: Process, address: Address) -> None:
        self._world = world
        self._master = master
        self._address = address
        self._exchange: Optional[Exchange] = None
        self._since = 0.0

    def look(self) -> Optional[list[dict[str, Any]]]:
        """Return the workers of a new answer, None while there is none."""
        now = self._world.now()
        try:
            if self._exchange is None:
                if now - self._since < STATS_PAUSE:
                    return None
                self._since = now
                self._exchange = Exchange(self._address, limit=STATS)
                if self._exchange.listener() not in (None, self._master.pid):
                    raise OSError(0, "somebody else's")
            answer = self._exchange.look()
        except OSError:
            self.close()  # it refuses while the master execs itself, or it is another's
            return None
        if answer is None:
            if now - self._since > STATS_PATIENCE:
                self.close()
            return None
        self.close()
        return workers_of(answer)

    def close(self) -> None:
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = None


def workers_of(answer: bytes) -> Optional[list[dict[str, Any]]]:
    """Return the workers that a stats server tells of, None when it is no such answer."""
    start = answer.find(b"{")  # stats-http puts headers before it
    try:
        told = json.loads(answer[max(start, 0) :])
    except (ValueError, RecursionError):
        return None
    workers = told.get("workers") if isinstance(told, dict) else None
    if not isinstance(workers, list):
        return None
    return [worker for worker in workers if isinstance(worker, dict)]


class UwsgiRenewal(Renewal):
    """One reload of one uWSGI."""

    forks_first = False  # a worker that finishes a request still has the socket in its epoll set

    def __init__(
        self, world: World, old: Crew, policy: Policy, ask: Any, stats: Optional[Stats]
    ) -> None:
        super().__init__(world, old, policy, ask)
        self._stats = stats
        self._agreed: Verdict = Progress("")
        self._agreed_at = 0.0

    def renewed(self) -> Verdict:
        """The kernel says who accepts, the stats server who has an app.

        ``accepting`` of the stats server is 1 even without one.
        """
        if not self._agreed:
            verdict = super().renewed()
            if not verdict or self._stats is None:
                return verdict
            self._agreed, self._agreed_at = verdict, self._world.now()
        self._must_live()
        workers = self._stats.look() if self._stats is not None else None
        if workers is not None:
            self._agreed_at = self._world.now()
            return self._judge(workers)
        if self._world.now() - self._agreed_at > STATS_TRUST:
            return self._agreed
        return Progress(f"{self._agreed.text}, the stats server is asked")

    def _judge(self, workers: list[dict[str, Any]]) -> Verdict:
        old = {process.pid for process in self._old.children}
        live = {child.pid for child in self._world.children(self.master)} - old
        new = [w for w in workers if w.get("pid") in live and w.get("accepting")]
        empty = [w for w in new if not w.get("apps")]
        if empty:
            raise Failure(
                Fault.NOT_READY,
                f"{len(empty)} of {len(new)} new workers have no application (the stats server "
                f"says so): the new code cannot be loaded, and they answer with errors",
            )
        total = max(self._old.workers, len(new))
        if not new or len(new) < self._agreed_workers():
            return Progress(f"worker {len(new)} of {total} has its application", len(new), total)
        return Readiness(len(new))

    def _agreed_workers(self) -> int:
        return self._agreed.workers if isinstance(self._agreed, Readiness) else 1


TRY = (pathlib.Path(__file__).parent / "try_import.py").read_text(encoding="utf-8")
"""Imports the application as uWSGI would; run by the application's own interpreter."""


class UwsgiFamily(Family):
    """Recognised by its name; its workers by what they accept from."""

    name = "uwsgi"
    strategies = {  # noqa: RUF012 - a table, never changed
        "graceful": Strategy(True, True, "HUP: the workers finish, the master execs itself"),
        "chain": Strategy(True, True, "one worker after the other (needs lazy-apps)"),
        "brutal": Strategy(True, True, "TERM: the workers are ended, the master execs itself"),
    }

    def names(self, program: Program) -> bool:
        return any(os.path.basename(word).startswith("uwsgi") for word in program.words[:3])

    def survey(self, world: World, tracked: Process, program: Program) -> Optional[Crew]:
        found = crew(world, tracked, lambda process: _is_master(world, process))
        return found if found is None else _without_routers(world, found, options(program))

    def lacks(self, program: Program) -> str:
        if not _is_on(options(program), "master"):
            return "uWSGI master with workers: uWSGI can reload itself only with --master"
        return "uWSGI workers yet: no child of its master accepts connections"

    def pidfile(self, program: Program) -> Optional[str]:
        found = options(program)
        return _last(found, "pidfile", program.directory)

    def strategy(self, world: World, old: Crew, program: Program) -> str:
        lazy = _is_on(options(program), "lazy-apps")
        able = lazy and self._chains(world, old, program) and not _moved(world, old, program)
        return "chain" if able else "graceful"

    def _chains(self, world: World, old: Crew, program: Program) -> Optional[str]:
        """Return the path by which a chain reload is asked for, None where there is none."""
        found = options(program)
        told = _last(found, "master-fifo", program.directory)
        return fifo(world, old.master, told) or _last(
            found, "touch-chain-reload", program.directory
        )

    def warnings(self, world: World, old: Crew, program: Program) -> Iterable[str]:
        found = options(program)
        if program.stopsignal == "TERM" and not _is_on(found, "die-on-term"):
            yield (
                f"warning: {program.name}: 'supervisorctl stop' sends TERM, which makes uWSGI "
                f"reload instead of stop: set stopsignal = INT (or QUIT), or die-on-term"
            )
        if any(name in found for name in ROUTERS):
            yield (
                f"warning: {program.name}: uWSGI ends its router (--http) on HUP and TERM, so that "
                f"its port is closed until the import is over: requests are dropped; use "
                f"--http-socket, or a chain reload"
            )
        if program.stopsignal == "HUP":
            yield f"warning: {program.name}: stopsignal = HUP makes uWSGI reload instead of stop"

    def admit(self, world: World, old: Crew, policy: Policy, program: Program) -> None:
        found = options(program)
        moved = _moved(world, old, program)
        if moved and (policy.strategy == "chain" or "chdir" not in found):
            raise Failure(
                Fault.NOT_RELOADABLE,
                f"{program.name}: {old.master} runs in {moved}, not in what "
                f"{_directory(program)} is now, and would load the old code again: "
                + (
                    "use strategy = graceful"
                    if "chdir" in found
                    else f"start it once with --chdir {program.directory}, which it follows"
                ),
            )
        if policy.strategy == "chain":
            if not _is_on(found, "lazy-apps"):
                raise Failure(
                    Fault.NOT_RELOADABLE,
                    f"{program.name}: strategy = chain needs lazy-apps: without it every worker "
                    f"is a fork of the old code",
                )
            if not self._chains(world, old, program):
                raise Failure(
                    Fault.NOT_RELOADABLE,
                    f"{program.name}: strategy = chain needs master-fifo or touch-chain-reload",
                )
        if policy.strategy == "brutal" and _is_on(found, "die-on-term"):
            raise Failure(
                Fault.NOT_RELOADABLE,
                f"{program.name}: strategy = brutal sends TERM, and with die-on-term that stops it",
            )

    def trial(self, world: World, old: Crew, program: Program) -> Optional[Trial]:
        """Import what uWSGI imports, as the workers' user; None where that cannot be told."""
        found = options(program)
        module, file = _last(found, "module"), _last(found, "wsgi-file")
        if module is None and file is None:
            return None
        python = _python(world, old.master, found, program)
        words = [python, "-c", TRY, module or file or "", "" if module else "file"]
        words.append(_last(found, "callable") or "application")
        words.append(_last(found, "chdir", program.directory) or "")
        words.extend(path for path in found.get("pythonpath", []) if path)
        title = f"import of {shlex.quote(module or file or '')} by {python}"
        return Trial(tuple(words), title, user_of(world, old.accepting or old.children, program))

    def server(self, world: World, old: Crew, policy: Policy, program: Program) -> Renewal:
        found = options(program)
        told = stats_address(world, old.master, _last(found, "stats", program.directory))
        stats = Stats(world, old.master, told) if told is not None else None

        def chain() -> None:
            path = self._chains(world, old, program)
            owners = {world.owner(process) for process in (old.master, *old.accepting)}
            try:
                if path is not None and path.startswith("/proc/"):
                    write_to_fifo(path, b"c")
                elif path is not None:
                    touch(path, owners)
            except OSError as error:
                raise Failure(
                    Fault.NOT_READY, f"a chain reload cannot be asked for by {path}: {error}"
                ) from None

        ask = {
            "chain": chain,
            "brutal": lambda: world.signal(old.master, "TERM"),
        }.get(policy.strategy, lambda: world.signal(old.master, "HUP"))
        return UwsgiRenewal(world, old, policy, ask, stats)


def _directory(program: Program) -> str:
    """Return the directory that a program is configured to run in."""
    return _last(options(program), "chdir", program.directory) or program.directory


def _moved(world: World, old: Crew, program: Program) -> Optional[str]:
    """Return where the master runs if its directory is a symlink that points elsewhere now.

    HUP changes into --chdir again, and else stays where it was; a chain reload
    always stays. What is imported by --pythonpath is found anew by both.
    """
    cwd = world.directory(old.master)
    if not cwd or options(program).get("pythonpath"):
        return None
    return cwd if cwd != os.path.realpath(_directory(program)) else None


def _is_master(world: World, process: Process) -> bool:
    """Tell whether *process* may be a master: without one, the first worker forks the others,
    and accepts from where they do. A master accepts from its stats server only.
    """
    if not _is_uwsgi(world, process):
        return False
    try:
        known = world.listening(process)
        own = world.sockets(process, known).accepted
        children = world.children(process)
        return not own or not any(own & world.sockets(c, known).accepted for c in children)
    except Unreadable:
        return True


def _without_routers(world: World, old: Crew, found: Options) -> Crew:
    """Leave out the processes that only hand requests on: a chain reload lets them live."""
    told = [value.partition(",")[0] for name in ROUTERS for value in found.get(name, [])]
    ports = [value.rpartition(":")[2] for value in told]
    apart = frozenset(f"{int(port):04X}" for port in ports if port.isdigit())
    if not apart or not old.readable:
        return old
    known = world.listening(old.master)
    try:
        seen = {child: world.sockets(child, known).accepted for child in old.accepting}
    except Unreadable:
        return old
    workers = frozenset(child for child in seen if counts(seen[child], known, apart))
    return replace(old, accepting=workers, apart=apart) if workers else old


def _is_uwsgi(world: World, process: Process) -> bool:
    if world.program(process).startswith("uwsgi"):
        return True
    return any(os.path.basename(word) == "uwsgi" for word in world.arguments(process)[:3])


def _python(world: World, master: Process, found: Options, program: Program) -> str:
    """Return the interpreter that imports what uWSGI's own does: of its virtualenv, or the
    one installed beside it."""
    home = _last(found, "home", program.directory)
    beside = os.path.dirname(program.words[0]) if program.words else ""
    for folder in (os.path.join(home, "bin") if home else "", beside):
        for name in ("python3", "python"):
            path = os.path.join(folder, name)
            if folder and os.access(path, os.X_OK):
                return path
    return "python3"


FAMILY = UwsgiFamily()
