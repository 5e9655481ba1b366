"""Steps the active reloads of one supervisord, and remembers those that have ended."""

from __future__ import annotations

from collections import deque
from typing import Optional

from supervisor_hotreload.core.model import Failure, Fault
from supervisor_hotreload.core.reload import Reload

ENDED = 3
"""How many ended reloads of one program are remembered. A client may still ask about one
when a later reload, of a SIGHUP, has ended too."""

REFUSED = 3
"""How many refused reloads of one program are remembered for the clients that asked."""


class Driver:
    """All reloads of one supervisord.

    Reloads of different programs that are started one by one run side by side. A batch runs
    its reloads one after the other.
    """

    def __init__(self) -> None:
        self._active: dict[str, Reload] = {}
        self._ended: dict[str, deque[Reload]] = {}
        self._refused: dict[str, deque[Reload]] = {}
        self._count = 0

    @property
    def idle(self) -> bool:
        """Tell whether no reload is active."""
        return not self._active

    def active(self, name: str) -> Optional[Reload]:
        """Return the active reload of the program *name*."""
        return self._active.get(name)

    def latest(self, name: str) -> Optional[Reload]:
        """Return the active reload of *name*, else the last one that ended.

        A refused reload is returned only where no other reload has ended.
        """
        known = self._ended.get(name) or self._refused.get(name)
        return self._active.get(name) or (known[-1] if known else None)

    def numbered(self, name: str, number: int) -> Optional[Reload]:
        """Return the reload of *name* with that number, None when it is not remembered."""
        known = [*self._ended.get(name, ()), *self._refused.get(name, ())]
        known += filter(None, [self._active.get(name)])
        return next((reload for reload in known if reload.number == number), None)

    def add(self, reload: Reload) -> None:
        """Number *reload* and make it active.

        :raises Failure: ALREADY_RELOADING when another reload of the program is active.
        """
        self.must_be_free(reload.name)
        self._count += 1
        reload.number = self._count
        self._active[reload.name] = reload
        reload.when_ended(self._remember)

    def must_be_free(self, name: str) -> None:
        """Refuse a second reload of one program.

        :raises Failure: ALREADY_RELOADING.
        """
        running = self._active.get(name)
        if running is not None:
            raise Failure(
                Fault.ALREADY_RELOADING,
                f"{name}: another reload is active ({running.phase.value} for "
                f"{running.seconds:.0f} s): supervisorctl hotreload --status {name} shows it, "
                f"--cancel {name} rolls it back",
            )

    def step(self) -> None:
        """Step every active reload."""
        for reload in list(self._active.values()):
            reload.step()

    def _remember(self, reload: Reload) -> None:
        del self._active[reload.name]
        if reload.begun:
            self._ended.setdefault(reload.name, deque(maxlen=ENDED)).append(reload)
        else:
            self._refused.setdefault(reload.name, deque(maxlen=REFUSED)).append(reload)
