"""Remembers for a moment what was seen: several families look at one process in one step."""

from __future__ import annotations

from typing import Callable, Generic, Optional, TypeVar

FRESH_SECONDS = 0.01
"""How long something that was seen is not looked at again. This is less than a tick."""

STALE_SECONDS = 1.0
"""After so long nothing that was seen counts any more: the kernel may have used a pid or the
number of a descriptor again."""

MANY = 500
"""From so many keys on, those that nobody has asked for are forgotten."""

Key = TypeVar("Key")
Value = TypeVar("Value")


class Cache(Generic[Key, Value]):
    """Values by key. Each is fresh for a while, and known for longer.

    :param clock: returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._entries: dict[Key, tuple[float, float, Value]] = {}

    def fresh(self, key: Key) -> Optional[Value]:
        """Return the value of *key* while it is fresh."""
        entry = self._entries.get(key)
        return entry[2] if entry is not None and self._clock() < entry[1] else None

    def known(self, key: Key) -> Optional[Value]:
        """Return the value of *key*, however old it is."""
        entry = self._entries.get(key)
        return None if entry is None else entry[2]

    def put(self, key: Key, value: Value, seconds: float = FRESH_SECONDS) -> Value:
        """Remember *value*, which is fresh for *seconds*; return it."""
        now = self._clock()
        if len(self._entries) > MANY:
            self._entries = {k: e for k, e in self._entries.items() if now - e[0] < STALE_SECONDS}
        self._entries[key] = now, now + seconds, value
        return value
