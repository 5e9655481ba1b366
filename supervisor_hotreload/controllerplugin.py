"""``supervisorctl hotreload``: asks, shows each phase when it happens, tells the outcome."""

from __future__ import annotations

import http.client
import shlex
import time
import xmlrpc.client
from typing import Any, Union

from supervisor.options import make_namespec, split_namespec
from supervisor.supervisorctl import ControllerPluginBase, LSBInitExitStatuses

from supervisor_hotreload.core.model import Fault
from supervisor_hotreload.core.text import one_line

POLL = 0.05
"""Seconds between two looks at a reload."""

UNKNOWN_METHOD = 1
"""supervisor.xmlrpc.Faults.UNKNOWN_METHOD."""

USAGE = """\
hotreload <name>\t\tReplace a program by a new generation of itself,
\t\t\twithout dropping a request
hotreload <gname>:*\t\tReload all processes in a group, one after the other
hotreload <name> <name>\tReload multiple processes, one after the other
hotreload all\t\tReload every program that can be reloaded
hotreload --bake 30 <name>\tWatch the new generation for 30 seconds, while
\t\t\tboth serve, before the old one is retired
hotreload --strategy <s> <name>\tReload in another way than the one that is set,
\t\t\tsuch as chain or upgrade
hotreload --brutal <name>\tReload uWSGI without waiting for its workers
hotreload --cancel <name>\tRoll back the active reload of a program
hotreload --status\t\tShow the active or last reload of every program

Exit status 0 when every named program serves its new generation, 2 for a
command line that cannot be understood, 7 for a program that does not run,
else 1: the reason, and what serves now, are printed. Ctrl-C leaves the reload
running."""


Wishes = dict[str, Union[str, float]]
"""What is asked for instead of the settings, as reloadProcess takes it."""


class BadUsage(Exception):
    """The command line cannot be understood."""


