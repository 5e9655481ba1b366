"""supervisord as hotreload sees it: its programs, its loop, its log."""

from __future__ import annotations

import contextlib
import math
import os
import time
import traceback
from typing import Any, Callable, Optional

from supervisor import events
from supervisor.states import SupervisorStates

from supervisor_hotreload.core.model import Failure
from supervisor_hotreload.plugin import orphans
from supervisor_hotreload.plugin.compat import missing
from supervisor_hotreload.plugin.events import (
    channel,
    hand_over,
    is_ours,
    make_findable,
    make_room,
)
from supervisor_hotreload.plugin.log import Log
from supervisor_hotreload.plugin.loop import Tick
from supervisor_hotreload.plugin.notify_socket import NotifySockets
from supervisor_hotreload.plugin.program import Observer, SupervisedProgram
from supervisor_hotreload.plugin.record import Proofs, Record
from supervisor_hotreload.system.linux import become_subreaper
from supervisor_hotreload.system.world import World

ORPHANS_AT_ONCE = 100
"""Orphans of others that are reaped in one turn of supervisord's loop."""


class SeamMissing(Exception):
    """This supervisord is not one that hotreload knows how to work with."""


class Supervisord:
    """One running supervisord.

    :param supervisord: supervisor's Supervisor.
    :param observer: told what happens to programs.
    :param step: called at every tick while the tick is on.
    :raises SeamMissing: with one line that names what supervisord lacks.
    """

    def __init__(
        self,
        supervisord: Any,
        world: World,
        observer: Observer,
        step: Callable[[], None],
        use_subreaper: bool = True,
    ) -> None:
        lacking = missing(supervisord)
        if lacking:
            raise SeamMissing(
                "hotreload cannot work with this version of supervisor, it lacks: "
                + ", ".join(lacking)
            )
        self.supervisord = supervisord
        self.options = supervisord.options
        self.logger = Log(supervisord.options.logger)
        self.subreaper = False
        self.tick = Tick(self.options.get_socket_map(), self.logger, step)
        self.notify_sockets = NotifySockets(self.options, world.notices)
        self._world = world
        self._observer = observer
        self._use_subreaper = use_subreaper
        self._tracked: dict[int, SupervisedProgram] = {}
        path = beside_pidfile(self.options, ".hotreload.record") if self.options.pidfile else ""
        self._record = Record(path)
        self._recording = False
        self._trouble = ""
        self._orphans, self._orphans_said = 0, -math.inf
        self._listeners: dict[str, Any] = {}
        self._listeners_since = 0.0
        self._hook_signals()
        self._hook_reaping()
        self._hook_exec()
        self._hook_cleanup()
        for group in supervisord.process_groups.values():
            self._take_on(group)
        make_room(supervisord.process_groups.values())
        self._subscribe(events.ProcessGroupAddedEvent, self._on_group_added)
        self._subscribe(events.ProcessGroupRemovedEvent, self._on_group_removed)
        self._subscribe(events.ProcessStateRunningEvent, self._on_running)
        self._subscribe(events.SupervisorRunningEvent, self._on_supervisor_running)

    def _subscribe(self, kind: Any, callback: Callable[[Any], None]) -> None:
        def guarded(event: Any) -> None:
            try:
                callback(event)
            except Exception:  # noqa: BLE001 - it would end supervisord
                self.logger.critical(f"hotreload: {traceback.format_exc()}")

        events.subscribe(kind, guarded)

    @property
    def stopping(self) -> bool:
        return bool(self.options.mood < SupervisorStates.RUNNING)

    # -- programs

    def groups(self) -> dict[str, list[SupervisedProgram]]:
        """Return every program by group, in supervisord's own order of start."""
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
        return [self._tracked[id(process)] for process in processes if id(process) in self._tracked]

    def member(self, group: str, name: str) -> SupervisedProgram:
        """Return one program.

        :raises KeyError: when there is none of that name.
        """
        process = self.supervisord.process_groups[group].processes[name]
        return self._tracked[id(process)]

    def pools(self) -> list[Any]:
        """Return the event listener pools (supervisor's EventListenerPool)."""
        groups = self.supervisord.process_groups.values()
        return [group for group in groups if hasattr(group, "event_buffer")]

    def _take_on(self, group: Any) -> None:
        if is_ours(group):
            self._take_on_listener(group)
        if hasattr(group, "event_buffer"):
            return  # an event listener pool: supervisord talks to these over pipes
        for process in group.processes.values():
            self._tracked[id(process)] = SupervisedProgram(process, self._world, self._observer)

    def _take_on_listener(self, pool: Any) -> None:
        make_findable(pool)
        former = self._listeners.get(pool.config.name)
        if former is not None:
            hand_over(former, pool)
        self._listeners[pool.config.name] = pool
        self._listeners_since = self._listeners_since or time.monotonic()

    def listeners(self) -> list[str]:
        """Return the names of our event listener pools."""
        return [str(pool.config.name) for pool in self.pools() if is_ours(pool)]

    def listener_age(self) -> float:
        """Return for how many seconds there has been a listener of ours, 0 for never."""
        return time.monotonic() - self._listeners_since if self._listeners_since else 0.0

    def _on_group_added(self, event: Any) -> None:
        self._take_on(self.supervisord.process_groups[event.group])
        make_room(self.supervisord.process_groups.values())

    def _on_group_removed(self, event: Any) -> None:
        kept = {
            id(process)
            for group in self.supervisord.process_groups.values()
            for process in group.processes.values()
        }
        self._tracked = {key: value for key, value in self._tracked.items() if key in kept}
        self.notify_sockets.close_all_but(tracked.name for tracked in self._tracked.values())

    def _on_running(self, event: Any) -> None:
        tracked = self._tracked.get(id(event.process))
        if tracked is not None:
            tracked.look()

    # -- supervisord itself

    def _on_supervisor_running(self, _event: Any) -> None:
        """Daemonizing forks, and a subreaper is one process: so not before now."""
        self.subreaper = self._world.subreaper = self._use_subreaper and become_subreaper()
        if not self.subreaper:
            self.logger.warn(
                "hotreload: this system has no subreaper; new generations are adopted by watching"
            )
        for tracked in list(self._tracked.values()):
            tracked.listen()
        recorded = self._record.read()
        users = {orphans.user_of(tracked) for tracked in self._tracked.values()}
        strays = orphans.strays(self._world, users)
        for tracked in list(self._tracked.values()) if strays or recorded else ():
            self._find_orphan(tracked, recorded.get(tracked.name, []), strays)
        self._recording = True
        self.keep_record()

    def keep_record(self) -> None:
        """Record whose the processes are, for the next supervisord, should this one be killed."""
        if not self._recording:
            return
        try:
            self._record.write({t.name: t.proofs() for t in self._tracked.values()})
            self._trouble = ""
        except OSError as error:
            if self._trouble != str(error):
                self._trouble = str(error)
                self.logger.warn(
                    f"hotreload: no record can be kept of what runs ({error}): after supervisord "
                    f"is killed the next one adopts only what it can tell without one"
                )

    def _find_orphan(
        self, tracked: SupervisedProgram, recorded: Proofs, strays: list[orphans.Stray]
    ) -> None:
        """Take what an earlier supervisord has left of a program, instead of a second copy."""
        try:
            if not self._observer.adopts_orphans(tracked):
                return
            process = orphans.find(
                self._world, tracked, recorded, strays, self._observer.strategy(tracked)
            )
            if process is None:
                return
            pipes = orphans.reopen_pipes(process, tracked.process.config.redirect_stderr)
            previous = orphans.before(self._world, recorded, process)
            tracked.take_orphan(process, orphans.started_at(process), pipes, previous)
            self.logger.warn(
                f"hotreload: {tracked.name}: {process} was left by an earlier supervisord and is "
                f"adopted by watching; its exit status will not be known"
            )
            self._observer.orphan_taken(tracked)
        except LookupError as doubt:
            self.logger.warn(f"hotreload: {tracked.name}: not adopted: {doubt}")
        except Failure:
            self.logger.warn(f"hotreload: {tracked.name}: not looked for: a setting of it is bad")
        except Exception:  # noqa: BLE001 - it would end supervisord
            self.logger.critical(f"hotreload: {tracked.name}: {traceback.format_exc()}")

    def _hook_signals(self) -> None:
        """stopasgroup and killasgroup signal -pid, which is no group after an adoption;
        and a process that supervisord does not reap may be gone."""
        options, kill = self.options, self.options.kill

        def hooked_kill(pid: int, signal: int) -> None:
            tracked = self._tracked.get(id(options.pidhistory.get(abs(pid))))
            if tracked is None:
                kill(pid, signal)
            else:
                tracked.signal(pid, signal, kill)

        options.kill = hooked_kill

    def _hook_reaping(self) -> None:
        """Reap the orphans of others without a line each (supervisord.reap): a subreaper is
        handed all, and any program may make as many as it likes."""
        options, waitpid = self.options, self.options.waitpid

        def hooked_waitpid() -> tuple[Any, Any]:
            for _ in range(ORPHANS_AT_ONCE):
                pid, status = waitpid()
                if not pid or pid in options.pidhistory or not self.subreaper:
                    return pid, status
                self._note_orphan()
            return None, None  # the rest at the next turn

        options.waitpid = hooked_waitpid

    def _note_orphan(self) -> None:
        """Say now and then how many were reaped."""
        self._orphans += 1
        now = time.monotonic()
        if now - self._orphans_said >= 60.0:
            self.logger.info(
                f"hotreload: reaped {self._orphans} orphans of programs since the last such line"
            )
            self._orphans, self._orphans_said = 0, now

    def _hook_exec(self) -> None:
        """Tell a program the name of its directory, as a shell does.

        supervisord changes into ``directory`` and leaves its own PWD in the
        environment; gunicorn then re-execs in what a ``current`` symlink
        pointed to when it was first started (gunicorn util.getcwd).
        """
        options, execve = self.options, self.options.execve

        def hooked_execve(filename: str, argv: list[str], env: dict[str, str]) -> None:
            with contextlib.suppress(Exception):  # a nicety must not keep a program from starting
                tracked = self._by_name(env)
                if tracked is not None:
                    env.update(working_directory(tracked.process.config))
                    env.update(channel(tracked.process.config))
                    if tracked.notify_socket:
                        env["NOTIFY_SOCKET"] = tracked.notify_socket
            execve(filename, argv, env)

        options.execve = hooked_execve

    def _hook_cleanup(self) -> None:
        """Leave no socket behind when supervisord ends or reloads itself."""
        options, cleanup = self.options, self.options.cleanup

        def hooked_cleanup() -> None:
            with contextlib.suppress(Exception):  # supervisord has to go on
                self.notify_sockets.close()
            cleanup()

        options.cleanup = hooked_cleanup

    def _by_name(self, env: dict[str, str]) -> Optional[SupervisedProgram]:
        """Return the program whose names supervisord has put into *env*."""
        try:
            return self.member(env["SUPERVISOR_GROUP_NAME"], env["SUPERVISOR_PROCESS_NAME"])
        except KeyError:
            return None


def beside_pidfile(options: Any, ending: str) -> str:
    """Return the path of a file of ours, beside supervisord's pidfile."""
    pidfile = os.path.abspath(options.pidfile or options.logfile or "supervisord.pid")
    return os.path.splitext(pidfile)[0] + ending


def working_directory(config: Any) -> dict[str, str]:
    """Return PWD for a program that has a ``directory`` and is in it now."""
    if config.directory is None or "PWD" in (config.environment or {}):
        return {}
    directory = os.path.abspath(config.directory)
    return {"PWD": directory} if os.path.samefile(directory, os.curdir) else {}
