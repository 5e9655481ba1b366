"""Runs an operator's command beside supervisord's loop, never inside it."""

from __future__ import annotations

import os
import pwd
import shlex
import signal
import subprocess
import tempfile
from typing import Any, Optional

from supervisor_hotreload.identity import Process
from supervisor_hotreload.model import Failure, Fault

TAIL = 2000
"""Bytes of the command's output that the answer shows."""


class CheckCommand:
    """``check = COMMAND``: its exit status decides whether the successor is adopted;
    ``check_before``: whether anything is touched at all.

    It runs as the program's user, in its directory and environment, and
    supervisord reaps it (supervisord.reap by options.pidhistory).

    :param process: supervisor's Subprocess of the program.
    :param command: split as a shell splits it, run without one.
    :param old: the master whose place the successor is to take.
    :param title: what to call it.
    :param fault: the kind of the Failure when it does not agree.
    :param user: an id to run as instead, where supervisord may choose.
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
    ) -> None:
        self._config = process.config
        self._history = process.config.options.pidhistory
        self._group = process.group.config.name
        self._name = name
        self._command = command
        self._old = old
        self._title = title or f"check ({command})"
        self._fault = fault
        self._uid = process.config.uid if user is None else user
        self._child: Optional[subprocess.Popen[bytes]] = None
        self._status: Optional[int] = None
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()

    def __call__(self, new: Optional[Process]) -> bool:
        """Return True when the command has agreed; the first call starts it.

        :raises Failure: when it has not.
        """
        if self._child is None:
            self._start(new)
        if self._status is None:
            return False
        if self._status == 0:
            return True
        code = os.waitstatus_to_exitcode(self._status)
        how = f"exited with status {code}" if code >= 0 else f"was killed by signal {-code}"
        raise Failure(self._fault, f"{self._title} {how}{self._tail()}")

    def finish(self, pid: int, sts: int) -> None:
        """Take the exit status; supervisord.reap calls this."""
        self._status = sts
        if self._child is not None:
            self._child.returncode = os.waitstatus_to_exitcode(sts)  # or subprocess waits for it

    def close(self) -> None:
        """End the command if it still runs, with all that it has started."""
        if self._child is not None and self._status is None:
            os.killpg(self._child.pid, signal.SIGKILL)
        self._output.close()

    def _start(self, new: Optional[Process]) -> None:
        try:
            self._child = subprocess.Popen(
                shlex.split(self._command),
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                cwd=self._config.directory,
                env=self._environment(new),
                start_new_session=True,
                **self._user(),
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise Failure(self._fault, f"{self._title} could not be run: {error}") from None
        self._history[self._child.pid] = self

    def _environment(self, new: Optional[Process]) -> dict[str, str]:
        environment = dict(os.environ, SUPERVISOR_PROCESS_NAME=self._config.name)
        environment["SUPERVISOR_GROUP_NAME"] = self._group
        environment.update(self._config.environment or {})
        environment.update(
            HOTRELOAD_PROGRAM=self._name,
            HOTRELOAD_OLD_PID=str(self._old.pid),
            HOTRELOAD_NEW_PID="" if new is None else str(new.pid),
        )
        return environment

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

    def _tail(self) -> str:
        self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, self._output.tell() - TAIL))
        text = self._output.read().decode("utf-8", "replace").strip()
        printable = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
        return f": {printable}" if printable else ""
