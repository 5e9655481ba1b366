"""uWSGI: the master keeps its pid and replaces its workers, all at once or one by one.

HUP waits for the workers to finish, then execs the master in place. 'c' on the master fifo
or a touched file replaces one worker after the other, which needs lazy-apps. TERM is a brutal
reload unless die-on-term is set (uWSGI's documentation: Management,
TheArtOfGracefulReloading, MasterFIFO).
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Optional

from supervisor_hotreload.core.model import Failure, Fault, Policy, Ready
from supervisor_hotreload.core.text import printable
from supervisor_hotreload.servers.base import AcceptingFamily, Strategy
from supervisor_hotreload.servers.generation import (
    WALK_LEVELS,
    AcceptingGeneration,
    accepting_generation,
    counts,
)
from supervisor_hotreload.servers.program import Program
from supervisor_hotreload.servers.trial import Trial
from supervisor_hotreload.servers.uwsgi.chain import TOUCH, Chain
from supervisor_hotreload.servers.uwsgi.in_place import UwsgiInPlace
from supervisor_hotreload.servers.uwsgi.options import NAME, UwsgiOptions, options, uwsgi_command
from supervisor_hotreload.servers.uwsgi.stats import Stats, stats_address
from supervisor_hotreload.servers.uwsgi.trial import APPS, make_trial, why_no_trial
from supervisor_hotreload.system.credentials import rights_of
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World

ROUTERS = ("http", "https", "http-to-https", "fastrouter", "rawrouter", "sslrouter")
"""Options that start a process which hands requests on to the workers."""

KEYED_ROUTERS = ("https2", "sslrouter2")
"""The same with ``addr=ADDRESS`` in their value."""

HOOK = re.compile(r"!?unix_signal:([0-9]{1,2}) (\S+)")
"""A hook that gives the master another handler of a signal (core/hooks.c)."""

RELOADS = frozenset(("grace_them_all", "reap_them_all"))
"""Handlers that reload, gracefully and brutally (core/uwsgi.c)."""

ENDS = frozenset(("kill_them_all", "gracefully_kill_them_all"))
"""Handlers that end the master. Any other text in a hook may be a secret and is not shown."""

OTHER_LOGS = ("logto", "logto2", "logger", "daemonize", "daemonize2")
"""Options after which uWSGI's own output is not in the program's log."""


@dataclass
class UwsgiGeneration(AcceptingGeneration):
    """A uWSGI with its workers.

    :param options: its configuration.
    :param by_root: no user other than root is configured for its program.
    :param rivals: other masters beside this one.
    """

    options: UwsgiOptions = field(default_factory=lambda: UwsgiOptions("/"))
    by_root: bool = False
    rivals: tuple[Process, ...] = ()


class UwsgiFamily(AcceptingFamily[UwsgiGeneration]):
    """Knows a master by its name, and its workers by the sockets that they accept from."""

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
        found = accepting_generation(world, tracked, lambda process: _may_be_master(world, process))
        if found is None:
            return None
        known = options(program)
        found = _without_routers(world, found, known)
        rivals, by_root = _rivals(world, found), not program.user
        return found.refined(UwsgiGeneration, options=known, by_root=by_root, rivals=rivals)

    def lacks(self, program: Program) -> str:
        found = options(program)
        if not found.on("master") and not found.why_unknown("master"):
            return "uWSGI master with workers: uWSGI can reload itself only with --master"
        return "uWSGI workers yet: no child of its master accepts connections"

    def pidfile(self, program: Program) -> Optional[str]:
        return options(program).path("pidfile")

    def best_strategy(self, world: World, old: UwsgiGeneration, program: Program) -> str:
        found = old.options
        unsure = found.why_unknown("lazy-apps", "chdir", "pythonpath")
        if unsure or not found.on("lazy-apps") or _moved(world, old):
            return "graceful"
        return "graceful" if _chain(world, old).refusal() else "chain"

    def warnings(self, world: World, old: UwsgiGeneration, program: Program) -> Iterable[str]:
        lines = _warnings(world, old, program.stopsignal)
        return [f"warning: {program.name}: {line}" for line in lines]

    def admit(self, world: World, old: UwsgiGeneration, policy: Policy, program: Program) -> None:
        why = _refusal(world, old, policy.strategy)
        if why:
            raise Failure(Fault.NOT_RELOADABLE, f"{program.name}{why}")

    def readiness(self, old: UwsgiGeneration, policy: Policy) -> tuple[Ready, str]:
        ready, why = super().readiness(old, policy)
        if ready.kind == "notify":
            why = (
                f"warning: {why}: uWSGI says READY=1 when it is started and not after a reload: "
                f"a worker of the application has to say it"
            )
        return ready, why

    def trial(self, world: World, old: UwsgiGeneration, program: Program) -> Optional[Trial]:
        if self.why_no_trial(old):
            return None
        return make_trial(world, old, old.options, program)

    def why_no_trial(self, old: UwsgiGeneration) -> str:
        return why_no_trial(old.options)

    def in_place(
        self, world: World, old: UwsgiGeneration, policy: Policy, program: Program
    ) -> UwsgiInPlace:
        found = old.options
        directory = world.directory(old.master) or found.run_directory
        address = stats_address(world, old.master, found.last("stats"), directory)
        stats = Stats(world, old.master, address) if address is not None else None
        ask = {
            "chain": _chain(world, old).ask,
            "brutal": lambda: world.signal(old.master, "TERM"),
        }.get(policy.strategy, lambda: world.signal(old.master, "HUP"))
        has_app = any(name in found for name in APPS)
        return UwsgiInPlace(world, old, policy, ask, stats, program.name, has_app)


def _chain(world: World, old: UwsgiGeneration) -> Chain:
    return Chain(world, old.master, old.options, old.by_root)


def _warnings(world: World, old: UwsgiGeneration, stopsignal: str) -> Iterator[str]:
    """Yield one line for each thing that is wrong with the configuration or the process."""
    found = old.options
    if stopsignal in ("TERM", "QUIT") and handler(found, stopsignal)[0] in RELOADS:
        either = "" if found.on("die-on-term") else " (or QUIT), or die-on-term with TERM"
        yield (
            f"'supervisorctl stop' sends {stopsignal}, which makes uWSGI reload instead of stop: "
            f"set stopsignal = INT{either}"
        )
    if any(router in found for router in (*ROUTERS, *KEYED_ROUTERS)):
        yield (
            "uWSGI ends its router (--http) on HUP and TERM. Its port stays closed until the "
            "import is over, and requests are dropped: use --http-socket, or a chain reload"
        )
    hidden = [option for option in OTHER_LOGS if option in found]
    if hidden and "stats" not in found:
        yield (
            f"uWSGI's output goes elsewhere ({', '.join(hidden)}): only check_before shows whether "
            f"a release can be loaded; set stats = SOCKET"
        )
    if stopsignal == "HUP" and handler(found, "HUP")[0] in ("", *RELOADS):
        yield "stopsignal = HUP makes uWSGI reload instead of stop"
    if TOUCH in found and found.on("lazy-apps"):
        why = _chain(world, old).refusal()
        if why:
            yield f"a chain reload {why}"
    cwd = _other_directory(world, old)
    if cwd is not None and "chdir" not in found:
        yield (
            f"{old.master} runs in {printable(cwd)}, not in {printable(found.run_directory)}: "
            f"unless the application has changed there itself, a reload imports from "
            f"{printable(cwd)} again; --chdir is followed"
        )


def _refusal(world: World, old: UwsgiGeneration, strategy: str) -> str:
    """Return why *old* cannot be reloaded now, to stand behind the program's name; else ''."""
    found = old.options
    if "emperor" in found or old.rivals:
        others = ", ".join(str(process) for process in old.rivals)
        what = f"has other masters beside {old.master}, {others}" if others else "is an Emperor"
        return (
            f" {what}: a reload would reach only one of its masters, so nothing was sent; touch "
            f"the vassal's own ini file, or make each vassal a program of its own"
        )
    moved = _moved(world, old)
    if moved and (strategy == "chain" or "chdir" not in found):
        cure = (
            "use strategy = graceful"
            if "chdir" in found
            else f"start it once with --chdir {found.directory}, which it follows"
        )
        return (
            f": {printable(found.run_directory)} leads elsewhere now, but {old.master} still runs "
            f"in {printable(moved)} and would load the old code again: {cure}"
        )
    if strategy == "chain":
        if not found.on("lazy-apps") and not found.why_unknown("lazy-apps"):
            return (
                ": strategy = chain needs lazy-apps: without it every worker is a fork of the old "
                "code"
            )
        why = _chain(world, old).refusal()
        return f": strategy = chain {why}" if why else ""
    sent = {"graceful": "HUP", "brutal": "TERM"}.get(strategy, "HUP")
    called, cause = handler(found, sent)
    if called and called not in RELOADS:
        effect = "stops it" if called in ENDS else "does not reload it"
        return f": strategy = {strategy} sends {sent}, and with {cause} that {effect}"
    return ""


