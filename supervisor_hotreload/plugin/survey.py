"""Finds out which server a program runs now."""

from __future__ import annotations

from dataclasses import replace
from typing import Optional

from supervisor_hotreload import servers
from supervisor_hotreload.core.model import Failure
from supervisor_hotreload.plugin.program import SupervisedProgram
from supervisor_hotreload.plugin.settings_file import SettingsFile
from supervisor_hotreload.servers import AUTO, AnyFamily, Found
from supervisor_hotreload.system.world import World


class Survey:
    """Looks at the processes of one program at a time.

    :param settings: which say the strategy and the pidfile of each program.
    """

    def __init__(self, world: World, settings: SettingsFile) -> None:
        self._world = world
        self._settings = settings

    def look(self, program: SupervisedProgram, strategy: Optional[str] = None) -> Optional[Found]:
        """Return the server that *program* runs, None where no family recognises one.

        :param strategy: looked for instead of the configured one.
        :raises Ambiguous: when several servers may be the program.
        """
        tracked = program.current()
        if tracked is None:
            return None
        configured = program.program
        try:
            policy = self._settings.policy(program)
            strategy = strategy or policy.strategy
            configured = replace(configured, pidfile=policy.pidfile)
        except Failure:  # a bad setting refuses a reload; what serves can still be said
            strategy = AUTO
        return servers.family_of(self._world, tracked, configured, strategy)

    def found(self, program: SupervisedProgram, strategy: Optional[str] = None) -> Optional[Found]:
        """Return the same, and None where several servers may be the program."""
        try:
            return self.look(program, strategy)
        except servers.Ambiguous:
            return None

    def booting(self, program: SupervisedProgram) -> Optional[AnyFamily]:
        """Return the family of a server that runs and has no workers yet."""
        tracked = program.current()
        return servers.booting_family(self._world, tracked) if tracked is not None else None
