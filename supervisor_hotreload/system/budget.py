"""Limits how much a look at processes may cost: supervisord waits meanwhile.

The processes may belong to an attacker, who can have very many of them.
"""

from __future__ import annotations

from typing import Callable, Optional

from supervisor_hotreload.core.model import Failure, Fault

AT_ONCE = 4096
"""Glances that may be spent at once. A glance is the reading of one link of /proc/PID/fd: 2 to
4 microseconds. A descriptor that is seen for the first time costs two."""

PER_SECOND = 50_000
"""Glances that come back in a second. They take a tenth to a fifth of the loop's time."""

USERS = 256
"""From so many users on, the budgets of which nothing is spent are forgotten."""


class Unreadable(Failure):
    """The kernel hides a process from us, or looking at it would take too long.

    It refuses or fails the reload, except where the caller can do without the look.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(Fault.NOT_RELOADABLE, f"it cannot be seen what runs: {reason}")
        self.detail = reason

    def __str__(self) -> str:
        return self.detail


class Budget:
    """Glances that may be spent. What is spent comes back with time.

    :param clock: returns monotonic seconds.
    """

    def __init__(
        self, clock: Callable[[], float], at_once: int = AT_ONCE, per_second: int = PER_SECOND
    ) -> None:
        self._clock = clock
        self._at_once = at_once
        self._per_second = per_second
        self._left = float(at_once)
        self._at = clock()

    @property
    def left(self) -> int:
        """How many glances are left now."""
        now = self._clock()
        earned = max(0.0, now - self._at) * self._per_second
        self._left = min(self._at_once, self._left + earned)
        self._at = now
        return int(self._left)

    @property
    def whole(self) -> bool:
        """Whether nothing is spent."""
        return self.left == self._at_once

    @property
    def plenty(self) -> bool:
        """Whether more than half is left: enough for a look that could also be made later."""
        return self.left > self._at_once // 2

    def spend(self, glances: int, what: str) -> None:
        """Spend *glances* before *what* is looked at.

        :raises Unreadable: when fewer are left; then none is spent.
        """
        if glances > self.left:
            raise Unreadable(
                f"{what}: not looked at, the budget for the processes of its user is spent"
            )
        self._left -= glances

    def charge(self, glances: int) -> None:
        """Take *glances* for a look whose cost was not known before; the rest may be negative."""
        self._left -= glances


class Budgets:
    """One budget for each user, so that no user can spend what another needs."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._of: dict[Optional[int], Budget] = {}

    def of(self, user: Optional[int]) -> Budget:
        """Return the budget of *user*, the real id of a process: a process cannot choose it."""
        if user not in self._of:
            if len(self._of) >= USERS:
                self._of = {u: budget for u, budget in self._of.items() if not budget.whole}
            self._of[user] = Budget(self._clock)
        return self._of[user]