def handler(found: UwsgiOptions, name: str) -> tuple[str, str]:
    """Return the function that the master calls on a signal, and the option that sets it.

    The last hook counts (core/master.c). The function is '' where it is not known.

    :param name: HUP, TERM or QUIT.
    """
    for hook in reversed(found.all("hook-master-start")):
        seen = HOOK.fullmatch(hook)
        if seen and int(seen[1]) == signal.Signals[f"SIG{name}"]:
            shown = seen[2] if seen[2] in RELOADS | ENDS else "..."
            return seen[2], f"hook-master-start = unix_signal:{int(seen[1])} {shown}"
    if name != "HUP" and found.on("die-on-term"):
        return ("kill_them_all" if name == "TERM" else "reap_them_all"), "die-on-term"
    if found.why_unknown("hook-master-start", "die-on-term"):
        return "", ""
    return {"HUP": "grace_them_all", "TERM": "reap_them_all"}.get(name, "kill_them_all"), ""


def _other_directory(world: World, old: UwsgiGeneration) -> Optional[str]:
    """Return where the master runs if it is configured to run elsewhere and imports from there.

    HUP changes into --chdir again and else stays where it was; a chain reload always stays.
    Both look for what is imported by --pythonpath anew.
    """
    found, cwd = old.options, world.directory(old.master)
    if not cwd or found.why_unknown("chdir", "pythonpath") or found.all("pythonpath"):
        return None
    return cwd if cwd != _real(found, found.run_directory) else None


