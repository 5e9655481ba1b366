"""uWSGI: the master keeps its pid and replaces its workers, all at once or one by one.

HUP waits for the workers to finish, then execs the master in place; 'c' on the
master fifo or a touched file replaces one worker after the other, which needs
lazy-apps; TERM is a brutal reload unless die-on-term is set (uWSGI's
documentation: Management, TheArtOfGracefulReloading, MasterFIFO).
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import shlex
import signal
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Optional

from supervisor_hotreload.core.model import Failure, Fault, Policy, Progress, Readiness, Ready
from supervisor_hotreload.core.text import printable
from supervisor_hotreload.servers.base import AcceptingFamily, Strategy
from supervisor_hotreload.servers.command_line import assigned
from supervisor_hotreload.servers.generation import (
    DEPTH,
    AcceptingGeneration,
    accepting_generation,
    counts,
)
from supervisor_hotreload.servers.in_place import InPlaceReload
from supervisor_hotreload.servers.program import Program
from supervisor_hotreload.servers.readiness import Verdict
from supervisor_hotreload.servers.trial import Trial, run_as
from supervisor_hotreload.servers.uwsgi.chain import fifo, must_be_touchable, touch, write_to_fifo
from supervisor_hotreload.servers.uwsgi.command import NAME, uwsgi_command
from supervisor_hotreload.servers.uwsgi.options import Options, options
from supervisor_hotreload.servers.uwsgi.stats import Stats, stats_address
from supervisor_hotreload.system.command import RunAs
from supervisor_hotreload.system.credentials import Ids, rights_of
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World

BROKEN = "unable to load app"
EMPTY = "no app loaded. going in full dynamic mode"
"""What uWSGI prints when the application cannot be loaded, and when there is none."""

ROUTERS = ("http", "https", "http-to-https", "fastrouter", "rawrouter", "sslrouter")
"""Options that start a process which hands requests on to the workers."""

KEYED_ROUTERS = ("https2", "sslrouter2")
"""The same with ``addr=ADDRESS`` among their values."""

HOOK = re.compile(r"!?unix_signal:([0-9]{1,2}) (\S+)")
"""A hook that gives the master another handler of a signal (core/hooks.c)."""

RELOADS = frozenset(("grace_them_all", "reap_them_all"))
"""The handlers that reload, gracefully and brutally (core/uwsgi.c)."""

ENDS = frozenset(("kill_them_all", "gracefully_kill_them_all"))
"""Those that end it."""

HANDLERS = RELOADS | ENDS
"""Those whose names are shown: what else stands there may be a secret."""

TOUCH = "touch-chain-reload"

TOUCHED = 8
"""Files that are tried when a chain reload is asked for by one."""

STATS_FIRST = 1.0
"""Seconds for the stats server to tell what is served before anything is changed."""

STATS_TRUST = 10.0
"""Seconds without an answer after which the kernel's word is taken alone."""


def handler(found: Options, name: str) -> tuple[str, str]:
    """Return the function that the master calls on a signal, and the option that says so.

    The last hook counts, and its function is '' where that cannot be told (core/master.c).

    :param name: HUP, TERM or QUIT.
    """
    for hook in reversed(found.all("hook-master-start")):
        seen = HOOK.fullmatch(hook)
        if seen and int(seen[1]) == signal.Signals[f"SIG{name}"]:
            known = seen[2] if seen[2] in HANDLERS else "..."
            return seen[2], f"hook-master-start = unix_signal:{int(seen[1])} {known}"
    if name != "HUP" and found.on("die-on-term"):
        return ("kill_them_all" if name == "TERM" else "reap_them_all"), "die-on-term"
    if found.untold("hook-master-start", "die-on-term"):
        return "", ""
    return {"HUP": "grace_them_all", "TERM": "reap_them_all"}.get(name, "kill_them_all"), ""


def _effect(called: str) -> str:
    return "stops it" if called in ENDS else "does not reload it"


