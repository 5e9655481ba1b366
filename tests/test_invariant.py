"""The invariant under random schedules of a simulated world.

Real here: supervisor's own Supervisor and Subprocess, and all of hotreload from
Reloads down. Simulated: the kernel, the clock and gunicorn (tests.harness.fake_world).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from supervisor import events, process
from supervisor.states import ProcessStates

from supervisor_hotreload.core.model import Failure, Fault
from supervisor_hotreload.plugin import adoption, builder
from supervisor_hotreload.plugin import supervisord as supervised
from supervisor_hotreload.plugin.events import NAMES
from tests.harness.fake_world import FakeWorld
from tests.harness.simulation import FakeTick, FakeWatch, Simulation

SCHEDULES = int(os.environ.get("HOTRELOAD_SCHEDULES", "300"))
"""How many schedules are tried; make faults tries 10,000."""


ACTIONS = [
    "reload", "reload", "bake", "cancel", "hup", "stop", "start", "break", "mend", "worker",
    "old USR2", "old TERM", "old QUIT", "old KILL", "old STOP", "old CONT",
    "new TERM", "new KILL", "new STOP", "new CONT",
]  # fmt: skip

OWN_ACTIONS = {"reload", "bake", "cancel", "hup", "stop", "start", "break", "mend"}

PAUSES = [0.025, 0.1, 0.5, 1.1, 3.0]


@pytest.fixture(autouse=True)
def simulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(supervised, "Tick", FakeTick)
    monkeypatch.setattr(supervised, "become_subreaper", lambda: True)
    monkeypatch.setattr(adoption, "ExitWatch", FakeWatch)
    real = process.time
    yield
    process.time = real
    events.clear()


TERM_TO_BOTH = [("worker", 0.025), ("bake", 0.025), ("reload", 0.025), ("worker", 1.1)]
TERM_TO_BOTH += [("old TERM", 0.025), ("new TERM", 0.025)]
"""The bake fails after the old master has exited and before supervisord has reaped it."""

STOPPED_SOON = [("reload", 0.025), ("cancel", 0.025), ("old QUIT", 0.025), ("reload", 0.025)]
STOPPED_SOON += [("reload", 0.025), ("old USR2", 0.025), ("stop", 0.025)]
"""supervisord spawns it again; it gets a USR2 and a stop before hotreload has looked at it."""

KILLED_SOON = [("old TERM", 1.1), ("reload", 1.1), ("old USR2", 0.025), ("old TERM", 0.025)]
"""The same, a second after supervisord has spawned it again: its sockets have to be known."""


@pytest.mark.long
@example(seed=0, subreaper=False, schedule=KILLED_SOON)
@example(seed=0, subreaper=False, schedule=STOPPED_SOON)
@example(seed=19218, subreaper=False, schedule=TERM_TO_BOTH)
@settings(
    max_examples=SCHEDULES,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    seed=st.integers(0, 1 << 16),
    subreaper=st.booleans(),
    schedule=st.lists(
        st.tuples(st.sampled_from(ACTIONS), st.sampled_from(PAUSES)), min_size=1, max_size=8
    ),
)
def test_the_invariant_holds(seed: int, subreaper: bool, schedule: list[tuple[str, float]]) -> None:
    simulation = Simulation(seed, subreaper)
    simulation.by_hand = any(action == "old USR2" for action, _ in schedule)
    simulation.run(4)
    assert simulation.subprocess.state == ProcessStates.RUNNING
    simulation.undisturbed = all(action.split()[0] in OWN_ACTIONS for action, _ in schedule)
    for action, pause in schedule:
        simulation.act(action)
        simulation.run(pause)
    simulation.settle()


def test_the_simulation_reloads() -> None:
    """Guard the guard: a plain reload in the simulated world succeeds."""
    simulation = Simulation(1, True)
    simulation.run(4)
    before = simulation.subprocess.pid
    reload = simulation.reloads.start(simulation.program)
    simulation.run(10)
    assert reload.outcome.value == "succeeded", reload.lines
    assert simulation.subprocess.pid != before
    simulation.settle()


def test_whatever_goes_wrong_no_reload_stays_half_begun() -> None:
    simulation = Simulation(1, subreaper=True)
    simulation.program.process.spawn()
    simulation.run(5)
    listening = FakeWorld.heartbeats
    try:
        FakeWorld.heartbeats = lambda *_: 1 / 0  # type: ignore[assignment,method-assign]
        with pytest.raises(Failure, match="an error inside hotreload: ZeroDivisionError"):
            simulation.reloads.start(simulation.program)
    finally:
        FakeWorld.heartbeats = listening  # type: ignore[method-assign]
    assert simulation.reloads.driver.idle
    simulation.options.lines.clear()
    simulation.reloads.start(simulation.program)
    simulation.run(30)
    assert simulation.program.generations.number == 2


def test_a_late_successor_that_hears_nothing_is_killed() -> None:
    simulation = Simulation(1, subreaper=True)
    simulation.run(4)
    world, old = simulation.world, simulation.world.masters()[0]
    simulation.program.unwanted.refuse_successor(world.children(old.process))
    world.deliver(old.pid, signal.SIGUSR2)
    while len(world.masters()) < 2:
        world.step()
    late = next(master for master in world.masters() if master is not old)
    late.deaf, late.boot_at = True, 0.0
    simulation.run(25)
    assert late.lives
    assert any("has come late and is ended" in line for line in simulation.options.lines)
    simulation.run(15)
    assert not late.lives
    assert simulation.subprocess.pid == old.pid


def test_a_successor_that_was_there_before_is_left_alone() -> None:
    simulation = Simulation(1, subreaper=True)
    simulation.run(4)
    world, old = simulation.world, simulation.world.masters()[0]
    world.deliver(old.pid, signal.SIGUSR2)
    simulation.run(3)
    simulation.program.unwanted.refuse_successor(world.children(old.process))
    simulation.run(40)
    assert len(world.masters()) == 2


@pytest.mark.parametrize("what", ["refused", "succeeds", "fails"])
def test_every_start_that_is_announced_has_one_end(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation = Simulation(2, True)
    simulation.run(12)
    heard: list[str] = []
    events.subscribe(NAMES["PROCESS_HOTRELOAD"], lambda event: heard.append(type(event).__name__))
    if what == "refused":
        failure = Failure(Fault.BAD_SETTING, "there is nothing to try")
        monkeypatch.setattr(builder, "trial", lambda *_: throw(failure))
        with pytest.raises(Failure, match="nothing to try"):
            simulation.reloads.start(simulation.program)
        assert heard == []
        assert simulation.reloads.announcer.latest("myapp") is None
        return
    simulation.world.broken = what == "fails"
    simulation.reloads.start(simulation.program)
    simulation.run(30)
    end = "Succeeded" if what == "succeeds" else "Failed"
    assert heard == ["ProcessHotReloadStartedEvent", f"ProcessHotReload{end}Event"]


def throw(error: Exception) -> None:
    raise error
