"""The running supervisord: its programs, what is hooked on it, and the clock of reloads."""

from __future__ import annotations

import os
from typing import Any, Callable, Optional

from supervisor import events
from supervisor.states import SupervisorStates

from supervisor_hotreload.core.model import Failure
from supervisor_hotreload.plugin import option_hooks
from supervisor_hotreload.plugin.compat import missing
from supervisor_hotreload.plugin.listener_pools import ListenerPools, is_ours, make_room
from supervisor_hotreload.plugin.log import Log
from supervisor_hotreload.plugin.loop import Tick
from supervisor_hotreload.plugin.notify_socket import NotifySockets
from supervisor_hotreload.plugin.process_view import ProcessView
from supervisor_hotreload.plugin.program import Observer, SupervisedProgram
from supervisor_hotreload.plugin.recovery import Recovery
from supervisor_hotreload.plugin.settings_file import SettingsFile
from supervisor_hotreload.system.linux import become_subreaper
from supervisor_hotreload.system.world import World


class SeamMissing(Exception):
    """This version of supervisor lacks something that hotreload needs."""


class Supervisord:
    """Finds the programs of one supervisord, and follows the events that change them.

    :param supervisord: supervisor's Supervisor.
    :param observer: called when something happens to a program.
    :param step: called at every tick while the tick is on.
    :param settings: say which programs need a notify socket, and whether supervisord may become
        the parent of orphaned processes.
    :raises SeamMissing: with one line that names what supervisord lacks.
    """

    def __init__(
        self,
        supervisord: Any,
        world: World,
        settings: SettingsFile,
        observer: Observer,
        step: Callable[[], None],
    ) -> None:
        lacking = missing(supervisord)
        if lacking:
            raise SeamMissing(
                f"hotreload cannot work with this version of supervisor, which lacks: "
                f"{', '.join(lacking)}"
            )
        self.supervisord = supervisord
        self.options = supervisord.options
        self.logger = Log(self.options.logger)
        self.subreaper = False
        self.tick = Tick(self.options.get_socket_map(), self.logger, step)
        self.notify_sockets = NotifySockets(self.options, world.notices)
        self._world = world
        self._observer = observer
        self._settings = settings
        self._programs: dict[int, SupervisedProgram] = {}
        self._listeners = ListenerPools()
        path = beside_pidfile(self.options, ".hotreload.record") if self.options.pidfile else ""
        self._recovery = Recovery(world, settings, observer, path, self.logger)
        option_hooks.hook_kill(self.options, self._program_of)
        option_hooks.hook_waitpid(self.options, lambda: self.subreaper, self.logger)
        option_hooks.hook_execve(self.options, self.member)
        option_hooks.hook_cleanup(self.options, self.notify_sockets.close)
        for group in supervisord.process_groups.values():
            self._add(group)
        make_room(supervisord.process_groups.values())
        self._subscribe(events.ProcessGroupAddedEvent, self._on_group_added)
        self._subscribe(events.ProcessGroupRemovedEvent, self._on_group_removed)
        self._subscribe(events.ProcessStateRunningEvent, self._on_running)
        self._subscribe(events.SupervisorRunningEvent, self._on_supervisor_running)

    @property
    def stopping(self) -> bool:
        return bool(self.options.mood < SupervisorStates.RUNNING)

    # -- programs and listeners

    def groups(self) -> dict[str, list[SupervisedProgram]]:
        """Return every program by group, in the order in which supervisord starts them."""
        return {
            group.config.name: self.members(group.config.name)
            for group in sorted(self.supervisord.process_groups.values())
        }

    def members(self, name: str) -> list[SupervisedProgram]:
        """Return the programs of group *name*, by priority and name.

        :raises KeyError: when there is no such group.
        """
        processes = list(self.supervisord.process_groups[name].processes.values())
        processes.sort(key=lambda process: (process.config.priority, process.config.name))
        found = (self._program_of(process) for process in processes)
        return [program for program in found if program is not None]

    def member(self, group: str, name: str) -> SupervisedProgram:
        """Return the program *name* of a group.

        :raises KeyError: when there is no such program.
        """
        return self._programs[id(self.supervisord.process_groups[group].processes[name])]

    def pools(self) -> list[Any]:
        """Return the event listener pools (supervisor's EventListenerPool)."""
        groups = self.supervisord.process_groups.values()
        return [group for group in groups if hasattr(group, "event_buffer")]

    def listeners(self) -> list[str]:
        """Return the names of the event listener pools that run hotreload-listener."""
        return [str(pool.config.name) for pool in self.pools() if is_ours(pool)]

    def listener_age(self) -> float:
        """Return the seconds since the first such pool was added, 0.0 without one."""
        return self._listeners.age()

    def programs(self) -> list[SupervisedProgram]:
        """Return every program, in the order in which supervisord starts them."""
        return [one for members in self.groups().values() for one in members]

    def _write_record(self) -> None:
        """Record which processes are of which program, for the next supervisord."""
        self._recovery.write(self._programs.values())

    def _notify_socket(self, program: ProcessView) -> str:
        """Return where the program is to send READY=1, '' where it need not."""
        try:
            needed = self._settings.policy(program).ready.kind == "notify"
        except Failure:
            needed = False  # a setting is bad: its reloads are refused
        return self.notify_sockets.open(program.name, program.process) if needed else ""

    def _program_of(self, process: Any) -> Optional[SupervisedProgram]:
        """Return the program of a Subprocess, None for anything else."""
        return self._programs.get(id(process))

    def _add(self, group: Any) -> None:
        if hasattr(group, "event_buffer"):  # supervisord talks to listeners over their pipes
            self._listeners.add(group)
            return
        for process in group.processes.values():
            self._programs[id(process)] = SupervisedProgram(
                process, self._world, self._observer, self._write_record, self._notify_socket
            )

    # -- the events of supervisord

    def _subscribe(self, kind: Any, callback: Callable[[Any], None]) -> None:
        events.subscribe(kind, lambda event: self.logger.guarded(lambda: callback(event), None))

    def _on_group_added(self, event: Any) -> None:
        self._add(self.supervisord.process_groups[event.group])
        make_room(self.supervisord.process_groups.values())

    def _on_group_removed(self, _event: Any) -> None:
        self._programs = {id(program.process): program for program in self.programs()}
        self.notify_sockets.close_all_but(program.name for program in self._programs.values())

    def _on_running(self, event: Any) -> None:
        program = self._program_of(event.process)
        if program is not None:
            program.look()

    def _on_supervisor_running(self, _event: Any) -> None:
        """Become a subreaper, and adopt what is left of an earlier supervisord.

        Not before: supervisord forks to daemonize, and a fork is no subreaper.
        """
        self.subreaper = self._world.subreaper = (
            self._settings.use_subreaper() and become_subreaper()
        )
        if not self.subreaper:
            self.logger.warn(
                "hotreload: supervisord is no subreaper on this system; new generations are "
                "adopted by watching, and their exit statuses are unknown"
            )
        programs = list(self._programs.values())
        for program in programs:
            program.listen()
        self._recovery.start(programs)


def beside_pidfile(options: Any, ending: str) -> str:
    """Return the path of a file of hotreload's, beside supervisord's pidfile."""
    pidfile = os.path.abspath(options.pidfile or options.logfile or "supervisord.pid")
    return os.path.splitext(pidfile)[0] + ending