@dataclass
class UwsgiGeneration(AcceptingGeneration):
    """A uWSGI with its workers.

    :param options: what it is configured to do.
    :param by_root: its program is configured to be root's.
    :param rivals: other masters beside this one.
    """

    options: Options = field(default_factory=lambda: Options("/"))
    by_root: bool = False
    rivals: tuple[Process, ...] = ()


class UwsgiInPlace(InPlaceReload):
    """One reload of one uWSGI.

    :param stats: its stats server, if the master holds one.
    :param name: the program's.
    """

    forks_first = False  # a worker that finishes a request still has the socket in its epoll set

    def __init__(
        self,
        world: World,
        old: UwsgiGeneration,
        policy: Policy,
        ask: Callable[[], object],
        stats: Optional[Stats],
        name: str,
    ) -> None:
        super().__init__(world, old, policy, ask)
        self._name = name
        self._keeps_pause = policy.strategy == "chain"
        self._stats = stats
        self._loads = any(name in old.options for name in APPS)
        self._ask_at: Optional[float] = None
        self._agreed: Verdict = Progress("")
        self._agreed_at = 0.0

    def renew(self) -> None:
        """Ask the master; before that the stats server, where there is one, what it serves."""
        self._must_live()
        if self._stats is None:
            super().renew()
        else:
            self._ask_at = self._world.now() + STATS_FIRST

    def renewed(self) -> Verdict:
        """The kernel says who accepts, the stats server who has an app, or uWSGI's own words.

        ``accepting`` of the stats server is 1 even without one.
        """
        if self._ask_at is not None and self._stats is not None:
            return self._ask_after(self._stats, self._ask_at)
        if self._stats is None:
            self._must_have_loaded()
        if not self._agreed:
            self._agreed, self._agreed_at = super().renewed(), self._world.now()
            # once more in any case, for what it has printed meanwhile
            return self._agreed if not self._agreed else Progress(self._agreed.text)
        self._must_live()
        if self._stats is None:
            return self._agreed
        workers = self._stats.look()
        if workers is not None:
            self._agreed_at = self._world.now()
            return self._judge(workers)
        if self._world.now() - self._agreed_at > STATS_TRUST:
            self._must_have_loaded()
            return self._agreed
        return Progress(f"{self._agreed.text}, the stats server is asked")

    def _ask_after(self, stats: Stats, deadline: float) -> Progress:
        """Ask the master once the stats server has told whether there is an application."""
        workers = stats.look()
        if workers is None and self._world.now() < deadline:
            return Progress("the stats server is asked what is served now")
        if workers is not None:
            self._loads = any(worker.get("apps") for worker in workers)
            self._must_not_be_paused(workers)
        stats.close()
        self._ask_at = None
        super().renew()
        return Progress("the master was asked")

    def _must_not_be_paused(self, workers: list[dict[str, Any]]) -> None:
        """A worker that replaces a paused one serves no more than that (core/master_utils.c)."""
        if self._keeps_pause and any(worker.get("status") == "pause" for worker in workers):
            raise Failure(
                Fault.NOT_RELOADABLE,
                f"{self._name} is paused (the stats server says so), and would be after a chain "
                f"reload; nothing was sent: 'supervisorctl signal TSTP {self._name}' resumes it",
            )

    def _must_have_loaded(self) -> None:
        """Believe uWSGI that it could not load the application (uwsgi_init_all_apps)."""
        words = (BROKEN, EMPTY) if self._loads else (BROKEN,)
        said = next((line for line in self.output if any(word in line for word in words)), None)
        if said is not None:
            raise Failure(
                Fault.NOT_READY,
                f"uWSGI says: {printable(said.strip())[:200]}: the new code cannot be loaded, and "
                f"its workers answer with errors",
            )

    def _judge(self, workers: list[dict[str, Any]]) -> Verdict:
        """Judge the new workers that accept: others may load their application still.

        A worker is ``accepting`` once it has tried to (core/uwsgi.c, uwsgi_worker_run).
        """
        live = {c.pid for c in self._world.children(self.master) if c not in self._old.children}
        new = [w for w in workers if w["pid"] in live and w.get("accepting")]
        empty = [w for w in new if not w.get("apps")]
        if empty and self._loads:
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

