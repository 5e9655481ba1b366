"""Runs an operator's command as supervisord would run the program."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from typing import Any, Optional

from supervisor_hotreload.checks import Check
from supervisor_hotreload.identity import Process
from supervisor_hotreload.model import Fault


class CheckCommand(Check):
    """It runs as the program's user, in its directory and environment, and
    supervisord reaps it (supervisord.reap by options.pidhistory).

    :param process: supervisor's Subprocess of the program.
    :param command: split as a shell splits it, run without one.
    :param old: the master whose place the successor is to take.
    :param title: what to call it.
    :param fault: the kind of the Failure when it does not agree.
    :param user: an id to run as instead, where supervisord may choose.
    :param told: more variables of its environment.
    """

    def __init__(
        self,
        process: Any,
        name: str,
        command: str,
        old: Process,
        title: str = "",
        fault: Fault = Fault.CHECK_FAILED,
        user: Optional[int] = None,
        told: Optional[Mapping[str, str]] = None,
    ) -> None:
        super().__init__(name, command, old, title, fault)
        self._config = process.config
        self._group = process.group.config.name
        self._uid = process.config.uid if user is None else user
        self._told = told or {}

    def environment(self) -> dict[str, str]:
        """As supervisor.process.Subprocess._spawn_as_child makes it."""
        environment = dict(os.environ, SUPERVISOR_ENABLED="1")
        url = self._config.serverurl or self._config.options.serverurl
        if url:
            environment["SUPERVISOR_SERVER_URL"] = url
        environment["SUPERVISOR_PROCESS_NAME"] = self._config.name
        environment["SUPERVISOR_GROUP_NAME"] = self._group
        environment.update(self._config.environment or {})
        environment.update(self._told)
        return environment

    def options(self) -> dict[str, Any]:
        umask = -1 if self._config.umask is None else self._config.umask
        return {"cwd": self._config.directory, "umask": umask, **self._user()}

    def hint(self) -> str:
        if self._fault is not Fault.TRIAL_FAILED:
            return ""
        user = "" if self._uid is None else f" (as user {self._uid})"
        return f"{user}; set check_before = COMMAND, or none"

    def spawned(self, pid: int) -> None:
        self._config.options.pidhistory[pid] = self

    def _user(self) -> dict[str, Any]:
        """Return what makes it run as the program's user (options.drop_privileges)."""
        uid = self._uid
        if uid is None or os.getuid() != 0:
            return {}
        try:
            user = pwd.getpwuid(uid)
        except KeyError:  # a number only, as in containers: the group of that number
            return {"user": uid, "group": uid, "extra_groups": []}
        groups = os.getgrouplist(user.pw_name, user.pw_gid)
        return {"user": uid, "group": user.pw_gid, "extra_groups": groups}
