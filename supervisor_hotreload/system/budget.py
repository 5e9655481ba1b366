"""What looking may cost: supervisord waits meanwhile, and who is looked at may be hostile."""

from __future__ import annotations

from typing import Callable, Optional

from supervisor_hotreload.core.model import Failure, Fault

AT_ONCE = 4096
"""Glances that all that is looked at together may cost. A glance is the reading of one link
of /proc/PID/fd, some 2 to 4 microseconds; for the first time a descriptor costs two."""

A_SECOND = 50_000
"""Glances that come back in a second: a tenth to a fifth of the loop's time."""

USERS = 256
"""Users above which budgets that are whole again are forgotten."""


class Unreadable(Failure):
    """The kernel does not let us look, or there is more than may be looked at.

    Where nobody knows better it refuses, or fails, the reload.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(Fault.NOT_RELOADABLE, f"it cannot be seen what runs: {reason}")
        self.detail = reason

    def __str__(self) -> str:
        return self.detail


class Budget:
    """Glances that may be spent; what is spent comes back with time.

    No caller has to say when a look begins: a look that takes longer than all of the
    budget does is the last for a moment.
    """

    def __init__(
        self, clock: Callable[[], float], at_once: int = AT_ONCE, a_second: int = A_SECOND
    ) -> None:
        self._clock = clock
        self._at_once = at_once
        self._a_second = a_second
        self._left = float(at_once)
        self._at = clock()

    @property
    def left(self) -> int:
        now = self._clock()
        earned = max(0.0, now - self._at) * self._a_second
        self._left = min(self._at_once, self._left + earned)
        self._at = now
        return int(self._left)

    @property
    def whole(self) -> bool:
        return self.left == self._at_once

    @property
    def plenty(self) -> bool:
        """Tell whether more than half is left: for what can also be looked at later."""
        return self.left > self._at_once // 2

    def spend(self, glances: int, what: str) -> None:
        """Spend *glances* on *what*, before it is looked at.

        :raises Unreadable: when so many are not left; then none is spent.
        """
        if glances > self.left:
            raise Unreadable(f"{what}: not looked at, all together it would take too long")
        self._left -= glances

    def charge(self, glances: int) -> None:
        """Take *glances* for what has been looked at: only then it was known how much it is."""
        self._left -= glances


class Budgets:
    """A budget for each user: what the processes of one cost is not lost to another."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._of: dict[Optional[int], Budget] = {}

    def of(self, user: Optional[int]) -> Budget:
        """Return the budget of *user*: the real id of a process, which it cannot choose."""
        if user not in self._of:
            if len(self._of) >= USERS:
                self._of = {u: budget for u, budget in self._of.items() if not budget.whole}
            self._of[user] = Budget(self._clock)
        return self._of[user]