ELSEWHERE = ("logto", "logto2", "logger", "daemonize", "daemonize2")
"""Options after which uWSGI's own words are not in the program's log."""

APPS = ("module", "wsgi-file", "mount")
"""Options that name what is loaded."""

SHOWN = (*APPS, "callable", "chdir", "pythonpath", "pyargv", "processes", "workers")
"""Options that the trial finds in ``uwsgi.opt``: an application may look at them, and no
other one is told to whoever's code it is."""

TRIED = (*APPS, "callable", "chdir", "pythonpath", "home", "env", "pyargv")
"""Options that decide what is imported, and where."""


class UwsgiFamily(AcceptingFamily[UwsgiGeneration]):
    """Recognised by its name; its workers by what they accept from."""

    name = "uwsgi"
    knows_rivals = True
    binaries = frozenset({"uwsgi", "uwsgi-core", "uwsgi_python3", "pyuwsgi", "uWSGI"})
    strategies = {  # noqa: RUF012 - a table, never changed
        "graceful": Strategy(True, True, "HUP: the workers finish, the master execs itself"),
        "chain": Strategy(True, True, "one worker after the other (needs lazy-apps)"),
        "brutal": Strategy(True, True, "TERM: the workers are ended, the master execs itself"),
    }

    def is_named_in(self, program: Program) -> bool:
        return uwsgi_command(program) is not None

    def survey(self, world: World, tracked: Process, program: Program) -> Optional[UwsgiGeneration]:
        found = accepting_generation(world, tracked, lambda process: _is_master(world, process))
        if found is None:
            return None
        known = options(program)
        found = _without_routers(world, found, known)
        rivals, by_root = _rivals(world, found), not program.user
        return found.refined(UwsgiGeneration, options=known, by_root=by_root, rivals=rivals)

    def lacks(self, program: Program) -> str:
        found = options(program)
        if not found.on("master") and not found.untold("master"):
            return "uWSGI master with workers: uWSGI can reload itself only with --master"
        return "uWSGI workers yet: no child of its master accepts connections"

    def pidfile(self, program: Program) -> Optional[str]:
        return options(program).path("pidfile")

    def best_strategy(self, world: World, old: UwsgiGeneration, program: Program) -> str:
        found = old.options
        unsure = found.untold("lazy-apps", "chdir", "pythonpath")
        if unsure or not found.on("lazy-apps") or _moved(world, old):
            return "graceful"
        return "graceful" if _no_chain(world, old) else "chain"

    def warnings(self, world: World, old: UwsgiGeneration, program: Program) -> Iterable[str]:
        found, name = old.options, program.name
        stop = program.stopsignal
        if stop in ("TERM", "QUIT") and handler(found, stop)[0] in RELOADS:
            either = "" if found.on("die-on-term") else " (or QUIT), or die-on-term with TERM"
            yield (
                f"warning: {name}: 'supervisorctl stop' sends {stop}, which makes uWSGI "
                f"reload instead of stop: set stopsignal = INT{either}"
            )
        if any(router in found for router in (*ROUTERS, *KEYED_ROUTERS)):
            yield (
                f"warning: {name}: uWSGI ends its router (--http) on HUP and TERM, so that "
                f"its port is closed until the import is over: requests are dropped; use "
                f"--http-socket, or a chain reload"
            )
        hidden = [option for option in ELSEWHERE if option in found]
        if hidden and "stats" not in found:
            yield (
                f"warning: {name}: uWSGI's words go elsewhere ({', '.join(hidden)}): only the "
                f"check before can tell whether a release can be loaded; set stats = SOCKET"
            )
        if program.stopsignal == "HUP" and handler(found, "HUP")[0] in ("", *RELOADS):
            yield f"warning: {name}: stopsignal = HUP makes uWSGI reload instead of stop"
        if TOUCH in found and found.on("lazy-apps"):
            why = _no_chain(world, old)
            if why:
                yield f"warning: {name}: a chain reload {why}"
        cwd = _elsewhere(world, old)
        if cwd is not None and "chdir" not in found:
            yield (
                f"warning: {name}: {old.master} runs in {printable(cwd)}, not in "
                f"{printable(_directory(old))}: unless "
                f"the application has changed there itself, what it imports from its directory "
                f"is imported from there again; --chdir is followed"
            )

    def admit(self, world: World, old: UwsgiGeneration, policy: Policy, program: Program) -> None:
        found = old.options
        if "emperor" in found or old.rivals:
            others = ", ".join(str(process) for process in old.rivals)
            what = (
                f"has other masters beside {old.master} ({others})" if others else "is an Emperor"
            )
            raise Failure(
                Fault.NOT_RELOADABLE,
                f"{program.name} {what}, and a reload would be of one of them only: touch the "
                f"vassal's own ini file instead, or let each be a program of its own",
            )
        moved = _moved(world, old)
        if moved and (policy.strategy == "chain" or "chdir" not in found):
            raise Failure(
                Fault.NOT_RELOADABLE,
                f"{program.name}: {old.master} runs in {printable(moved)}, not in what "
                f"{printable(_directory(old))} is now, and would load the old code again: "
                + (
                    "use strategy = graceful"
                    if "chdir" in found
                    else f"start it once with --chdir {found.directory}, which it follows"
                ),
            )
        if policy.strategy == "chain":
            if not found.on("lazy-apps") and not found.untold("lazy-apps"):
                raise Failure(
                    Fault.NOT_RELOADABLE,
                    f"{program.name}: strategy = chain needs lazy-apps: without it every worker "
                    f"is a fork of the old code",
                )
            why = _no_chain(world, old)
            if why:
                raise Failure(Fault.NOT_RELOADABLE, f"{program.name}: strategy = chain {why}")
        sent = {"graceful": "HUP", "brutal": "TERM"}.get(policy.strategy)
        if sent is not None:
            called, by = handler(found, sent)
            if called and called not in RELOADS:
                raise Failure(
                    Fault.NOT_RELOADABLE,
                    f"{program.name}: strategy = {policy.strategy} sends {sent}, and with {by} "
                    f"that {_effect(called)}",
                )

    def readiness(self, old: UwsgiGeneration, policy: Policy) -> tuple[Ready, str]:
        ready, why = super().readiness(old, policy)
        if ready.kind == "notify":
            why = (
                f"warning: {why}: uWSGI says READY=1 when it is started and not after a reload, "
                f"so that a worker of the application has to say it"
            )
        return ready, why

    def trial(self, world: World, old: UwsgiGeneration, program: Program) -> Optional[Trial]:
        """Import what uWSGI imports, as the workers' user; None where that cannot be told."""
        if self.why_no_trial(old):
            return None
        found = old.options
        apps, python = _apps(found), _python(found)
        told = {
            "apps": apps,
            "callable": found.last("callable") or "application",
            "directory": found.path("chdir") or found.directory,
            "paths": found.all("pythonpath"),
            "arguments": (found.last("pyargv") or "").split(),
            "options": {name: found.values[name] for name in SHOWN if name in found.values},
        }
        imported = shlex.join(what for _, what in apps)
        title = printable(f"import of {imported} by {python}")
        user = run_as(world, old, old.accepting, program, _named_user(found))
        given = {**_environment(found, program), "HOTRELOAD_TRIAL": _json(told)}
        return Trial((python, "-c", TRY), title, user, given)

    def why_no_trial(self, old: UwsgiGeneration) -> str:
        why = old.options.untold(*TRIED)
        if not why and not _apps(old.options):
            why = "its options name neither a module, nor a wsgi-file, nor a mount of one"
        return why

    def in_place(
        self, world: World, old: UwsgiGeneration, policy: Policy, program: Program
    ) -> UwsgiInPlace:
        found = old.options
        directory = world.directory(old.master) or _directory(old)
        told = stats_address(world, old.master, found.last("stats"), directory)
        stats = Stats(world, old.master, told) if told is not None else None

        def chain() -> None:
            path = fifo(world, old.master, old.options)
            try:
                if path is not None:
                    write_to_fifo(path, b"c", found.rights)
                else:
                    path, why = _touchable(world, old)
                    if path is None:
                        raise Failure(Fault.NOT_READY, f"a chain reload {why}")
                    touch(path, *_touched_by(old, path))
            except OSError as error:
                raise Failure(
                    Fault.NOT_READY,
                    f"a chain reload cannot be asked for by {printable(str(path))}: "
                    f"{error.strerror}",
                ) from None

        ask = {
            "chain": chain,
            "brutal": lambda: world.signal(old.master, "TERM"),
        }.get(policy.strategy, lambda: world.signal(old.master, "HUP"))
        return UwsgiInPlace(world, old, policy, ask, stats, program.name)