class HotReloadControllerPlugin(ControllerPluginBase):  # type: ignore[misc] # supervisor is untyped
    """The ``hotreload`` command.

    :param controller: supervisorctl's Controller.
    """

    def __init__(self, controller: Any, **_config: str) -> None:
        super().__init__(controller)
        self._proxy = controller.get_server_proxy("hotreload")
        self._too_late = False
        for other in controller.options.plugins:  # each says 'No help on' what it does not know
            other.help_hotreload = lambda: None

    def do_hotreload(self, arg: str) -> None:
        if not self.ctl.upcheck():
            return
        try:
            names, wishes, action = parse(arg)
        except BadUsage as error:
            self._say(f"Error: {error}")
            self.ctl.exitstatus = LSBInitExitStatuses.INVALID_ARGS
            self.help_hotreload()
            return
        if action == "help":
            self.help_hotreload()
        try:
            for position, name in enumerate(names):
                if action == "cancel":
                    self._cancel(name)
                elif action == "status":
                    self._status(name)
                else:
                    self._reload(name, wishes, len(names) == 1, names[position + 1 :])
            if action == "status":
                self._warn()
        except KeyboardInterrupt:
            self._fail(LSBInitExitStatuses.GENERIC)

    def do_help(self, arg: str) -> None:
        if arg in ("", "hotreload"):
            super().do_help(arg)

    def help_hotreload(self) -> None:
        self.ctl.output(USAGE)

    # -- inside

    def _say(self, text: str) -> None:
        """Print one line, and nothing that the terminal would act on: others have a say in it."""
        encoding = getattr(self.ctl.stdout, "encoding", None) or "utf-8"
        self.ctl.output(one_line(text).encode(encoding, "replace").decode(encoding))

    def _reload(self, name: str, wishes: Wishes, patient: bool, rest: list[str]) -> None:
        """Reload what *name* means, and follow it.

        :param patient: wait for the last old generation, however long it drains.
        """
        queued = [name]
        try:
            started = self._start(name, wishes)
            queued = list(started)
            patient = patient and queued == [name]
            while queued:
                self._follow(queued[0], started[queued[0]], patient)
                queued = queued[1:]
        except KeyboardInterrupt:
            self._leave(queued, rest)
            raise
        except xmlrpc.client.Fault as fault:
            self._report(name, fault)
        except (OSError, http.client.HTTPException):
            self._say(
                f"{name}: ERROR (supervisord does not answer any more; once it runs again it goes "
                f"on with the reload, see: supervisorctl hotreload --status {name})"
            )
            self._fail(LSBInitExitStatuses.GENERIC)

    def _start(self, name: str, options: Wishes) -> dict[str, int]:
        """Start what *name* means; return the programs that are being reloaded, in order,
        with the numbers of their reloads."""
        group, process = split_namespec(name)
        if name == "all":
            rows = self._proxy.reloadAllProcesses(False, options)
        elif process is None:
            rows = self._proxy.reloadProcessGroup(group, False, options)
        else:
            self._proxy.reloadProcess(name, False, options)
            return {name: self._proxy.getReloadInfo(name)["number"]}
        started = {}
        for row in rows:
            program = make_namespec(row["group"], row["name"])
            if row["number"]:
                started[program] = row["number"]
            else:
                self._say(f"{program}: {row['description']}")
        return started

    def _follow(self, name: str, number: int, patient: bool) -> None:
        """Print each line of a reload when it is there, until it has ended."""
        since = 0
        while True:
            info = self._proxy.getReloadInfo(name, number, since)
            since = info["since"]
            self._too_late = nothing_leads_back(info)
            for line in info["log"]:
                self._say(f"{name}: {line['seconds']:6.2f}s  {line['text']}")
            if not info["active"]:
                break
            if info["drains_on"] and not patient:
                self._say(
                    f"{name}: still draining: generation {info['generation']} (pid {info['pid']}) "
                    f"serves; how the old one ends, shows: supervisorctl hotreload --status {name}"
                )
                return
            time.sleep(POLL)
        if info["outcome"] != "succeeded":
            for line in info["output"]:
                self._say(f"{name}| {line}")
            self._say(f"{name}: ERROR ({info['reason']})")
            self._fail(LSBInitExitStatuses.GENERIC)
        self._say(f"{name}: {info['serving']}")

    def _leave(self, queued: list[str], rest: list[str]) -> None:
        name = queued[0]
        undo = f", or roll it back with: supervisorctl hotreload --cancel {name}"
        self._say("")
        self._say(
            f"{name}: the reload goes on in supervisord; see how it ends with: supervisorctl "
            f"hotreload --status {name}{'' if self._too_late else undo}"
        )
        if queued[1:]:
            self._say(f"supervisord goes on with: {' '.join(queued[1:])}")
        if rest:
            self._say(f"not started: {' '.join(rest)}")

    def _cancel(self, name: str) -> None:
        try:
            programs = self._active(name)
        except xmlrpc.client.Fault as fault:
            self._report(name, fault)
            return
        for program in programs:
            try:
                self._proxy.cancelReload(program)
                self._say(f"{program}: rolled back")
            except xmlrpc.client.Fault as fault:
                self._report(program, fault)

    def _active(self, name: str) -> list[str]:
        """Return the programs that *name* means and that are being reloaded, last first.

        Where none is, those that have been, and a single name is itself: supervisord says
        why there is nothing to cancel.
        """
        group, process = split_namespec(name)
        if name != "all" and process is not None:
            return [name]
        infos = [
            info
            for info in self._proxy.getAllReloadInfo()
            if info["outcome"] and (name == "all" or info["group"] == group)
        ]
        infos = [info for info in infos if info["active"]] or infos
        chosen = [make_namespec(info["group"], info["name"]) for info in infos]
        if not chosen:
            self._say(f"{name}: ERROR (no reload is active)")
            self._fail(LSBInitExitStatuses.GENERIC)
        return chosen[::-1]

    def _status(self, name: str) -> None:
        try:
            chosen = self._proxy.getAllReloadInfo()
            if name != "all":
                group, process = split_namespec(name)
                chosen = [i for i in chosen if i["group"] == group and process in (None, i["name"])]
        except xmlrpc.client.Fault as fault:
            self._report(name, fault)
            return
        if not chosen:
            self._say(f"{name}: ERROR (no such process)")
            self._fail(LSBInitExitStatuses.GENERIC)
        for info in chosen:
            title = make_namespec(info["group"], info["name"])
            self._say(f"{title:<32} {summary(info)}")

    def _warn(self) -> None:
        """Say what supervisord finds wrong with the settings."""
        try:
            for warning in self._proxy.getWarnings():
                self._say(f"warning: {warning}")
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != UNKNOWN_METHOD:  # an older supervisord still runs
                raise

    def _report(self, name: str, fault: xmlrpc.client.Fault) -> None:
        if fault.faultCode == UNKNOWN_METHOD:
            text = (
                "supervisord has not loaded hotreload: add [rpcinterface:hotreload] to the file "
                "that supervisord reads, and restart supervisord"
            )
        elif fault.faultCode == Fault.BAD_NAME:
            text = "no such group" if name.endswith(":*") else "no such process"
        else:
            text = fault.faultString
        self._say(f"{name}: ERROR ({text})")
        not_running = fault.faultCode == Fault.NOT_RUNNING
        self._fail(LSBInitExitStatuses.NOT_RUNNING if not_running else LSBInitExitStatuses.GENERIC)

    def _fail(self, status: int) -> None:
        self.ctl.exitstatus = status


