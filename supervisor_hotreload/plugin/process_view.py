"""One process as supervisord has it: its name, its state and its configuration."""

from __future__ import annotations

import os
import signal
from typing import Any, Optional

from supervisor.options import make_namespec
from supervisor.states import ProcessStates, getProcessStateDescription

from supervisor_hotreload.plugin.log import Log
from supervisor_hotreload.servers import Program
from supervisor_hotreload.system.credentials import NOBODY, Ids, ids_of
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World

GIVEN = ("SUPERVISOR_ENABLED", "SUPERVISOR_PROCESS_NAME", "SUPERVISOR_GROUP_NAME")
"""The variables by which supervisord names a program to it."""

URL = "SUPERVISOR_SERVER_URL"
"""The variable that names supervisord's own server."""


class ProcessView:
    """Reads supervisor's Subprocess, which is untyped. Changes nothing.

    :param process: supervisor's Subprocess.
    """

    def __init__(self, process: Any, world: World) -> None:
        self.process = process
        self._world = world

    @property
    def name(self) -> str:
        """The name as supervisorctl prints it: 'group:process' or 'process'."""
        return str(make_namespec(self.group, self.process.config.name))

    @property
    def group(self) -> str:
        return str(self.process.group.config.name)

    @property
    def pid(self) -> int:
        """The pid that supervisord tracks, 0 when the program is down."""
        return int(self.process.pid)

    @property
    def state(self) -> str:
        """The state of the program in supervisord's words ('RUNNING')."""
        return str(getProcessStateDescription(self.process.state))

    @property
    def running(self) -> bool:
        return bool(self.process.state == ProcessStates.RUNNING)

    @property
    def starting(self) -> bool:
        return bool(self.process.state in (ProcessStates.STARTING, ProcessStates.BACKOFF))

    @property
    def watched(self) -> bool:
        """Whether the tracked process is not a child of supervisord."""
        return bool(self.pid) and not self._world.is_child(self.pid)

    @property
    def directory(self) -> str:
        return str(self.process.config.directory or os.getcwd())

    @property
    def user(self) -> int:
        """The user id that the program is configured to run as."""
        uid = self.process.config.uid
        return os.geteuid() if uid is None else int(uid)

    @property
    def rights(self) -> Ids:
        """The ids with which the program's files are read.

        They are those of its process, if that acts as the configured user, or if the program
        is root's and its process has dropped to another user.
        """
        user = self.user
        seen = ids_of(self.pid) if self.pid else None
        if seen is not None and seen.user is not None and user in (seen.user, 0):
            return seen
        return Ids.of_user(user, os.getegid() if user == 0 else NOBODY)

    @property
    def given(self) -> dict[str, str]:
        """The variables by which supervisord names a program to itself
        (supervisor.process.Subprocess._spawn_as_child)."""
        config = self.process.config
        given = dict(zip(GIVEN, ("1", config.name, self.group)))
        url = config.serverurl or config.options.serverurl
        return {**given, URL: url} if url else given

    @property
    def program(self) -> Program:
        """The program as it is configured."""
        config = self.process.config
        return Program(
            name=self.name,
            command=str(config.command),
            directory=self.directory,
            environment=dict(config.environment or {}),
            stopsignal=signal.Signals(config.stopsignal).name[3:],
            user=config.uid,
            rights=self.rights,
        )

    @property
    def logger(self) -> Log:
        return Log(self.process.config.options.logger)

    def current(self) -> Optional[Process]:
        """Return the process that supervisord tracks, None when it has ended."""
        return self._world.lookup(self.pid) if self.pid else None
