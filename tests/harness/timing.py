"""What to compare processor time with: it is dearer on a busy machine."""

from __future__ import annotations

import time


def calculation() -> float:
    """Return the processor time of a short calculation here and now: about 3 ms, a thousandth of
    a core for 3 s, and more where other processes share the caches."""

    def once() -> float:
        began = time.thread_time()
        sum(range(200_000))
        return time.thread_time() - began

    return min(once() for _ in range(5))
