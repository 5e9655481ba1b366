"""The XML-RPC namespace ``hotreload``: each method validates, delegates and reports."""

from __future__ import annotations

import math
from typing import Any

from supervisor.options import split_namespec
from supervisor.xmlrpc import Faults, RPCError

from supervisor_hotreload.core.model import Fault
from supervisor_hotreload.plugin import structs
from supervisor_hotreload.plugin.admission import Overrides
from supervisor_hotreload.plugin.listener_pools import ask_listener
from supervisor_hotreload.plugin.log import Log
from supervisor_hotreload.plugin.program import SupervisedProgram
from supervisor_hotreload.plugin.service import ReloadService
from supervisor_hotreload.plugin.structs import Struct
from supervisor_hotreload.plugin.supervisord import SeamMissing
from supervisor_hotreload.plugin.triggers import TriggerTable
from supervisor_hotreload.plugin.xmlrpc import Answer, Options, fault, published, when
from supervisor_hotreload.servers import STRATEGIES

API_VERSION = "1.0"

DAY_SECONDS = 86400
"""The longest bake that may be asked for."""


def make_hotreload_rpcinterface(supervisord: Any, **config: str) -> HotReloadNamespaceRPCInterface:
    """Return the interface; supervisord calls this once for every HTTP server that it has.

    :param supervisord: supervisor's Supervisor.
    :param config: the keys of [rpcinterface:hotreload], which are defaults for every program.
    :raises SeamMissing: when hotreload does not know how to work with this supervisor.
    """
    if not hasattr(supervisord, "hotreload"):  # supervisord's own reload makes another one
        try:
            service = ReloadService(supervisord, config)
        except SeamMissing as error:
            Log(supervisord.options.logger).critical(str(error))
            raise
        supervisord.hotreload = HotReloadNamespaceRPCInterface(service, TriggerTable(service))
    interface: HotReloadNamespaceRPCInterface = supervisord.hotreload
    return interface


