"""Stop signals that are sent as time passes: each when the patience of the one before is over."""

from __future__ import annotations

import random
import signal

from supervisor_hotreload.plugin.signals import Ladder, rungs
from supervisor_hotreload.plugin.unwanted import LATE_SECONDS, Unwanted
from supervisor_hotreload.system.process import Process
from tests.harness.fake_world import FakeWorld

SIGNALS = ((signal.SIGTERM, 30.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 0.0))


def test_each_signal_is_sent_once_when_it_is_due() -> None:
    sent: list[int] = []
    ladder = Ladder(rungs(sent.append, SIGNALS), 100.0)
    for now, expected in (
        (99.9, []),
        (100.0, [signal.SIGTERM]),
        (129.9, [signal.SIGTERM]),
        (130.0, [signal.SIGTERM, signal.SIGQUIT]),
        (135.0, [signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL]),
        (999.0, [signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL]),
    ):
        ladder.climb(now)
        assert sent == expected


def test_a_loop_that_stood_still_sends_all_that_is_due() -> None:
    sent: list[int] = []
    Ladder(rungs(sent.append, SIGNALS), 100.0).climb(200.0)
    assert sent == [signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL]


def test_a_refused_successor_is_ended_until_the_refusal_ends() -> None:
    world, sent = FakeWorld(random.Random(1)), list[tuple[Process, int]]()
    unwanted = Unwanted(world, lambda process, number: sent.append((process, number)))
    before, late, foreign = (world.spawn().process for _ in range(3))
    unwanted.refuse_successor([before])
    assert unwanted.tend(lambda: [before]) == []
    assert unwanted.tend(lambda: [before, late]) == [late]
    assert unwanted.tend(lambda: [before, late]) == []
    assert sent == [(late, signal.SIGTERM)]
    world.time += 35
    unwanted.tend(list)
    assert sent[1:] == [(late, signal.SIGQUIT), (late, signal.SIGKILL)]
    unwanted.refuse_successor([before])
    world.time += LATE_SECONDS
    unwanted.tend(list)
    assert unwanted.tend(lambda: [foreign]) == []
    unwanted.refuse_successor([before])
    unwanted.allow_successor()
    assert unwanted.tend(lambda: [foreign]) == []
