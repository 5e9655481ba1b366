"""The XML-RPC namespace ``hotreload``: validate, delegate, report."""

from __future__ import annotations

import math
from typing import Any, Callable, Optional

from supervisor.http import NOT_DONE_YET
from supervisor.options import split_namespec
from supervisor.xmlrpc import Faults, RPCError

from supervisor_hotreload.core.model import Failure, Fault, Outcome
from supervisor_hotreload.core.reload import Reload
from supervisor_hotreload.plugin.events import ask_listener
from supervisor_hotreload.plugin.log import Log
from supervisor_hotreload.plugin.program import SupervisedProgram
from supervisor_hotreload.plugin.published import Options, fault, published
from supervisor_hotreload.plugin.service import Batch, ReloadService
from supervisor_hotreload.plugin.supervisord import SeamMissing
from supervisor_hotreload.plugin.triggers import TriggerTable
from supervisor_hotreload.servers import STRATEGIES

API_VERSION = "1.0"

Answer = Any
"""What supervisor's XML-RPC takes: a value, or a function that it calls until it has one."""


def make_hotreload_rpcinterface(supervisord: Any, **config: str) -> HotReloadNamespaceRPCInterface:
    """Make the interface; supervisord calls this once for every HTTP server it has.

    :param supervisord: supervisor's Supervisor.
    :param config: the keys of [rpcinterface:hotreload], defaults for every program.
    :raises SeamMissing: when this supervisor is not one that hotreload knows.
    """
    if not hasattr(supervisord, "hotreload"):  # its own reload makes a new Supervisor
        try:
            supervisord.hotreload = TriggerTable(ReloadService(supervisord, config))
        except SeamMissing as error:
            Log(supervisord.options.logger).critical(str(error))
            raise
    table: TriggerTable = supervisord.hotreload
    return HotReloadNamespaceRPCInterface(table.reloads, table)