class HotReloadNamespaceRPCInterface:
    """supervisor publishes the methods whose names do not begin with an underscore."""

    def __init__(self, service: ReloadService, triggers: TriggerTable) -> None:
        self._service = service
        self._triggers = triggers
        self._log = service.supervised.logger

    @published
    def getAPIVersion(self) -> str:
        """Return the version of the hotreload RPC API

        @return string version  version id
        """
        return API_VERSION

    @published
    def reloadProcess(self, name: str, wait: bool = True, options: Options = None) -> Answer:
        """Replace a running program by a new generation of itself

        No request is dropped, and a release that cannot start changes nothing. The reload
        goes on when the client that asked for it goes away.

        @param string name  The name of the process (``name``, ``group:name`` or ``group:*``)
        @param boolean wait  Wait until the new generation is the only one
        @param struct options  Optional: ``bake`` (double, seconds), ``strategy`` (string)
        @return boolean result  Always true unless error; for ``group:*`` the answer of
        reloadProcessGroup
        """
        group, process = split_namespec(name)
        if process is None:
            return self.reloadProcessGroup(group, wait, options)
        reload = self._service.start(self._find(name), _overrides(options))
        return when(lambda: reload.done, lambda: structs.result_of(reload)) if wait else True

    @published
    def reloadProcessGroup(self, name: str, wait: bool = True, options: Options = None) -> Answer:
        """Reload every program of a group that runs and can be reloaded, one after the other

        After a failure the rest of the group is not attempted. A program that does not run
        is skipped. The next program does not wait longer than a minute for an old generation
        that drains.

        @param string name  The group name
        @param boolean wait  Wait until the last reload has ended
        @param struct options  Optional: ``bake`` (double, seconds), ``strategy`` (string)
        @return array result  An array of structs with the keys string name, string group,
        int status (80 for success, else a fault code), string description, int number (of the
        reload, for getReloadInfo). The description of a skipped program begins with 'skipped'
        and its number is 0. The description of a program whose old generation drains for
        longer than a minute begins with 'still draining' and its status is 80
        """
        try:
            members = self._service.supervised.members(name)
        except KeyError:
            raise fault(Fault.BAD_NAME, f"BAD_NAME: {name}: no such group") from None
        return _reload_all(self._service, members, name, wait, options)

    @published
    def reloadAllProcesses(self, wait: bool = True, options: Options = None) -> Answer:
        """Reload every program that runs and can be reloaded, one after the other

        The key ``programs`` of [rpcinterface:hotreload] limits these to the names that it
        lists.

        @param boolean wait  Wait until the last reload has ended
        @param struct options  Optional: ``bake`` (double, seconds), ``strategy`` (string)
        @return array result  An array of structs, as reloadProcessGroup returns them
        """
        only = self._service.settings.read().programs()
        members = [
            program
            for program in self._service.supervised.programs()
            if only is None or program.group in only or program.name in only
        ]
        return _reload_all(self._service, members, "all", wait, options)

    @published
    def getReloadInfo(self, name: str, number: int = 0, since: int = 0) -> Struct:
        """Get info about the active or the latest reload of a program

        A client that asks often passes ``since``: it then gets only the new lines of ``log``,
        and ``output`` only when the reload has ended.

        @param string name  The name of the process (or ``group:name``)
        @param int number  Optional: which reload, by the ``number`` of an earlier answer
        @param int since  Optional: the ``since`` of an earlier answer about the same reload
        @return struct result  A struct with the keys int number, string name, string group,
        string statename, int pid, int generation, boolean watched (an earlier supervisord has
        started it, so it is no child of this one), boolean active, boolean refused (nothing was
        sent), string phase, string outcome, int fault, string reason, string serving, int
        old_pid, int new_pid, double seconds, int workers_ready, int workers, boolean drains_on
        (the new generation serves, and the old one has drained for longer than a minute), int
        since, array log (the latest 500 lines, structs of double seconds, string phase, string
        text), array output (the latest 200 lines that the program has printed since the reload
        began), and about unattended reloads string trigger (the latest one), double
        next_attempt (seconds from
        now, -1 for none), string trigger_failure (why the latest attempt has failed)
        """
        return self._info(self._find(name), number, since)

    @published
    def getAllReloadInfo(self) -> list[Struct]:
        """Get info about the active or the latest reload of every program

        @return array result  An array of structs, as getReloadInfo returns them
        """
        return [self._info(program) for program in self._service.supervised.programs()]

    @published
    def getWarnings(self) -> list[str]:
        """Get what is wrong with the settings and with the event listener

        These are bad settings, sections that no program has the name of, and a listener
        that is silent.

        @return array result  An array of strings, one line each
        """
        groups = self._service.supervised.groups()
        return self._service.settings.warnings(groups) + self._triggers.warnings()

    @published
    def cancelReload(self, name: str, wait: bool = True) -> Answer:
        """Roll back the active reload of a program; possible until the successor is adopted

        @param string name  The name of the process (or ``group:name``)
        @param boolean wait  Wait until the successor is gone
        @return boolean result  Always true unless error
        """
        reload = self._service.cancel(self._find(name))
        return when(lambda: reload.done, lambda: True) if wait else True

    @published
    def getTriggers(self, revision: str = "") -> Struct:
        """Get what reloads each program unattended, and how its latest reload went

        The event listener calls this. A setting that cannot be used is named in ``errors``;
        the other settings hold.

        @param string revision  Optional: the revision of an earlier answer
        @return struct result  A struct with the key string revision, and where that has
        changed string instance, string state_file, double listener_age (seconds since
        supervisord has a listener), array sighup, array errors, array names (of all programs),
        array programs (structs with the settings, the age in seconds and the latest reload,
        of the programs that have changed since)
        """
        return self._triggers.read(revision)

    @published
    def requestReload(self, name: str) -> bool:
        """Ask the event listener to reload a program, as ``request_reload()`` of an app does

        ``min_interval`` limits such requests. One that comes during a reload is done after it.

        @param string name  The name of the process (or ``group:name``)
        @return boolean result  Always true unless error
        """
        program = self._find(name)
        if not ask_listener(program.name, self._service.supervised.pools()):
            raise fault(
                Fault.NO_LISTENER,
                f"{name}: no event listener takes requests: add [eventlistener:hotreload] with "
                f"command = hotreload-listener and REMOTE_COMMUNICATION among its events",
            )
        return True

    @published
    def noteTrigger(self, name: str, trigger: str, wait: float, failure: str) -> bool:
        """Record what the event listener does, for getReloadInfo

        @param string name  The name of the process (or ``group:name``)
        @param string trigger  What has asked for a reload
        @param double wait  Seconds until the next attempt, 0 when it begins, negative for none
        @param string failure  Why the latest attempt has failed, '' when it has not
        @return boolean result  Always true unless error
        """
        program = self._find(name)
        if not math.isfinite(wait):
            raise RPCError(Faults.BAD_ARGUMENTS, f"wait: {wait} is not a number of seconds")
        self._triggers.note(program, trigger, wait, failure)
        return True

    def _find(self, name: str) -> SupervisedProgram:
        group, process = split_namespec(name)
        try:
            return self._service.supervised.member(group, process)
        except KeyError:
            raise fault(Fault.BAD_NAME, f"BAD_NAME: {name}: no such process") from None

    def _info(self, program: SupervisedProgram, number: int = 0, since: int = 0) -> Struct:
        driver = self._service.driver
        reload = driver.numbered(program.name, number) or driver.latest(program.name)
        return structs.reload_info(program, reload, since, self._triggers.remark(program))


def _reload_all(
    service: ReloadService,
    members: list[SupervisedProgram],
    name: str,
    wait: bool,
    options: Options,
) -> Answer:
    """Reload those of *members* that run and can be reloaded.

    :param name: what the client has called them.
    """
    chosen = [program for program in members if service.admission.is_reloadable(program)]
    if not chosen:
        raise fault(Fault.NOT_RELOADABLE, f"{name}: no program of it runs and can be reloaded")
    skipped = [
        structs.row(program, Faults.SUCCESS, f"skipped ({program.state})")
        for program in members
        if not (program.running or program.starting)
    ]
    batch = service.start_all(chosen, _overrides(options))
    if wait:
        return when(lambda: batch.done, lambda: structs.results_of(batch) + skipped)
    queued = [
        structs.row(program, Faults.SUCCESS, "queued", reload.number)
        for program, reload in batch.entries
    ]
    return queued + skipped


def _overrides(options: Options) -> Overrides:
    """Return the overrides that a client's *options* name.

    :raises RPCError: when it names others than ``bake`` and ``strategy``, or bad values.
    """
    given = dict(options or {})
    bake, strategy = given.pop("bake", None), given.pop("strategy", None)
    if given:
        raise RPCError(
            Faults.INCORRECT_PARAMETERS, f"unknown options: {', '.join(map(str, given))}"
        )
    if strategy is not None and strategy not in list(STRATEGIES):
        known = ", ".join(sorted(STRATEGIES))
        raise fault(Faults.BAD_ARGUMENTS, f"strategy: {strategy!r} is none of {known}")
    number = isinstance(bake, (int, float)) and not isinstance(bake, bool)
    if bake is not None and not (number and 0 <= bake < DAY_SECONDS):
        raise fault(Faults.BAD_ARGUMENTS, f"bake: {bake!r} is not a number of seconds")
    return Overrides(None if bake is None else float(bake), strategy)