def _touched_by(old: UwsgiGeneration, path: str) -> tuple[Optional[Ids], bool]:
    """Return with whose rights *path* is touched, and whether it is supervisord's own
    configuration that names it: then it may be root's, for a program that root starts."""
    found = old.options
    stated = (os.path.join(found.directory, one) for one in found.stated.get(TOUCH, ()))
    return found.rights, old.by_root and path in stated


def _no_chain(world: World, old: UwsgiGeneration) -> str:
    """Return why a chain reload cannot be asked for, '' when it can."""
    if fifo(world, old.master, old.options) is not None:
        return ""
    return _touchable(world, old)[1]


def _touchable(world: World, old: UwsgiGeneration) -> tuple[Optional[str], str]:
    """Return the first file that may be touched for a chain reload, or why there is none."""
    paths = old.options.paths(TOUCH, world.directory(old.master))
    if not paths:
        why = old.options.untold("master-fifo", TOUCH)
        return None, "needs master-fifo or touch-chain-reload" + (f" ({why})" if why else "")
    refused = []
    for path in paths[:TOUCHED]:
        try:
            must_be_touchable(path, *_touched_by(old, path))
        except OSError as error:
            refused.append(f"{printable(path)}: {error.strerror}")
        else:
            return path, ""
    return None, f"cannot be asked for by {'; nor by '.join(refused)}"


