"""The moment from which a re-exec'd gunicorn hears USR2 (arbiter.maybe_promote_master)."""

from __future__ import annotations

from typing import Optional

from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World

SWITCHES = 3
"""Turns of the master's loop after its parent is gone, until it is surely promoted."""

BLIND = 2.0
"""Seconds after which it is promoted for sure: its loop looks every second."""


class Promotion:
    """Tells when a successor has seen that its parent is gone.

    :param parent: the old master.
    :param pidfile: where gunicorn writes its pid, if that is known.
    """

    def __init__(self, world: World, parent: Process, pidfile: Optional[str]) -> None:
        self._world = world
        self._parent = parent
        self._pidfile = pidfile
        self._orphaned_at: Optional[float] = None
        self._asleep: Optional[int] = None

    def over(self, new: Process) -> bool:
        """Tell whether *new* is promoted.

        Its loop looks once a second; a SIGCHLD wakes it. Then the pidfile
        names it, or, where there is none, the loop has gone to sleep again.
        """
        status = self._world.status(new.pid)
        if status is None or status.parent == self._parent.pid:
            return False
        if self._names(new):
            return True
        now = self._world.now()
        asleep = self._world.sleeps(new)
        if self._orphaned_at is None:
            self._orphaned_at, self._asleep = now, asleep
        if self._pidfile is None and asleep is not None and self._asleep is not None:
            turned = asleep >= self._asleep + SWITCHES
        else:
            turned = now - self._orphaned_at > BLIND
        if not turned:
            self._world.signal(new, "CHLD")
        return turned

    def _names(self, new: Process) -> bool:
        """Tell whether the pidfile names *new*; before the promotion there is none."""
        if self._pidfile is None:
            return False
        try:
            return self._world.read_pid(self._pidfile, self._world.ids(new)) == new.pid
        except ValueError:
            return False
