"""Finds out which server a program runs now, and says what serves."""

from __future__ import annotations

from dataclasses import replace
from typing import Optional

from supervisor_hotreload import servers
from supervisor_hotreload.core.model import Failure, Fault, Outcome
from supervisor_hotreload.core.reload import Reload
from supervisor_hotreload.core.text import counted
from supervisor_hotreload.plugin.log import Log
from supervisor_hotreload.plugin.program import SupervisedProgram
from supervisor_hotreload.plugin.settings_file import SettingsFile
from supervisor_hotreload.servers import AUTO, AnyFamily, Found
from supervisor_hotreload.servers.generation import Generation
from supervisor_hotreload.servers.release_guard import release_advice
from supervisor_hotreload.system.world import World


class Survey:
    """Looks at the processes of one program at a time.

    :param settings: which say the strategy and the pidfile of each program.
    """

    def __init__(self, world: World, settings: SettingsFile, log: Log) -> None:
        self._world = world
        self._settings = settings
        self._log = log

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

    # -- what serves

    def serving(self, program: SupervisedProgram) -> str:
        """Return a sentence that says what serves now."""
        if program.exit_is_held:
            return (
                f"nothing serves: pid {program.pid} of {program.name} finishes its requests, then "
                f"supervisord reports its exit and does as autorestart says"
            )
        if not program.pid or not (program.running or program.starting):
            return f"nothing serves: {program.name} is {program.state}"
        if program.current() is None:
            return f"nothing serves: pid {program.pid} of {program.name} has ended"
        count = self._workers(program)
        if not count and program.starting:
            return f"nothing serves yet: {program.name} (pid {program.pid}) is {program.state}"
        workers = f", {counted(count, 'worker')}" if count else ""
        return f"generation {program.generations.number} (pid {program.pid}{workers}) serves"

    def serving_after(self, program: SupervisedProgram, old: Generation, reload: Reload) -> str:
        """Return a sentence that says what serves now that *reload* has ended.

        :param old: the generation that it was to replace.
        """
        living = program.current() is not None and not program.exit_is_held
        if reload.adopted and reload.fault is Fault.SUCCESSOR_EXITED and living:
            return (
                f"nothing serves: generation {program.generations.number} (pid {program.pid}) "
                f"ends, then supervisord does as autorestart says"
            )
        sentence = self.serving(program)
        in_place = reload.new_pid == reload.old_pid != 0
        failed = reload.outcome is Outcome.FAILED and in_place and reload.adopted
        if failed and program.running and self._world.alive(old.master):
            sentence += f"; {self._origin_of_workers(old)}"
        if program.running:
            directory, rights = program.directory, program.rights
            sentence += release_advice(reload, self._world, directory, rights, old.master)
        return sentence

    def _workers(self, program: SupervisedProgram) -> int:
        """Return how many workers serve, 0 where that cannot be seen."""
        try:
            found = self.found(program)
        except Exception as error:  # noqa: BLE001 - a report must not fail what it reports
            self._log.as_failure(error, program.name)
            return 0
        return found.old.workers if found is not None else 0

    def _origin_of_workers(self, old: Generation) -> str:
        """Return whose workers a master has after its reload in place has failed."""
        children = set(self._world.children(old.master))
        if children.isdisjoint(old.children):
            return "its workers are new ones"
        if children <= old.children:
            return "its workers are the old ones"
        return "its workers may be of either release"