def _json(told: dict[str, Any]) -> str:
    """Return *told* as one variable; the kernel takes no longer one than 128 KB."""
    text = json.dumps(told)
    return text if len(text) < 1 << 16 else json.dumps({**told, "options": {}})


def _apps(found: Options) -> list[tuple[str, str]]:
    """Return what is loaded, each as 'file' or 'module' and its name (uwsgi_mount_loader)."""
    module, file = found.last("module"), found.last("wsgi-file")
    known = [("module", module)] if module else [("file", file)] if file else []
    for value in found.all("mount"):
        what = value.partition("=")[2]
        if what.endswith((".py", ".wsgi")):
            known.append(("file", what))
        elif ":" in what:
            known.append(("module", what))
    return list(dict.fromkeys(known))


def _environment(found: Options, program: Program) -> dict[str, str]:
    """Return what the application finds in its environment that supervisord does not give."""
    given = assigned(program, found.environment)
    for told in found.all("env"):
        key, _, value = told.partition("=")
        if key:
            given[key] = value
    return given


def _directory(old: UwsgiGeneration) -> str:
    """Return the directory that a program is configured to run in."""
    return old.options.path("chdir") or old.options.directory


def _elsewhere(world: World, old: UwsgiGeneration) -> Optional[str]:
    """Return where the master runs if it imports from there, and is configured to run elsewhere.

    HUP changes into --chdir again, and else stays where it was; a chain reload
    always stays. What is imported by --pythonpath is found anew by both.
    """
    cwd = world.directory(old.master)
    if not cwd or old.options.untold("chdir", "pythonpath") or old.options.all("pythonpath"):
        return None
    return cwd if cwd != _real(old, _directory(old)) else None