class HotReloadNamespaceRPCInterface:
    """Methods that do not begin with an underscore are published by supervisor."""

    def __init__(self, reloads: ReloadService, triggers: TriggerTable) -> None:
        self._reloads = reloads
        self._triggers = triggers
        self._log = reloads.supervised.logger

    @published
    def getAPIVersion(self) -> str:
        """Return the version of the hotreload RPC API

        @return string version  version id
        """
        return API_VERSION

    @published
    def reloadProcess(self, name: str, wait: bool = True, options: Options = None) -> Answer:
        """Replace a running program by a new generation of itself

        No request is dropped; a release that cannot start changes nothing. A
        reload goes on when the client that asked for it goes away.

        @param string name  Process name (or ``group:name``, or ``group:*``)
        @param boolean wait  Wait until the new generation is the only one
        @param struct options  Optional: ``bake`` (double, seconds), ``strategy`` (string)
        @return boolean result  Always true unless error; for ``group:*`` as reloadProcessGroup
        """
        group, process = split_namespec(name)
        if process is None:
            return self.reloadProcessGroup(group, wait, options)
        tracked = self._find(name)
        reload = _or_fault(lambda: self._reloads.start(tracked, **_wishes(options)))
        return _until(lambda: reload.done, lambda: _result(reload)) if wait else True

    @published
    def reloadProcessGroup(self, name: str, wait: bool = True, options: Options = None) -> Answer:
        """Reload every program of a group that runs and can be reloaded, one after the other

        Once one has failed, the rest of the group is not attempted.

        @param string name  The group name
        @param boolean wait  Wait until the last one has ended
        @param struct options  Optional: ``bake`` (double, seconds), ``strategy`` (string)
        @return array result  An array of structs with keys string name, string group,
        int status (80 is success, else a fault code), string description, int number (of the
        reload, for getReloadInfo). A member that does not run is skipped: its description
        begins with 'skipped', its number is 0. One whose old generation drains for longer
        than a minute counts as a success: its description says so
        """
        try:
            members = self._reloads.supervised.members(name)
        except KeyError:
            raise fault(Fault.BAD_NAME, f"BAD_NAME: {name}: no such group") from None
        return self._reload_all(members, name, wait, options)

    @published
    def reloadAllProcesses(self, wait: bool = True, options: Options = None) -> Answer:
        """Reload every program that runs and can be reloaded, one after the other

        The key ``programs`` of [rpcinterface:hotreload] limits what 'every' means.

        @param boolean wait  Wait until the last one has ended
        @param struct options  Optional: ``bake`` (double, seconds), ``strategy`` (string)
        @return array result  An array of structs as of reloadProcessGroup
        """
        only = _or_fault(self._reloads.settings).programs()
        members = [
            tracked
            for group in self._reloads.supervised.groups().values()
            for tracked in group
            if only is None or tracked.group in only or tracked.name in only
        ]
        return self._reload_all(members, "all", wait, options)

    @published
    def getReloadInfo(self, name: str, number: int = 0, since: int = 0) -> dict[str, Any]:
        """Get what there is to know about the reload of a program that is active, or was last

        Whoever looks often asks for what is new only: with ``since`` there is no ``output``
        before the reload has ended, and no line of ``log`` that was there already.

        @param string name  The name of the process (or ``group:name``)
        @param int number  Optional: which reload, by the ``number`` of an earlier answer
        @param int since  Optional: the ``since`` of an earlier answer about the same reload
        @return struct result  A struct with keys int number, string name, string group, string
        statename, int pid, int generation, boolean watched (it is no child of supervisord's,
        an earlier one has left it), boolean active, string phase, string outcome,
        int fault, string reason, string serving, int old_pid, int new_pid, double seconds,
        int workers_ready, int workers, boolean drains_on (the new generation serves, the old
        one drains for long and need not be waited for), int since, array log (the latest 500
        structs of double seconds, string phase, string text), array output (the latest 200
        lines that the program has printed since it began), and of unattended reloads string
        trigger (what fired last), double next_attempt (seconds from now, -1 for none), string
        trigger_failure
        """
        return self._info(self._find(name), number, since)

    @published
    def getAllReloadInfo(self) -> list[dict[str, Any]]:
        """Get the reload info of every program

        @return array result  An array of structs as of getReloadInfo
        """
        groups = self._reloads.supervised.groups().values()
        return [self._info(tracked) for members in groups for tracked in members]

    @published
    def getWarnings(self) -> list[str]:
        """Get what is wrong: bad settings, sections that are for no program, a listener that
        cannot work

        @return array result  An array of strings, one line each
        """
        return self._reloads.warnings() + self._triggers.warnings()

    @published
    def cancelReload(self, name: str, wait: bool = True) -> Answer:
        """Roll back the active reload of a program; possible until it is adopted

        @param string name  The name of the process (or ``group:name``)
        @param boolean wait  Wait until the successor is gone
        @return boolean result  Always true unless error
        """
        tracked = self._find(name)
        reload = _or_fault(lambda: self._reloads.cancel(tracked))
        return _until(lambda: reload.done, lambda: True) if wait else True

    @published
    def getTriggers(self, revision: str = "") -> dict[str, Any]:
        """Get what reloads each program unattended, and how its latest reload went

        The event listener asks for this. Settings that cannot be used are told in
        ``errors``; the others hold.

        @param string revision  Optional: the one of an earlier answer
        @return struct result  A struct with the key string revision, and unless that is the
        given one: string instance, string state_file, double listener_age (seconds since
        there is a listener), array sighup, array errors, array names (of all programs),
        array programs (structs with the settings, the age in seconds and the latest reload,
        of those that have changed since)
        """
        return self._triggers.read(revision)

    @published
    def requestReload(self, name: str) -> bool:
        """Ask the event listener to reload a program, as ``request_reload()`` of an app does

        Unlike reloadProcess it is limited by ``min_interval``, and one that is asked for
        during a reload is remembered.

        @param string name  The name of the process (or ``group:name``)
        @return boolean result  Always true unless error
        """
        tracked = self._find(name)
        if not ask_listener(tracked.name, self._reloads.supervised.pools()):
            raise fault(
                Fault.NO_LISTENER,
                f"{name}: no event listener takes requests: add [eventlistener:hotreload] with "
                f"command = hotreload-listener and REMOTE_COMMUNICATION among its events",
            )
        return True

    @published
    def noteTrigger(self, name: str, trigger: str, wait: float, failure: str) -> bool:
        """Take note of what the event listener does, for getReloadInfo

        @param string name  The name of the process (or ``group:name``)
        @param string trigger  What has fired last
        @param double wait  Seconds until the next attempt, negative for none
        @param string failure  Why the last attempt has failed
        @return boolean result  Always true unless error
        """
        tracked = self._find(name)
        if not math.isfinite(wait):
            raise RPCError(Faults.BAD_ARGUMENTS, f"wait: {wait} is not a number of seconds")
        self._triggers.note(tracked, trigger, wait, failure)
        return True

    # -- inside

    def _find(self, name: str) -> SupervisedProgram:
        group, process = split_namespec(name)
        try:
            return self._reloads.supervised.member(group, process)
        except KeyError:
            raise fault(Fault.BAD_NAME, f"BAD_NAME: {name}: no such process") from None

    def _reload_all(
        self, members: list[SupervisedProgram], name: str, wait: bool, options: Options
    ) -> Answer:
        chosen = [tracked for tracked in members if self._reloads.reloadable(tracked)]
        if not chosen:
            raise fault(Fault.NOT_RELOADABLE, f"{name}: no program of it runs and can be reloaded")
        skipped = [
            _row(tracked, Faults.SUCCESS, f"skipped ({tracked.state})", 0)
            for tracked in members
            if not (tracked.running or tracked.starting)
        ]
        batch = _or_fault(lambda: self._reloads.start_all(chosen, **_wishes(options)))
        if not wait:
            return [
                _row(tracked, Faults.SUCCESS, "queued", reload.number)
                for tracked, reload in batch.all
            ] + skipped
        return _until(lambda: batch.done, lambda: _rows(batch) + skipped)

    def _info(self, tracked: SupervisedProgram, number: int = 0, since: int = 0) -> dict[str, Any]:
        driver = self._reloads.driver
        asked = driver.numbered(tracked.name, number) if number else None
        latest = asked or driver.latest(tracked.name)
        return {
            "name": tracked.process.config.name,
            "group": tracked.group,
            "pid": tracked.pid,
            "generation": tracked.generation,
            "statename": tracked.state,
            "watched": tracked.watched,
            **self._triggers.remark(tracked),
            **(NO_STORY if latest is None else _story(latest, since)),
        }


