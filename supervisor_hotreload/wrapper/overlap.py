"""Any server that cannot re-exec: a second copy is started, then the first one is ended.

Both need to be able to listen at once: on a descriptor that hotreload-run has
opened (--listen), on a unix socket's path, which the second copy binds anew, or
on a port with SO_REUSEPORT.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Callable, Optional

from supervisor_hotreload.core.model import Failure, Fault, Progress, Readiness
from supervisor_hotreload.core.protocol import Rung
from supervisor_hotreload.servers.gunicorn.heartbeat import Heartbeat
from supervisor_hotreload.servers.gunicorn.survey import GunicornGeneration, survey
from supervisor_hotreload.system.credentials import ids_of
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.sockets import is_bound_to
from supervisor_hotreload.system.world import World
from supervisor_hotreload.wrapper import listeners
from supervisor_hotreload.wrapper.child import CannotStart
from supervisor_hotreload.wrapper.files import Keepsake, is_own_file
from supervisor_hotreload.wrapper.listeners import Copy
from supervisor_hotreload.wrapper.options import Options

DRAIN = 300.0
"""Seconds that a server has to finish its requests when nothing else is set."""

DISMISSAL = 10.0
"""Seconds that a successor has, which nobody depends on, before SIGKILL."""

QUICK = 5.0
"""Seconds to wait after SIGKILL."""

STEADY = 1.0
"""Seconds that the number of accepting processes has to stay the same when there
are fewer of them than before: the new release may have fewer workers."""


class Overlap:
    """One reload of one server, bound to its old copy (protocol.Server).

    :param generation: set where the old copy is a gunicorn whose heartbeats can be read.
    :param start: starts the second copy.
    :param pidfile: a path the server may write its pid to, if it is known.
    """

    def __init__(
        self,
        world: World,
        old: Copy,
        generation: Optional[GunicornGeneration],
        options: Options,
        start: Callable[[], Process],
        pidfile: Optional[str],
    ) -> None:
        self._world = world
        self._old = old
        self._policy = options.policy
        self._start = start
        self._pidfile = pidfile
        self._warmup = options.warmup
        self._stop = options.stop_signal
        self._new: Optional[Process] = None
        self._began = world.now()
        self._heartbeat = None if generation is None else Heartbeat(world, generation.workers)
        self._count, self._since = 0, self._began
        self._baking: Optional[float] = None
        self._kept: list[Keepsake] = []
        self._frozen = False

    # -- before adoption

    def reexec(self) -> None:
        """Start the second copy, once.

        :raises Failure: when it cannot be executed.
        """
        if self._new is not None:
            return
        self._keep(self._old, self._pidfile)
        try:
            self._new = self._start()
        except CannotStart as error:
            raise Failure(Fault.NO_SUCCESSOR, str(error)) from None
        self._began = self._since = self._world.now()

    def successor(self) -> Optional[Process]:
        if not self.serving():
            raise Failure(Fault.OLD_EXITED, f"the old server ({self._old.master}) exited")
        return self._new

    def ready(self, new: Process) -> object:
        """Tell whether as many processes accept as in the old copy.

        gunicorn tells by its heartbeats, others by the listening socket in
        their epoll sets. Where the old copy uses no epoll, as many processes
        have to listen, and to live for the warm-up time.
        """
        self._must_live(new)
        if self._heartbeat is not None:
            found = survey(self._world, new, True)
            return Progress("no workers yet") if found is None else self._heartbeat(found.master)
        settles = self._policy.ready.kind == "settle"
        wanted = self._policy.ready.seconds if settles else self._warmup
        if self._world.now() - self._began < wanted:
            return Progress(f"has to live for {wanted:g} s")
        expected = self._old.accepting or self._old.listening
        if settles or not expected:
            return Readiness(max(expected, 1))
        return self._all_accept(new, expected)

    def _all_accept(self, new: Process, expected: int) -> object:
        found = listeners.survey(self._world, new)
        count = found.accepting if self._old.accepting else found.listening
        now = self._world.now()
        if count != self._count:
            self._count, self._since = count, now
        if count >= expected or (count and now - self._since >= STEADY):
            return Readiness(count)
        return Progress(f"{count}/{expected} processes listen", count, expected)

    def baked(self, new: Process, seconds: float) -> object:
        verdict = self.ready(new)
        if not verdict:
            raise Failure(Fault.BAKE_FAILED, f"the successor ({new}) did not stay ready")
        if self._baking is None:
            self._baking = self._world.now()
        return verdict if self._world.now() - self._baking >= seconds else False

    def serving(self) -> bool:
        return self._world.alive(self._old.master)

    def recall(self) -> None:
        """A copy that was asked for is there at once, or never."""

    def _must_live(self, new: Process) -> None:
        if not self._world.alive(new):
            raise Failure(Fault.SUCCESSOR_EXITED, f"the successor ({new}) exited")

    # -- the ladders

    def retirement(self) -> Iterator[Rung]:
        """The graceful signal, or, where the old copy would unlink what the new one
        has bound, a way to end that leaves the master no time to unlink anything."""
        self.close()
        assert self._new is not None
        new = listeners.survey(self._world, self._new)
        self._keep(new, self._pidfile if self._names(self._new) else None)
        patience = self._policy.drain_timeout or DRAIN
        if self._may_unlink(new) and self._can_freeze():
            yield Rung(self._freeze, patience)
        else:
            yield self._rung(self._old.master, patience)
        yield Rung(lambda: self._kill(self._old.master), QUICK)

    def dismissal(self, new: Process) -> Iterator[Rung]:
        self._mend()
        yield self._rung(listeners.survey(self._world, new).master, DISMISSAL)
        yield Rung(lambda: self._kill(new), QUICK)

    def _rung(self, master: Process, patience: float) -> Rung:
        def send() -> None:
            self._world.signal(master, self._stop)
            self._world.signal(master, "CONT")  # a stopped process hears nothing else

        return Rung(send, patience)

    def _freeze(self) -> None:
        self._frozen = self._world.signal(self._old.master, "STOP")
        for worker in self._old.workers:
            self._world.signal(worker, self._stop)

    def _kill(self, top: Process) -> None:
        below = self._world.children(top)
        self._world.signal(top, "KILL")
        for child in below:
            self._world.signal(child, "KILL")

    def _may_unlink(self, new: Copy) -> bool:
        """Tell whether both copies have a file of the same name."""
        paths = self._old.paths
        rebound = any(paths.get(path, inode) != inode for path, inode in new.paths.items())
        return rebound or self._names(new.tracked)

    def _can_freeze(self) -> bool:
        """Tell whether the workers finish without their master: each catches the signal."""
        workers = self._old.workers
        return bool(workers) and all(self._world.catches(w, self._stop) for w in workers)

    def _names(self, new: Process) -> bool:
        if self._pidfile is None:
            return False
        try:
            return self._world.read_pid(self._pidfile) == new.pid
        except ValueError:
            return False

    # -- after adoption

    def retired(self) -> object:
        """Return truthy when the old copy is gone; a frozen master goes with its last worker."""
        if self._new is not None:
            self._must_live(self._new)
        self._mend()
        old = self._old
        if self._world.alive(old.master):
            count = sum(map(self._world.alive, old.workers))
            if self._frozen and not count:
                self._world.signal(old.master, "KILL")
            return Progress(f"{count} old worker{'' if count == 1 else 's'} left", 0, count)
        return not self._world.alive(old.tracked)

    def dismissed(self, new: Process) -> bool:
        self._mend()
        return not self._world.alive(new)

    def promoted(self, new: Process) -> bool:
        """It is a copy like any other, from its start on."""
        return True

    # -- what the other one may take away

    def _keep(self, copy: Copy, pidfile: Optional[str]) -> None:
        """Keep the files of *copy*: what cannot be kept or is not its own is left alone."""
        ids = ids_of(copy.master.pid)
        for path, inode in copy.paths.items():
            with suppress(OSError):
                self._kept.append(Keepsake(path, ids, partial(is_bound_to, inode)))
        if pidfile is not None:
            with suppress(OSError):
                self._kept.append(Keepsake(pidfile, ids, lambda path: is_own_file(path, ids)))

    def _mend(self) -> None:
        for keepsake in self._kept:
            with suppress(OSError):  # its folder is gone, say: the server has to do without
                keepsake.mend()

    def close(self) -> None:
        """Leave nothing behind; called when the reload has ended."""
        for keepsake in self._kept:
            keepsake.drop()
        self._kept.clear()
