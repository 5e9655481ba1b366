"""The heartbeat probe waits for the workers that its master still forks."""

from __future__ import annotations

from supervisor_hotreload.core.model import Progress, Readiness
from supervisor_hotreload.servers.gunicorn.heartbeat import Heartbeat
from supervisor_hotreload.system.descriptors import Beat
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World

MASTER = Process(10, 1)


class Beats(World):
    """A world with a clock and the heartbeat files of one master."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0
        self.beats: dict[tuple[int, int], Beat] = {}

    def now(self) -> float:
        return self.time

    def heartbeats(self, process: Process) -> dict[tuple[int, int], Beat]:
        return self.beats

    def fork(self, count: int, ready: bool = True) -> None:
        for number in range(len(self.beats), len(self.beats) + count):
            self.beats[1, number] = Beat(ready, (0, 0, 0))


def test_a_fourth_worker_after_three_is_waited_for() -> None:
    world = Beats()
    probe = Heartbeat(world, 3)
    world.fork(3)
    assert isinstance(probe(MASTER), Progress)
    world.time = 0.1
    world.fork(1, ready=False)
    assert probe(MASTER) == Progress.of_workers(3, 4)
    world.time = 5.0
    assert probe(MASTER) == Progress.of_workers(3, 4)
    world.beats[1, 3] = Beat(True, (0, 0, 0))
    assert probe(MASTER) == Readiness(4)


def test_as_many_as_before_are_ready_a_moment_after_the_last_fork() -> None:
    world = Beats()
    probe = Heartbeat(world, 2)
    world.fork(2, ready=False)
    probe(MASTER)
    world.time = 2.0
    world.beats = {key: Beat(True, (0, 0, 0)) for key in world.beats}
    assert probe(MASTER) == Readiness(2)


def test_fewer_than_before_are_ready_when_no_other_comes() -> None:
    world = Beats()
    probe = Heartbeat(world, 4)
    world.fork(2)
    assert probe(MASTER) == Progress.of_workers(2, 4)
    world.time = 0.9
    assert isinstance(probe(MASTER), Progress)
    world.time = 1.1
    assert probe(MASTER) == Readiness(2)
