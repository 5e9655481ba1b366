"""``supervisorctl hotreload``: ask for a reload, print its phases, report how it ended."""

from __future__ import annotations

import http.client
import time
import xmlrpc.client
from collections.abc import Collection
from typing import Any

from supervisor.options import make_namespec, split_namespec
from supervisor.supervisorctl import ControllerPluginBase, LSBInitExitStatuses
from supervisor.xmlrpc import Faults

from supervisor_hotreload.ctl.completion import Completion
from supervisor_hotreload.ctl.names import means
from supervisor_hotreload.ctl.options import BadUsage, Request, RpcOptions, help_text, parse, usage
from supervisor_hotreload.ctl.screen import Screen, is_late, summary

POLL_SECONDS = 0.05
"""Between two looks at a reload: an operator sees each phase as it begins."""


class HotReloadControllerPlugin(ControllerPluginBase):  # type: ignore[misc] # supervisor is untyped
    """The ``hotreload`` command.

    :param controller: supervisorctl's Controller.
    """

    def __init__(self, controller: Any, **_config: str) -> None:
        super().__init__(controller)
        self._proxy = controller.get_server_proxy("hotreload")
        self._screen = Screen(controller)
        self._late = False
        for other in controller.options.plugins:  # each says 'No help on' what it does not know
            other.help_hotreload = lambda: None
        if hasattr(controller, "complete"):  # which knows supervisor's own commands only
            controller.complete = Completion(controller, controller.complete)

    def do_hotreload(self, arg: str) -> None:
        if not self.ctl.upcheck():
            return
        try:
            request = parse(arg)
        except BadUsage as error:
            self._screen.say(f"Error: {error}")
            self._screen.say(usage(error.action))
            self._screen.fail(LSBInitExitStatuses.INVALID_ARGS)
            return
        try:
            if request.action == "help":
                self.help_hotreload()
            elif request.action == "status":
                self._status(request)
            elif request.action == "cancel":
                for name in request.names:
                    self._cancel(name)
            else:
                for position, name in enumerate(request.names):
                    self._reload(name, request, request.names[position + 1 :])
        except KeyboardInterrupt:
            self._screen.fail()

    def do_help(self, arg: str) -> None:
        if arg in ("", "hotreload"):
            super().do_help(arg)

    def help_hotreload(self) -> None:
        self.ctl.output(help_text())

    # -- reload

    def _reload(self, name: str, request: Request, later: Collection[str]) -> None:
        """Reload what *name* means, and follow it to its end.

        :param later: the names that come after it.
        """
        waiting = [name]
        try:
            started = self._start(name, request.options)
            waiting = list(started)
            # no other program waits for a single one: its old generation may drain for long
            patient = waiting == [name] and len(request.names) == 1
            while waiting:
                self._follow(waiting[0], started[waiting[0]], patient, request.verbose)
                del waiting[0]
        except KeyboardInterrupt:
            self._leave(waiting, later)
            raise
        except xmlrpc.client.Fault as fault:
            self._screen.fault(name, fault)
        except (OSError, http.client.HTTPException):
            self._screen.error(
                name,
                "supervisord does not answer any more; when it runs again, it goes on with the "
                f"reload: supervisorctl hotreload --status {name}",
            )

    def _start(self, name: str, options: RpcOptions) -> dict[str, int]:
        """Start the reloads that *name* means; return the number of each by program, in order."""
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
                self._screen.say(f"{program}: {row['description']}")
        return started

    def _follow(self, name: str, number: int, patient: bool, verbose: bool) -> None:
        """Print each line of a reload when it appears, until the reload has ended.

        :param patient: wait for an old generation that drains for long, too.
        """
        since = 0
        while True:
            info = self._proxy.getReloadInfo(name, number, since)
            since = info["since"]
            self._late = is_late(info)
            self._screen.log(name, info)
            if not info["active"]:
                break
            if info["drains_on"] and not patient:
                self._screen.say(
                    f"{name}: still draining: generation {info['generation']} (pid {info['pid']}) "
                    f"serves. How the old one ends: supervisorctl hotreload --status {name}"
                )
                return
            time.sleep(POLL_SECONDS)
        if info["outcome"] != "succeeded":
            self._screen.output(name, info, verbose)
            self._screen.error(name, info["reason"])
        self._screen.say(f"{name}: {info['serving']}")

    def _leave(self, waiting: list[str], later: Collection[str]) -> None:
        """Say what goes on after Ctrl-C."""
        name, *queued = waiting
        cancel = f", or roll it back with: supervisorctl hotreload --cancel {name}"
        self._screen.say("")
        self._screen.say(
            f"{name}: the reload goes on in supervisord. See how it ends with: supervisorctl "
            f"hotreload --status {name}{'' if self._late else cancel}"
        )
        if queued:
            self._screen.say(f"supervisord reloads next: {' '.join(queued)}")
        if later:
            self._screen.say(f"not reloaded: {' '.join(later)}")

    # -- cancel and status

    def _cancel(self, name: str) -> None:
        """Roll back what *name* means. The program that was started last is the first."""
        try:
            programs = self._cancellable(name)
        except xmlrpc.client.Fault as fault:
            self._screen.fault(name, fault)
            return
        if not programs:
            self._screen.error(name, "no reload is active")
        for program in reversed(programs):
            try:
                self._proxy.cancelReload(program)
                serving = self._proxy.getReloadInfo(program)["serving"]
                self._screen.say(f"{program}: rolled back{serving and f'; {serving}'}")
            except xmlrpc.client.Fault as fault:
                self._screen.fault(program, fault)

    def _cancellable(self, name: str) -> list[str]:
        """Return the programs that *name* means and that are being reloaded.

        If there is none, return those that were reloaded; a single program in any case. Then
        supervisord gives the reason why there is nothing to cancel.
        """
        if name != "all" and split_namespec(name)[1] is not None:
            return [name]
        infos = [info for info in self._proxy.getAllReloadInfo() if means(name, info)]
        reloaded = [info for info in infos if info["outcome"]]
        active = [info for info in reloaded if info["active"]]
        return [make_namespec(info["group"], info["name"]) for info in active or reloaded]

    def _status(self, request: Request) -> None:
        try:
            infos = self._proxy.getAllReloadInfo()
            warnings = self._warnings()
        except xmlrpc.client.Fault as fault:
            self._screen.fault(request.names[0], fault)
            return
        for name in request.names:
            chosen = [info for info in infos if means(name, info)]
            for info in chosen:
                title = make_namespec(info["group"], info["name"])
                self._screen.say(f"{title:<32} {summary(info)}")
                if request.verbose:
                    self._screen.log(title, info)
                    self._screen.output(title, info, True)
            if not chosen:
                self._screen.unknown(name)
        for warning in warnings:
            self._screen.say(f"warning: {warning}")

    def _warnings(self) -> list[str]:
        """Return what supervisord finds wrong with the settings."""
        try:
            warnings: list[str] = self._proxy.getWarnings()
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != Faults.UNKNOWN_METHOD:  # an older plugin is still loaded
                raise
            return []
        return warnings


def make_hotreload_controllerplugin(controller: Any, **config: str) -> HotReloadControllerPlugin:
    """Make the ``hotreload`` command of supervisorctl."""
    return HotReloadControllerPlugin(controller, **config)
