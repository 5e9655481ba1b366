"""Runs the operator's check as the wrapper would run the server."""

from __future__ import annotations

from typing import Callable

from supervisor_hotreload.system.check import JudgingCommand
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.wrapper.options import Options


class CheckCommand(JudgingCommand):
    """``--check COMMAND``.

    :param reapers: by pid, whom the wrapper tells that a child has ended.
    """

    def __init__(
        self, options: Options, old: Process, reapers: dict[int, Callable[[int, int], None]]
    ) -> None:
        super().__init__(options.name, options.policy.check or "", old)
        self._reapers = reapers

    def spawned(self, pid: int) -> None:
        self._reapers[pid] = self.finish
