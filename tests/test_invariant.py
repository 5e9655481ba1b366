"""The invariant under random schedules of a simulated world.

Real here: supervisor's own Supervisor and Subprocess, and all of hotreload from
Reloads down. Simulated: the kernel, the clock and gunicorn (tests.fake_world).
"""

from __future__ import annotations

import os
import random
import signal
import types
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from supervisor import events, process
from supervisor.options import ProcessConfig, ProcessGroupConfig, ServerOptions
from supervisor.states import ProcessStates, SupervisorStates
from supervisor.supervisord import Supervisor

from supervisor_hotreload.core.model import Failure, Fault
from supervisor_hotreload.plugin import adoption, builder
from supervisor_hotreload.plugin import supervisord as supervised
from supervisor_hotreload.plugin.admission import Overrides
from supervisor_hotreload.plugin.events import NAMES
from supervisor_hotreload.plugin.service import ReloadService
from tests.fake_world import STEP, SUPERVISORD, FakeWorld, Master, Worker

SCHEDULES = int(os.environ.get("HOTRELOAD_SCHEDULES", "300"))
"""How many schedules are tried; make faults tries 10,000."""


class FakeTick:
    def __init__(self, _map: Any, _logger: Any, step: Any) -> None:
        self.step = step
        self.on = False

    def turn_on(self) -> None:
        self.on = True

    def turn_off(self) -> None:
        self.on = False


class FakeWatch:
    """Tells of an exit at the next turn of the loop."""

    living: list[FakeWatch] = []  # noqa: RUF012 - emptied by every simulation

    def __init__(self, _options: Any, watched: Any, on_exit: Any) -> None:
        self._process, self._on_exit = watched, on_exit
        FakeWatch.living.append(self)

    def close(self) -> None:
        if self in FakeWatch.living:
            FakeWatch.living.remove(self)

    def look(self, world: FakeWorld) -> None:
        if not world.alive(self._process):
            self.close()
            self._on_exit()


class Options(ServerOptions):
    """supervisord's options on a simulated kernel."""

    def __init__(self, world: FakeWorld) -> None:
        super().__init__()
        self.world = world
        self.pidhistory = {}
        self.mood = SupervisorStates.RUNNING
        self.configfile = self.serverurl = self.pidfile = None
        self.environ_expansions = {}
        self.lines: list[str] = []
        self.logger = types.SimpleNamespace(
            **dict.fromkeys(("debug", "info", "warn", "error", "critical"), self.lines.append)
        )

    def get_socket_map(self) -> dict[int, Any]:
        return {}

    def fork(self) -> int:
        living = self.world.masters()
        if living:
            self.world.complaints.append(f"a second copy is spawned beside {living}")
        return self.world.spawn().pid

    def kill(self, pid: int, signal: int) -> None:
        target = self.world.lookup(abs(pid))
        if target is None:
            raise ProcessLookupError(3, "No such process")
        self.world.send(target, signal)

    def waitpid(self) -> tuple[Any, Any]:
        dead = self.world.reap(SUPERVISORD)
        return (None, None) if dead is None else (dead.pid, dead.status)

    def close_parent_pipes(self, pipes: Any) -> None:
        """There are none."""

    close_child_pipes = close_parent_pipes


class Config(ProcessConfig):
    def __init__(self, options: Options, autorestart: Any) -> None:
        chosen = dict.fromkeys(self.req_param_names)
        chosen.update(name="myapp", command="gunicorn app:app", priority=999, autostart=True)
        chosen.update(autorestart=autorestart, startsecs=1, startretries=3, exitcodes=[0])
        chosen.update(stopsignal=signal.SIGTERM, stopwaitsecs=6, stopasgroup=False)
        chosen.update(killasgroup=False)
        super().__init__(options, **chosen)

    def make_dispatchers(self, proc: Any) -> tuple[dict[int, Any], dict[str, Any]]:
        return {}, {}


