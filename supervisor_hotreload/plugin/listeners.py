"""The event listener pools of one supervisord that run hotreload-listener."""

from __future__ import annotations

import time
from typing import Any

from supervisor_hotreload.plugin.listener_pools import hand_over, is_ours, make_findable


class Listeners:
    """Prepares each pool of ours when supervisord starts or adds it."""

    def __init__(self) -> None:
        self._pools: dict[str, Any] = {}
        self._since = 0.0

    def add(self, pool: Any) -> None:
        """Prepare *pool*, if it is ours. It gets the events that a pool of that name has left."""
        if not is_ours(pool):
            return
        make_findable(pool)
        former = self._pools.get(pool.config.name)
        if former is not None:
            hand_over(former, pool)
        self._pools[pool.config.name] = pool
        self._since = self._since or time.monotonic()

    def age(self) -> float:
        """Return the seconds since the first pool of ours was added, 0.0 without one."""
        return time.monotonic() - self._since if self._since else 0.0