NO_STORY: dict[str, Any] = {
    "number": 0,
    "active": False,
    "phase": "",
    "outcome": "",
    "fault": 0,
    "reason": "",
    "serving": "",
    "old_pid": 0,
    "new_pid": 0,
    "seconds": 0.0,
    "workers_ready": 0,
    "workers": 0,
    "drains_on": False,
    "since": 0,
    "log": [],
    "output": [],
}
"""What is told of a program that has never been reloaded."""


def _story(reload: Reload, since: int) -> dict[str, Any]:
    progress = reload.progress
    return {
        "number": reload.number,
        "active": not reload.done,
        "phase": reload.phase.value,
        "outcome": reload.outcome.value,
        "fault": int(reload.fault or 0),
        "reason": reload.reason,
        "serving": reload.serving,
        "old_pid": reload.old_pid,
        "new_pid": reload.new_pid,
        "seconds": reload.seconds,
        "workers_ready": progress.ready if progress is not None else 0,
        "workers": progress.total if progress is not None else 0,
        "drains_on": reload.drains_on,
        "since": reload.lines.written,
        "log": [
            {"seconds": line.seconds, "phase": line.phase.value, "text": line.text}
            for line in reload.lines.since(since)
        ],
        "output": list(reload.output) if reload.done or since <= 0 else [],
    }


def _wishes(options: Optional[dict[str, Any]]) -> dict[str, Any]:
    """Return ``bake`` and ``strategy`` of *options*; there are no others."""
    given = dict(options or {})
    bake, strategy = given.pop("bake", None), given.pop("strategy", None)
    if given:
        raise RPCError(
            Faults.INCORRECT_PARAMETERS, f"unknown options: {', '.join(map(str, given))}"
        )
    if strategy is not None and strategy not in list(STRATEGIES):
        known = ", ".join(sorted(STRATEGIES))
        raise RPCError(Faults.BAD_ARGUMENTS, f"strategy: {strategy!r} is none of {known}")
    if bake is None:
        return {"strategy": strategy}
    if isinstance(bake, bool) or not isinstance(bake, (int, float)) or not 0 <= bake < 86400:
        raise RPCError(Faults.BAD_ARGUMENTS, f"bake: {bake!r} is not a number of seconds")
    return {"bake": float(bake), "strategy": strategy}


def _or_fault(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except Failure as failure:
        raise fault(failure.fault, failure.reason) from None


def _until(done: Callable[[], bool], result: Callable[[], Any]) -> Answer:
    """Return a deferred answer (supervisor.http.NOT_DONE_YET); it reports, it drives nothing."""

    def callback() -> Any:
        return result() if done() else NOT_DONE_YET

    callback.delay = 0.05  # type: ignore[attr-defined] # how supervisor wants it
    return callback


def _result(reload: Reload) -> bool:
    if reload.outcome is Outcome.SUCCEEDED:
        return True
    lines = [f"{reload.name}: {reload.reason}; {reload.serving}", *reload.output]
    raise fault(reload.fault or Fault.INTERNAL, "\n".join(lines))


def _rows(batch: Batch) -> list[dict[str, Any]]:
    return [_row(tracked, *_status(reload), reload.number) for tracked, reload in batch.results]


def _status(reload: Reload) -> tuple[int, str]:
    if not reload.done:
        return Faults.SUCCESS, f"still draining: the old generation (pid {reload.old_pid}) ends"
    if reload.outcome is Outcome.SUCCEEDED:
        return Faults.SUCCESS, "OK"
    return int(reload.fault or 0), f"{reload.reason}; {reload.serving}"


def _row(tracked: SupervisedProgram, status: int, description: str, number: int) -> dict[str, Any]:
    return {
        "name": tracked.process.config.name,
        "group": tracked.group,
        "status": status,
        "description": description,
        "number": number,
    }
