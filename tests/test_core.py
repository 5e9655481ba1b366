"""What a reload says of its waits, and how it changes its state."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any, Optional

import pytest

from supervisor_hotreload.core import protocol
from supervisor_hotreload.core.driver import Driver
from supervisor_hotreload.core.model import Failure, Fault, Outcome, Phase, Policy, Progress
from supervisor_hotreload.core.reload import Reload
from supervisor_hotreload.core.text import counted, there_are
from supervisor_hotreload.servers.gunicorn.heartbeat import Heartbeat
from supervisor_hotreload.servers.readiness import Bake
from supervisor_hotreload.system.descriptors import Beat
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


class Server:
    """A server whose successor never gets further than *verdict*."""

    def __init__(self, verdict: object = False, spawns: bool = True) -> None:
        self.verdict = verdict
        self.spawns = spawns
        self.requests = 0

    def reexec(self) -> None:
        self.requests += 1

    def successor(self) -> Optional[str]:
        return "new" if self.spawns else None

    def ready(self, new: str) -> object:
        return self.verdict

    def baked(self, new: str, seconds: float) -> object:
        return False

    def serving(self) -> bool:
        return True

    def recall(self) -> bool:
        return True

    def retirement(self) -> Iterator[Any]:
        return iter(())

    def dismissal(self, new: str) -> Iterator[Any]:
        yield types.SimpleNamespace(send=lambda: None, grace_seconds=1)

    def dismissed(self, new: str) -> bool:
        return True

    retired = promoted = lambda *_: ()


class Adopter:
    def expect(self, new: str) -> None: ...

    def adopt(self, new: str) -> None:
        raise Failure(Fault.RELEASE_MOVED, "the release was moved")


def run(server: Server, policy: Policy, seconds: int = 100) -> Reload:
    clock = Clock()
    reload = Reload("app", clock, lambda line: None)
    reload.begin(protocol.reload(server, policy, Adopter()))
    while not reload.done and clock.time < seconds:
        clock.time += 1
        reload.step()
    return reload


def test_a_timeout_says_how_far_the_workers_were() -> None:
    reload = run(Server(Progress.of_workers(2, 4)), Policy(ready_timeout=60))
    assert reload.reason == "timed out after 60 s waiting for workers to boot (2 of 4 ready)"
    assert [line.text for line in reload.lines][-3:] == [
        "booting: 2/4 workers ready",
        f"rolling back: {reload.reason}",
        f"failed while booting: {reload.reason}",
    ]


def test_a_timeout_of_another_proof_names_no_workers() -> None:
    reload = run(Server(Progress("http://[::1]/: status 500")), Policy(ready_timeout=8))
    reason = "waiting for the new generation to be ready (http://[::1]/: status 500)"
    assert reload.reason == f"timed out after 8 s {reason}"


def test_a_successor_is_requested_several_times_within_the_timeout() -> None:
    server = Server(spawns=False)
    reload = run(server, Policy(spawn_timeout=9))
    assert server.requests == protocol.REQUESTS
    assert reload.fault is Fault.NO_SUCCESSOR
    assert reload.reason == "timed out after 9 s waiting for the successor to start"
    said = "timed out after 3 s waiting for the successor to start (request 3 of 3)"
    assert f"rolling back: {said}" in [line.text for line in reload.lines]


def test_a_refused_adoption_is_reported_with_the_phase_before_it() -> None:
    reload = run(Server(verdict=True), Policy())
    assert (reload.outcome, reload.phase) == (Outcome.FAILED, Phase.DONE)
    assert list(reload.lines)[-1].text == "failed while booting: the release was moved"


def test_the_driver_remembers_the_last_reloads_of_a_program() -> None:
    driver, clock = Driver(), Clock()
    for _ in range(5):
        reload = Reload("app", clock, lambda line: None)
        driver.add(reload)
        with pytest.raises(Failure, match="another reload is active"):
            driver.must_be_free("app")
        reload.begin(protocol.reload(Server(verdict=True), Policy(), Adopter()))
    assert driver.idle
    assert [driver.numbered("app", number) is not None for number in range(1, 6)] == [
        False,
        False,
        True,
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("left", "text"),
    [
        (3600, "3600 s remain"),
        (605, "600 s remain"),
        (64, "60 s remain"),
        (22, "20 s remain"),
        (12.4, "12 s remain"),
        (0.3, "1 s remain"),
    ],
)
def test_a_bake_says_how_long_it_lasts(left: float, text: str) -> None:
    assert Progress.of_seconds(left).text == text


def test_a_long_bake_makes_few_lines() -> None:
    texts = {Progress.of_seconds(left / 10).text for left in range(1, 36000)}
    assert len(texts) < 150


def test_a_number_has_a_noun() -> None:
    assert [counted(n, "worker") for n in (0, 1, 4)] == ["0 workers", "1 worker", "4 workers"]
    assert [there_are(n, "worker") for n in (1, 4)] == [
        "there is 1 worker",
        "there are 4 workers",
    ]


class Workers(World):
    """A master whose workers have loaded the application at once, as after a preload."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.count = 0

    def now(self) -> float:
        return self.clock.time

    def alive(self, process: Process) -> bool:
        return True

    def heartbeats(self, process: Process) -> dict[tuple[int, int], Beat]:
        return {(0, number): Beat(True, (0, 0, 0)) for number in range(self.count)}


def test_a_generation_that_grows_is_not_ready_before_its_last_worker_is() -> None:
    """gunicorn forks its workers up to 0.1 s apart (arbiter.spawn_workers)."""
    world, texts = Workers(), []
    ready = Heartbeat(world, 3)
    for count in (1, 2, 3, 4, 4, 4, 4, 4, 4):
        world.count = count
        verdict = ready(Process(1, 1))
        texts.append(verdict.text)
        if verdict:
            break
        world.clock.time += 0.09
    assert "3/3 workers ready" not in texts
    assert texts[-1] == "4/4 workers ready"


def test_a_bake_reports_the_seconds_that_remain() -> None:
    world = Workers()
    bake = Bake(world, Process(1, 1), [Process(2, 2)])
    world.clock.time += 2
    assert getattr(bake.over(10), "text", "") == "8 s remain"
    world.clock.time += 8
    assert bake.over(10)
