"""No request is dropped over many HUPs, some of them in bursts.

``make hups`` runs all fifty; the suite a part of them that fits in its time.
"""

from __future__ import annotations

import os
import random
import time

import pytest

from tests.harness.load import Load
from tests.harness.waiting import wait_until
from tests.harness.wrapped import Wrapped

ROUNDS = int(os.environ.get("HOTRELOAD_HUPS", "10")) // 10
"""Each of ten HUPs, four of them in bursts."""


@pytest.mark.long
def test_nothing_is_dropped_over_many_hups(wrapped: Wrapped) -> None:
    wrapped.run("--status-file", wrapped.root / "status.json", *wrapped.command("-w2"))
    answered, longest = 0, 0.0
    for number in range(ROUNDS):
        with Load(wrapped.port, fast=2, slow=1, pause=0.01, slow_path="/slow0.3") as load:
            for single in range(6):
                wrapped.release(f"r{number}.{single}")
                wrapped.hup()
            wrapped.release(f"r{number}.burst")
            for _ in range(4):
                wrapped.send("HUP")
                time.sleep(random.uniform(0, 0.3))
            wrapped.wait_for_release(f"r{number}.burst", timeout=60)
            wait_until(lambda: wrapped.status()["state"] == "serving", 60, "no HUP is pending")
        assert load.dropped == []
        answered, longest = answered + load.answered, max(longest, load.longest)
    print(
        f"\n{ROUNDS * 10} HUPs, {len(wrapped.outcomes())} reloads, {answered} answered, 0 dropped, "
        f"longest wait of a fast client {longest:.3f} s, {wrapped.memory():.1f} MiB"
    )
    assert set(wrapped.outcomes()) == {"succeeded"}
    assert len(wrapped.outcomes()) >= ROUNDS * 7
    wait_until(lambda: len(wrapped.servers()) == 1)
    assert wrapped.memory() <= 20
