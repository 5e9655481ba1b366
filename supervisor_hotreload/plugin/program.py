"""One program that supervisord runs: the process that it tracks, and its other generations.

This is the facade that the rest of the plugin uses. Its parts are adoption (which process
supervisord tracks), generations (which processes are of the program), hooks (what hotreload
does when supervisord acts), exit_hold and unwanted (what has to end), signals.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Callable, Optional, Protocol

from supervisor_hotreload.core.model import Failure
from supervisor_hotreload.plugin.adoption import Adoption
from supervisor_hotreload.plugin.exit_hold import ExitHold
from supervisor_hotreload.plugin.generations import Generations
from supervisor_hotreload.plugin.hooks import Reactions, hook
from supervisor_hotreload.plugin.process_view import ProcessView
from supervisor_hotreload.plugin.signals import end_masters, signal_adopted
from supervisor_hotreload.plugin.unwanted import Unwanted
from supervisor_hotreload.servers import AnyFamily
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World


class Observer(Protocol):
    """Gets to know what happens to a program, and decides about its reloads."""

    def relay(self, program: SupervisedProgram) -> bool:
        """Take a HUP for the program. False lets the signal through to it.

        :raises Failure: when the reload that the HUP asks for is refused.
        """

    def stopped(self, program: SupervisedProgram, reason: str) -> None:
        """Note that an operator stops the program, all generations of it."""

    def runs(self, program: SupervisedProgram) -> None:
        """Note that the program has been started and is RUNNING."""

    def inherited(self, program: SupervisedProgram) -> None:
        """Note that the old master has died, and that supervisord tracks its successor now."""

    def orphan_taken(self, program: SupervisedProgram) -> None:
        """Note that supervisord tracks a process that an earlier supervisord has left."""


class SupervisedProgram(ProcessView):
    """A program whose generations follow one another.

    :param process: supervisor's Subprocess.
    :param observer: called when something happens to the program.
    :param on_change: called when the processes of the program, or their sockets, are others.
    :param open_socket: returns the path of the program's notify socket, '' where it needs none.
    """

    def __init__(
        self,
        process: Any,
        world: World,
        observer: Observer,
        on_change: Callable[[], None],
        open_socket: Callable[[ProcessView], str],
    ) -> None:
        super().__init__(process, world)
        self.notify_socket = ""
        self.given_socket: Optional[str] = None
        """The notify socket in the environment of the running process. None where an earlier
        supervisord has started it, and this one cannot know."""
        self._observer = observer
        self._on_change = on_change
        self._open_socket = open_socket
        options = process.config.options
        self.generations = Generations(world, lambda pid: pid in options.pidhistory)
        view = ProcessView(process, world)
        self._adoption = Adoption(
            view,
            world,
            self.generations,
            send=self._end,
            on_change=on_change,
            on_inherited=lambda: observer.inherited(self),
        )
        self._hold = ExitHold(world, self.generations, self._adoption, self._end, self._warn)
        self.unwanted = Unwanted(world, lambda unwanted, sig: self._end([unwanted], sig))
        reactions = Reactions(
            inherits=self._inherits,
            holds=self._hold.hold,
            status=self._hold.status,
            ended=self._on_end,
            record=self._note_and_record,
            others=self.generations.others,
            stopped=self._stop_others,
            take_hup=self._relay,
            hup_passes=self.generations.looks.start,  # it may listen elsewhere after a HUP
            tend=self._tend,
            spawning=self._on_spawning,
            spawned=lambda: self.generations.note_spawn(self.pid),
        )
        hook(process, self.name, self.logger, reactions)

    def remember(self, master: Process, family: Optional[AnyFamily] = None) -> None:
        """Remember the master of the tracked generation, a child where a shell is tracked."""
        self.generations.note(self.pid)
        self.generations.note_master(master, family)
        self._record()

    def look(self) -> None:
        """Record what proves which processes are of the program, while they live.

        What cannot be seen is looked for again later; a reload says why it is refused.
        """
        with suppress(Unreadable):
            self.generations.note(self.pid)
            if self.generations.lineage is None:
                return
            self._observer.runs(self)
            self._record()
            lineage = self.generations.lineage
            if lineage.sockets and lineage.workers:  # sockets without workers may be too many
                self.generations.looks.stop()

    def proofs(self) -> list[tuple[Process, frozenset[int]]]:
        """Return the processes that the next supervisord may take, each with its sockets."""
        current = None if self.exit_is_held else self.current()
        sockets = self.generations.sockets
        return [(process, sockets) for process in self.generations.proven(current)]

    # -- adoption

    @property
    def exit_is_held(self) -> bool:
        """Whether the program is down, and supervisord waits for what is left of it."""
        return self._hold.active

    def adopt(self, new: Process) -> None:
        """Make *new* the process that supervisord tracks. The point of no return.

        :raises Failure: when *new* acts as another user than the master does.
        """
        self._adoption.adopt(new)

    def take_orphan(
        self, process: Process, started: float, pipes: dict[str, Any], previous: Iterable[Process]
    ) -> None:
        """Adopt what an earlier supervisord has left of the program, before autostart.

        :param started: seconds since the epoch.
        :param pipes: the reading ends of the pipes that it logs to.
        :param previous: the masters of earlier generations that still drain.
        """
        self.generations.add_previous(previous)
        self._adoption.adopt_orphan(process, started, pipes)

    # -- what ends

    def signal(self, pid: int, sig: int, kill: Callable[[int, int], None]) -> None:
        """Do what supervisord's ``options.kill(pid, sig)`` is to do for this program.

        :param kill: supervisord's own function.
        :raises ProcessLookupError: when the process has ended.
        """
        known = self.generations.lineage
        if known is None or not self._adoption.adopted:
            kill(pid, sig)
        else:
            signal_adopted(self._world, known, pid, sig, kill)

    # -- what happens at the hooks

    def listen(self) -> None:
        """Open the notify socket of the program, if its settings ask for one."""
        self.notify_socket = self.logger.guarded(lambda: self._open_socket(self), "", self.name)

    def _on_spawning(self) -> None:
        self.listen()
        self.given_socket = self.notify_socket

    def _inherits(self, pid: int, status: int) -> bool:
        return not self._hold.goes_on(pid) and self._adoption.inherit(pid, status)

    def _relay(self) -> tuple[bool, Optional[str]]:
        """Return whether a HUP was taken, and why its reload is refused."""
        try:
            return self._observer.relay(self), None
        except Failure as failure:
            return True, failure.reason

    def _stop_others(self, others: list[Process], sig: int) -> None:
        """Send the stop signal, which the tracked process has got, to *others* as well."""
        self.generations.add_previous(others)
        stopped = "stopped by an operator"
        self.logger.guarded(lambda: self._observer.stopped(self, stopped), None, self.name)
        self._end(others, sig)

    def _on_end(self) -> None:
        """Forget the processes of the program: all have ended."""
        self._adoption.stop_watching()
        self.generations.forget()
        self._hold.end()
        self._on_change()

    def _tend(self) -> None:
        """Do what is due. Called at every turn of supervisord's loop."""
        if self.generations.looks.are_due():
            self.look()
        self._hold.climb()
        for late in self.unwanted.tend(self.generations.successors):
            self._warn(
                f"{late}, the successor of a reload that was given up, has come late and is ended"
            )

    def _note_and_record(self) -> None:
        """Record what proves the others, before a stop: the program may have just been spawned."""
        self.generations.note(self.pid)
        self._record()

    def _record(self) -> None:
        if self.generations.record():
            self._on_change()

    def _end(self, masters: Iterable[Process], sig: int) -> None:
        end_masters(self._world, masters, sig, self.pid)

    def _warn(self, text: str) -> None:
        self.logger.warn(f"hotreload: {self.name}: {text}")
