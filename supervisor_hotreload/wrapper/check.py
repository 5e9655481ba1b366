"""Runs the operator's ``--check`` as hotreload-run runs the server."""

from __future__ import annotations

from supervisor_hotreload.system.check import JudgingCommand
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.wrapper.children import Children


class WrapperCheck(JudgingCommand):
    """A command with the user, the directory and the environment of hotreload-run.

    :param name: how messages call the server.
    :param command: split as a shell splits it, and run without one.
    :param old: the master that the successor is to replace.
    :param children: reaps the command.
    """

    def __init__(self, name: str, command: str, old: Process, children: Children) -> None:
        super().__init__(name, command, old)
        self._children = children

    def spawned(self, pid: int) -> None:
        self._children.reapers[pid] = self.finish
