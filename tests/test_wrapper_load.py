"""No request is dropped over many HUPs, some of them in bursts.

``make hups`` runs all fifty; the suite a part of them that fits in its time.
"""

from __future__ import annotations

import os
import random

from tests.house import wait_until
from tests.load import Load
from tests.wrapped import Wrapped

HUPS = int(os.environ.get("HOTRELOAD_HUPS", "12"))
"""How many, two fifths of them in bursts."""


def test_nothing_is_dropped_over_many_hups(wrapped: Wrapped) -> None:
    wrapped.run(*wrapped.command("-w2"))
    burst, single = HUPS * 2 // 5, HUPS - HUPS * 2 // 5
    with Load(wrapped.port, fast=2, slow=2, pause=0.01, slow_path="/slow0.3") as load:
        for number in range(single):
            wrapped.release(f"r{number}")
            wrapped.hup()
        sent = 0
        while sent < burst:
            before = len(wrapped.outcomes())
            wrapped.release(f"b{sent}")
            for _ in range(min(random.randint(2, 6), burst - sent)):
                wrapped.send("HUP")
                sent += 1
            wait_until(lambda seen=before: len(wrapped.outcomes()) > seen, 60)
        wait_until(wrapped.settled, 60)
        last = f"b{max(int(path.name[1:]) for path in wrapped.root.glob('releases/b*'))}"
        wrapped.wait_for_release(last)
    print(
        f"\n{HUPS} HUPs, {len(wrapped.outcomes())} reloads, {load.answered} answered, "
        f"{len(load.dropped)} dropped, longest wait of a fast client {load.longest:.3f} s, "
        f"{wrapped.memory():.1f} MiB"
    )
    assert load.dropped == []
    assert set(wrapped.outcomes()) == {"succeeded"}
    assert len(wrapped.outcomes()) >= single + 1
    assert len(wrapped.servers()) == 1
    assert wrapped.memory() <= 20
