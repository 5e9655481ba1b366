"""Runs an operator's command as supervisord would run the program."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Optional

from supervisor_hotreload.core.model import Fault
from supervisor_hotreload.core.text import printable
from supervisor_hotreload.system.check import JudgingCommand
from supervisor_hotreload.system.command import RunAs
from supervisor_hotreload.system.process import Process


class ProgramCommand(JudgingCommand):
    """A command with the user, the directory and the environment of a program.

    supervisord reaps it (supervisord.reap calls finish of what options.pidhistory has).

    :param process: supervisor's Subprocess of the program.
    :param command: split as a shell splits it, and run without one.
    :param old: the master that the successor is to replace.
    :param title: how messages call the command.
    :param fault: the kind of the Failure when the command fails.
    :param run_as: another user, where the program's is root.
    :param more: variables that are added to the environment.
    """

    def __init__(
        self,
        process: Any,
        name: str,
        command: str,
        old: Process,
        title: str = "",
        fault: Fault = Fault.CHECK_FAILED,
        run_as: Optional[RunAs] = None,
        more: Optional[Mapping[str, str]] = None,
    ) -> None:
        self._config = config = process.config
        self._group = process.group.config.name
        self._more = more or {}
        if run_as is None or config.uid:  # only root may become another user
            run_as = RunAs(config.uid)
        super().__init__(name, command, old, title, fault, config.directory, config.umask, run_as)

    def environment(self) -> dict[str, str]:
        """Return the environment that supervisord gives to the program
        (supervisor.process.Subprocess._spawn_as_child)."""
        environment = dict(os.environ, SUPERVISOR_ENABLED="1")
        url = self._config.serverurl or self._config.options.serverurl
        if url:
            environment["SUPERVISOR_SERVER_URL"] = url
        environment["SUPERVISOR_PROCESS_NAME"] = self._config.name
        environment["SUPERVISOR_GROUP_NAME"] = self._group
        environment.update(self._config.environment or {})
        environment.update(self._more)
        return environment

    def hint(self) -> str:
        """Return as whom a trial was run, and the settings that help where it cannot be run."""
        if self._fault is not Fault.TRIAL_FAILED:
            return ""
        user = self._run_as.user
        by = "" if user is None else f" (as user {printable(str(user))})"
        return f"{by}; set check_before = COMMAND, or none"

    def spawned(self, pid: int) -> None:
        """Let supervisord call finish() when it reaps *pid*."""
        self._config.options.pidhistory[pid] = self