def _real(old: UwsgiGeneration, path: str) -> str:
    """Return where *path* leads as far as the program's own user may look."""
    try:
        with rights_of(old.options.rights):
            return os.path.realpath(path)
    except OSError:
        return path


def _moved(world: World, old: UwsgiGeneration) -> Optional[str]:
    """Return where the master runs if a symlink led there once and leads elsewhere now.

    An application may have changed its directory itself: only one beside what a
    link of the configured path points to now is taken for what it pointed to before.
    """
    cwd = _elsewhere(world, old)
    if cwd is None:
        return None
    seen = cwd.replace(" (deleted)", "")
    head, tail = os.path.abspath(_directory(old)), ""
    while head != "/":
        leads = _real(old, head)
        if leads != os.path.join(_real(old, os.path.dirname(head)), os.path.basename(head)):
            now = os.path.dirname(leads)
            before = seen[: -len(tail)] if tail and seen.endswith(tail) else seen
            if os.path.dirname(before) == now:
                return cwd
        head, tail = os.path.dirname(head), f"/{os.path.basename(head)}{tail}"
    return None


def _rivals(world: World, old: AcceptingGeneration) -> tuple[Process, ...]:
    """Return the other masters beside the one of *old*: the vassals of an Emperor."""
    level = [old.tracked]
    for _ in range(DEPTH):
        if old.master in level:
            beside = (process for process in level if process != old.master)
            return tuple(p for p in beside if _is_uwsgi(world, p) and world.children(p))
        level = [child for process in level for child in world.children(process)]
    return ()


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


def _without_routers(world: World, old: AcceptingGeneration, found: Options) -> AcceptingGeneration:
    """Leave out the processes that only hand requests on: a chain reload lets them live."""
    apart = _apart(found)
    if not apart or not old.readable:
        return old
    try:
        known = world.listening(old.master)
        seen = {child: world.sockets(child, known).accepted for child in old.accepting}
    except Unreadable:
        return old
    workers = frozenset(child for child in seen if counts(seen[child], known, apart))
    return replace(old, accepting=workers, apart=apart) if workers else old


def _apart(found: Options) -> frozenset[str]:
    """Return what routers accept from, as the kernel writes it: ports, paths of unix sockets."""
    told = [value.partition(",")[0] for name in ROUTERS for value in found.all(name)]
    for name in KEYED_ROUTERS:
        pairs = (pair.partition("=") for value in found.all(name) for pair in value.split(","))
        told += [value for key, _, value in pairs if key == "addr"]
    shared = [] if "shared-socket" in found.unknown else found.all("shared-socket")
    by_number = {f"={number}": address for number, address in enumerate(shared)}
    apart = set()
    for address in (by_number.get(address, address) for address in told):
        _, colon, port = address.rpartition(":")
        if not colon:
            apart.add(address)
        elif port.isdecimal():
            apart.add(f"{int(port):04X}")
    return frozenset(apart)


def _is_uwsgi(world: World, process: Process) -> bool:
    names = (world.program(process), *map(os.path.basename, world.arguments(process)[:3]))
    return any(NAME.match(name) for name in names)


def _named_user(found: Options) -> RunAs:
    """Return the user that the command names: an ini file may be anybody's."""
    users, groups = found.stated.get("uid"), found.stated.get("gid")
    return RunAs(users[-1] if users else None, groups[-1] if groups else None)


def _python(found: Options) -> str:
    """Return the interpreter that imports what uWSGI's own does: of its virtualenv, or the
    one installed beside it."""
    home = found.path("home")
    beside = os.path.dirname(found.binary)
    folders = (os.path.join(home, "bin") if home else "", beside)
    paths = [os.path.join(folder, n) for folder in folders if folder for n in ("python3", "python")]
    return next((path for path in paths if _is_program(path, found.rights)), "python3")


def _is_program(path: str, rights: Optional[Ids]) -> bool:
    try:
        with rights_of(rights):
            mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) and bool(mode & 0o111)


FAMILY = UwsgiFamily()
