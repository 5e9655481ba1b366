"""Runs a command that judges a release as hotreload-run runs the server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Optional

from supervisor_hotreload.core.model import Fault
from supervisor_hotreload.servers.trial import Trial
from supervisor_hotreload.system.check import JudgingCommand
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.wrapper.children import Children


class WrapperCheck(JudgingCommand):
    """Runs a command with the user, the directory and the environment of hotreload-run.

    :param name: how messages call the server.
    :param command: split as a shell splits it, and run without one.
    :param old: the master of the old generation.
    :param children: reaps the command.
    :param trial: what *command* is, when it tries the release before anything is touched.
    """

    def __init__(
        self,
        name: str,
        command: str,
        old: Process,
        children: Children,
        trial: Optional[Trial] = None,
    ) -> None:
        self._children = children
        self._trial = trial
        if trial is None:
            super().__init__(name, command, old)
        else:
            fault = Fault.TRIAL_FAILED
            super().__init__(name, command, old, trial.title, fault, run_as=trial.run_as)

    def environment(self) -> Mapping[str, str]:
        more = {} if self._trial is None else self._trial.environment
        return {**os.environ, **more}

    def spawned(self, pid: int) -> None:
        self._children.reapers[pid] = self.finish