def nothing_leads_back(info: dict[str, Any]) -> bool:
    """Tell whether a reload that *info* (getReloadInfo) tells of cannot be cancelled any more."""
    in_place = info["old_pid"] == info["new_pid"]
    late = ("replacing", "draining", "promoting", *(["baking"] if in_place else []))
    return info["phase"] in late


def summary(info: dict[str, Any]) -> str:
    """Return one line about the reload that *info* (getReloadInfo) tells of."""
    now = f"generation {info['generation']} (pid {info['pid']})" if info["pid"] else "not running"
    if info["active"]:
        follows = f", pid {info['new_pid']} follows {now}" if info["new_pid"] else f", {now}"
        return f"{info['phase']} for {info['seconds']:.0f} s{follows}"
    if not info["outcome"]:
        return f"{now}, never reloaded"
    why = f": {info['reason']}" if info["reason"] else ""
    return f"{now}, last reload {info['outcome']} in {info['seconds']:.1f} s{why}"


def parse(arg: str) -> tuple[list[str], Wishes, str]:
    """Return the names, ``--bake`` and ``--strategy``, and what to do: reload, cancel or status.

    :raises BadUsage: with what is wrong.
    """
    try:
        words = shlex.split(arg)
    except ValueError as error:
        raise BadUsage(str(error)) from None
    names: list[str] = []
    wishes: Wishes = {}
    actions: list[str] = []
    strategies: list[str] = []
    while words:
        word = words.pop(0)
        option, equals, value = word.partition("=")
        if option == "--bake":
            wishes["bake"] = _seconds(value if equals else words.pop(0) if words else "")
        elif option == "--strategy":
            strategies.append(value if equals else words.pop(0) if words else "")
        elif word == "--brutal":
            strategies.append("brutal")
        elif word in ("--cancel", "--status"):
            actions.append(word[2:])
        elif word in ("-h", "--help"):
            return [], {}, "help"
        elif word.startswith("-"):
            raise BadUsage(f"unknown option {word}")
        else:
            names.append(word)
    if len(set(strategies)) > 1:
        raise BadUsage(f"one strategy, please (given: {', '.join(strategies)})")
    if strategies:
        wishes["strategy"] = strategies[0]
    if len(actions) + bool(wishes) > 1:
        given = ", ".join(sorted({*wishes, *actions}))
        raise BadUsage(f"--cancel, --status and wishes do not go together (given: {given})")
    action = actions[0] if actions else "reload"
    if action == "status" and not names:
        names = ["all"]
    if not names:
        raise BadUsage("hotreload requires a process name")
    if "all" in names:
        names = ["all"]
    return list(dict.fromkeys(names)), wishes, action


def _seconds(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        raise BadUsage(f"--bake: {value!r} is not a number of seconds") from None
    if not 0 <= number < 86400:
        raise BadUsage(f"--bake: {value!r} is not a number of seconds from 0 to 86400")
    return number


def make_hotreload_controllerplugin(controller: Any, **config: str) -> HotReloadControllerPlugin:
    """Make the ``hotreload`` command of supervisorctl."""
    return HotReloadControllerPlugin(controller, **config)