def _real(found: UwsgiOptions, path: str) -> str:
    """Return *path* without symlinks, as far as the program's own user may look."""
    try:
        with rights_of(found.rights):
            return os.path.realpath(path)
    except OSError:
        return path


def _moved(world: World, old: UwsgiGeneration) -> Optional[str]:
    """Return where the master runs if a symlink led there once and leads elsewhere now.

    The application may have changed its directory itself. So its directory counts only when it
    lies beside the one to which a symlink of the configured path leads now.
    """
    cwd = _other_directory(world, old)
    if cwd is None:
        return None
    found, seen = old.options, cwd.replace(" (deleted)", "")
    head, tail = os.path.abspath(found.run_directory), ""
    while head != "/":
        target = _real(found, head)
        is_link = target != os.path.join(
            _real(found, os.path.dirname(head)), os.path.basename(head)
        )
        before = seen[: -len(tail)] if tail and seen.endswith(tail) else seen
        if is_link and os.path.dirname(before) == os.path.dirname(target):
            return cwd
        head, tail = os.path.dirname(head), f"/{os.path.basename(head)}{tail}"
    return None


def _rivals(world: World, old: AcceptingGeneration) -> tuple[Process, ...]:
    """Return the other masters beside the one of *old*: the vassals of an Emperor."""
    level = [old.tracked]
    for _ in range(WALK_LEVELS):
        if old.master in level:
            beside = (process for process in level if process != old.master)
            return tuple(p for p in beside if _is_uwsgi(world, p) and world.children(p))
        level = [child for process in level for child in world.children(process)]
    return ()


def _may_be_master(world: World, process: Process) -> bool:
    """Tell whether *process* is a uWSGI that accepts from no socket of its children.

    A master accepts from its stats server only. Without a master, the first worker forks the
    others and accepts from the same sockets.
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


def _is_uwsgi(world: World, process: Process) -> bool:
    names = (world.program(process), *map(os.path.basename, world.arguments(process)[:3]))
    return any(NAME.match(name) for name in names)


def _without_routers(
    world: World, old: AcceptingGeneration, found: UwsgiOptions
) -> AcceptingGeneration:
    """Return *old* without the routers: a chain reload does not replace them."""
    apart = router_addresses(found)
    if not apart or not old.readable:
        return old
    try:
        known = world.listening(old.master)
        seen = {child: world.sockets(child, known).accepted for child in old.accepting}
    except Unreadable:
        return old
    workers = frozenset(child for child in seen if counts(seen[child], known, apart))
    return replace(old, accepting=workers, apart=apart) if workers else old


def router_addresses(found: UwsgiOptions) -> frozenset[str]:
    """Return what routers accept from, as the kernel writes it: ports, paths of unix sockets."""
    addresses = [value.partition(",")[0] for name in ROUTERS for value in found.all(name)]
    for name in KEYED_ROUTERS:
        pairs = (pair.partition("=") for value in found.all(name) for pair in value.split(","))
        addresses += [value for key, _, value in pairs if key == "addr"]
    shared = [] if "shared-socket" in found.unknown else found.all("shared-socket")
    by_number = {f"={number}": address for number, address in enumerate(shared)}
    apart = set()
    for address in (by_number.get(address, address) for address in addresses):
        _, colon, port = address.rpartition(":")
        if not colon:
            apart.add(address)
        elif port.isdecimal():
            apart.add(f"{int(port):04X}")
    return frozenset(apart)


FAMILY = UwsgiFamily()