class Simulation:
    """supervisord with one gunicorn program, and operators who do as they like."""

    def __init__(self, seed: int, subreaper: bool) -> None:
        events.clear()
        FakeWatch.living.clear()
        self.world = FakeWorld(random.Random(seed), subreaper)
        self.options = Options(self.world)
        self.supervisord = Supervisor(self.options)
        restart = [process.RestartUnconditionally, True][seed % 2]
        group = ProcessGroupConfig(self.options, "myapp", 999, [Config(self.options, restart)])
        self.supervisord.process_groups = {"myapp": group.make_group()}
        self.reloads = ReloadService(self.supervisord, {"ready_timeout": "8"}, self.world)
        self.subprocess = self.supervisord.process_groups["myapp"].processes["myapp"]
        self.subprocess.get_execv_args = lambda: ("gunicorn", ["gunicorn"])
        self.supervisord.reload_on = False
        process.time = types.SimpleNamespace(time=lambda: self.world.time)
        self.reloads.supervised.subreaper = subreaper
        events.notify(events.SupervisorRunningEvent())
        for _ in range(2):
            self.world.stranger()
        self._turn = 0

    @property
    def program(self) -> Any:
        return self.reloads.supervised.member("myapp", "myapp")

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds / STEP)):
            self.world.step()
            tick = self.reloads.supervised.tick
            if tick.on:
                tick.step()
            self._turn += 1
            if tick.on or self._turn % 8 == 0:
                for watch in list(FakeWatch.living):
                    watch.look(self.world)
                self.subprocess.transition()
                self.supervisord.reap()
            self.check()

    def check(self) -> None:
        """The invariant of the design, at every instant."""
        world = self.world
        assert not world.complaints, world.complaints
        trace = [line for line in self.options.lines if "Traceback" in line]
        assert not trace, trace
        living = world.masters()
        assert len(living) <= 2, f"{len(living)} generations live"
        unready = [m for m in living if not world.is_ready(m) and m.stop_limit is None]
        if self.undisturbed:
            assert len(unready) <= 1, f"{unready} are both not ready"
        mine = [pid for pid, owner in self.options.pidhistory.items() if owner is self.subprocess]
        assert mine == ([self.subprocess.pid] if self.subprocess.pid else []), mine
        if self.subprocess.state == ProcessStates.STOPPED:
            assert not living, f"STOPPED is reported while {living} live"

    # -- what operators do

    def act(self, action: str) -> None:
        masters = self.world.masters()
        old = next((m for m in masters if not m.parent_master), None)
        new = next((m for m in masters if m.parent_master), None)
        verb, _, rest = action.partition(" ")
        if verb == "reload":
            self._try(lambda: self.reloads.start(self.program))
        elif verb == "bake":
            self._try(lambda: self.reloads.start(self.program, Overrides(bake=1.0)))
        elif verb == "cancel":
            self._try(lambda: self.reloads.cancel(self.program))
        elif verb == "hup" and self.subprocess.state == ProcessStates.RUNNING:
            self.subprocess.signal(signal.SIGHUP)
        elif verb == "stop" and self.subprocess.state in (10, 20):
            self.subprocess.stop()
        elif verb == "start" and self.subprocess.state in (0, 100, 200):
            self.subprocess.spawn()
        elif verb == "break":
            self.world.broken = True
        elif verb == "mend":
            self.world.broken = False
        elif verb in ("old", "new"):
            target = old if verb == "old" else new
            if target is not None:
                self.world.deliver(target.pid, signal.Signals[f"SIG{rest}"])
        elif verb == "worker":
            workers = [p for p in self.world.procs.values() if isinstance(p, Worker) and p.lives]
            if workers:
                self.world.deliver(workers[-1].pid, signal.SIGKILL)

    def _try(self, ask: Any) -> None:
        try:
            ask()
        except Failure:
            return

    def settle(self) -> None:
        """Leave it alone; then one generation serves, or the program is down."""
        self.world.broken = False
        for master in self.world.masters():
            self.world.deliver(master.pid, signal.SIGCONT)
        self.run(30)
        living = self.world.masters()
        assert self.reloads.driver.idle, "a reload has not ended"
        if self.subprocess.state == ProcessStates.RUNNING:
            assert self.subprocess.pid in [m.pid for m in living]
            by_hand = [m for m in living if m.pid != self.subprocess.pid]
            assert all(self._forked_by_hand(m) for m in by_hand), living
        else:
            assert self.subprocess.state in (0, 100, 200), self.subprocess.state
            assert not living

    def _forked_by_hand(self, master: Master) -> bool:
        """A USR2 sent by hand and never followed up leaves its successor, as it always did."""
        return bool(master.parent_master) and self.by_hand

    by_hand = False
    undisturbed = False
    """Nobody signals the program's processes behind supervisord's back."""


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
