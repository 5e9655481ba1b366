"""Reloads a server that cannot start its own successor: starts a second copy, ends the first.

Both copies have to be able to listen at once: on a descriptor that hotreload-run has opened
(--listen), on the path of a unix socket, which the second copy binds anew, or on a port with
SO_REUSEPORT.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Optional

from supervisor_hotreload.core.model import Failure, Fault, Progress, Readiness
from supervisor_hotreload.core.protocol import Rung
from supervisor_hotreload.servers.readiness import STEADY_SECONDS, Probe
from supervisor_hotreload.servers.recognition import Found
from supervisor_hotreload.servers.signals import QUICK_SECONDS, rung
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World
from supervisor_hotreload.wrapper.children import Children
from supervisor_hotreload.wrapper.copy_survey import ServerCopy, survey
from supervisor_hotreload.wrapper.files import ProtectedFiles
from supervisor_hotreload.wrapper.launch import CannotStart, Launch, Launcher
from supervisor_hotreload.wrapper.options import RunOptions

COPY_DRAIN_SECONDS = 300.0
"""How long a server has to finish its requests when nothing else is set."""

REFUSED_SECONDS = 10.0
"""How long a refused copy, on which nobody depends, has before SIGKILL."""


@dataclass
class Overlap:
    """One reload by a second copy, bound to the old one (protocol.Server).

    :param launcher: starts the second copy.
    :param children: reaps it.
    :param old: the copy that serves now.
    :param found: what the old copy is, where its family can prove that a copy is ready.
    """

    world: World
    options: RunOptions
    launcher: Launcher
    children: Children
    old: ServerCopy
    found: Optional[Found]

    def __post_init__(self) -> None:
        self._policy = self.options.policy
        self._probe: Optional[Probe] = None
        if self.found is not None:
            self._probe = self.found.family.probe(self.world, self.found.old, self._policy.ready)
        self._files = ProtectedFiles(self.options.pidfile)
        self._new: Optional[Launch] = None
        self._began: Optional[float] = None
        self._count, self._since = 0, 0.0
        self._baking: Optional[float] = None
        self._is_frozen = False

    # -- before adoption

    def reexec(self) -> None:
        """Start the second copy, once.

        :raises Failure: when there can be none.
        """
        if self._new is not None:
            return
        self._files.protect(self.old.master, self.old.paths, with_pidfile=True)
        try:
            self._new = self.launcher.start()
        except CannotStart as error:
            raise Failure(Fault.NO_SUCCESSOR, str(error)) from None
        self.children.reapers[self._new.process.pid] = self._new.reaped

    def successor(self) -> Optional[Process]:
        """Return the second copy once it has executed the command.

        :raises Failure: when that is impossible.
        """
        if not self.serving():
            raise Failure(Fault.OLD_EXITED, f"the old server ({self.old.master}) exited")
        if self._new is None or not self._new.is_executed():
            return None
        if self._new.trouble():
            raise Failure(Fault.NO_SUCCESSOR, self._new.trouble())
        return self._new.process

    def ready(self, new: Process) -> object:
        """Return truthy when as many processes accept as in the old copy.

        A family proves it in its own way, gunicorn by its heartbeats; of any other server the
        listening socket in the epoll sets is the proof. Where the old copy uses no epoll, as
        many processes have to listen, and to live for the warm-up time.
        """
        self._must_live(new)
        now = self.world.now()
        if self._began is None:  # the command was executed a moment ago
            self._began = self._since = now
        if self.found is not None and self._probe is not None:
            copy = self.found.family.survey(self.world, new, self.options.program)
            return Progress("no workers yet") if copy is None else self._probe(copy.master)
        settles = self._policy.ready.kind == "settle"
        wanted = self._policy.ready.seconds if settles else self.options.warmup
        if now - self._began < wanted:
            return Progress(f"it has to live for {wanted:g} s")
        expected = self.old.accepting or self.old.listening
        if settles or not expected:
            return Readiness(max(expected, 1))
        return self._all_accept(new, expected, now)

    def _all_accept(self, new: Process, expected: int, now: float) -> object:
        found = survey(self.world, new)
        count = found.accepting if self.old.accepting else found.listening
        if count != self._count:
            self._count, self._since = count, now
        if count >= expected or (count and now - self._since >= STEADY_SECONDS):
            return Readiness(count)  # the new release may have fewer workers
        return Progress(f"{count} of {expected} processes listen", count, expected)

    def baked(self, new: Process, seconds: float) -> object:
        verdict = self.ready(new)
        if not verdict:
            raise Failure(Fault.BAKE_FAILED, f"the successor ({new}) did not stay ready")
        if self._baking is None:
            self._baking = self.world.now()
        return verdict if self.world.now() - self._baking >= seconds else False

    def serving(self) -> bool:
        return self.world.alive(self.old.master)

    def recall(self) -> bool:
        """End a copy that has not executed the command yet: it has nothing to finish."""
        if self._new is None:
            return False
        if not self._new.is_executed():
            self.world.signal(self._new.process, "KILL")
            return False
        return not self._new.trouble()

    def _must_live(self, new: Process) -> None:
        if not self.world.alive(new):
            how = "exited" if self._new is None else self._new.end()
            raise Failure(Fault.SUCCESSOR_EXITED, f"the successor ({new}) {how}")

    # -- the ladders

    def retirement(self) -> Iterator[Rung]:
        """End the old copy by the graceful signal. Where it would unlink what the new copy has
        bound, its master is stopped and then killed, so that it has no time to unlink anything."""
        assert self._new is not None
        process = self._new.process
        new = survey(self.world, process)
        self._files.forget()
        names = self._files.pidfile_names(self.world, process)
        self._files.protect(new.master, new.paths, with_pidfile=names)
        patience = self._policy.drain_timeout or COPY_DRAIN_SECONDS
        if (names or self._rebinds(new)) and self._can_freeze():
            yield Rung(self._freeze, patience)
        else:
            yield rung(self.world, self.old.master, self.options.stop_signal, patience)
        yield Rung(lambda: self._kill(self.old.master), QUICK_SECONDS)

    def dismissal(self, new: Process) -> Iterator[Rung]:
        """End the new copy; the old one gets its files back."""
        self._files.restore()
        master = survey(self.world, new).master
        yield rung(self.world, master, self.options.stop_signal, REFUSED_SECONDS)
        yield Rung(lambda: self._kill(new), QUICK_SECONDS)

    def _freeze(self) -> None:
        """Stop the old master, and let its workers finish without it."""
        self._is_frozen = self.world.signal(self.old.master, "STOP")
        for worker in self.old.workers:
            self.world.signal(worker, self.options.stop_signal)

    def _kill(self, top: Process) -> None:
        below = self.world.children(top)
        self.world.signal(top, "KILL")
        for child in below:
            self.world.signal(child, "KILL")

    def _rebinds(self, new: ServerCopy) -> bool:
        """Tell whether the new copy has bound a path that the old one had bound."""
        paths = self.old.paths
        return any(paths.get(path, inode) != inode for path, inode in new.paths.items())

    def _can_freeze(self) -> bool:
        """Tell whether the workers finish without their master: each handles the signal."""
        stop, workers = self.options.stop_signal, self.old.workers
        return bool(workers) and all(self.world.catches(w, stop) for w in workers)

    # -- after adoption

    def retired(self) -> object:
        """Return truthy when the old copy is gone; a stopped master goes with its last worker."""
        if self._new is not None:
            self._must_live(self._new.process)
        self._files.restore()
        old = self.old
        if self.world.alive(old.master):
            count = sum(map(self.world.alive, old.workers))
            if self._is_frozen and not count:
                self.world.signal(old.master, "KILL")
            return Progress(f"{count} old worker{'' if count == 1 else 's'} left", 0, count)
        return not self.world.alive(old.tracked)

    def dismissed(self, new: Process) -> bool:
        self._files.restore()
        return not self.world.alive(new)

    def promoted(self, new: Process) -> bool:
        """Return True: a copy is like any other from its start on."""
        return True

    def close(self) -> None:
        """Leave no file behind; called when the reload has ended."""
        self._files.forget()
        if self._new is not None:
            self._new.close()
