"""The promotion of a re-exec'd gunicorn: from then on it obeys USR2
(arbiter.maybe_promote_master)."""

from __future__ import annotations

from typing import Optional

from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World

SLEEPS = 3
"""Sleeps of the master's loop after its parent is gone, until it is certainly promoted."""

LOOP_SECONDS = 2.0
"""Seconds after which it is certainly promoted: its loop looks every second."""


class Promotion:
    """Tells when a successor has seen that its parent is gone.

    :param parent: the old master.
    :param pidfile: the path to which gunicorn writes its pid, None when it is not known.
    """

    def __init__(self, world: World, parent: Process, pidfile: Optional[str]) -> None:
        self._world = world
        self._parent = parent
        self._pidfile = pidfile
        self._orphaned_at: Optional[float] = None
        self._sleeps: Optional[int] = None

    def is_over(self, new: Process) -> bool:
        """Tell whether *new* is promoted, and send it a SIGCHLD, which wakes its loop, if not.

        A promoted master writes its pid to the pidfile. Without a pidfile its loop has to have
        gone to sleep again.
        """
        status = self._world.status(new.pid)
        if status is None or status.parent == self._parent.pid:
            return False
        if self._is_in_pidfile(new):
            return True
        now = self._world.now()
        sleeps = self._world.sleeps(new)
        if self._orphaned_at is None:
            self._orphaned_at, self._sleeps = now, sleeps
        if self._pidfile is None and sleeps is not None and self._sleeps is not None:
            over = sleeps >= self._sleeps + SLEEPS
        else:
            over = now - self._orphaned_at > LOOP_SECONDS
        if not over:
            self._world.signal(new, "CHLD")
        return over

    def _is_in_pidfile(self, new: Process) -> bool:
        """Tell whether the pidfile names *new*; it does not before the promotion."""
        if self._pidfile is None:
            return False
        try:
            return self._world.read_pid(self._pidfile, self._world.ids(new)) == new.pid
        except ValueError:
            return False
