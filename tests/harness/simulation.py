"""supervisord with one gunicorn program in a simulated world.

Real here: supervisor's own Supervisor and Subprocess, and all of hotreload from ReloadService
down. Simulated: the kernel, the clock and gunicorn (tests.harness.fake_world).
"""

from __future__ import annotations

import random
import signal
import types
from typing import Any

from supervisor import events, process
from supervisor.options import ProcessConfig, ProcessGroupConfig, ServerOptions
from supervisor.states import ProcessStates, SupervisorStates
from supervisor.supervisord import Supervisor

from supervisor_hotreload.core.model import Failure
from supervisor_hotreload.plugin.admission import Overrides
from supervisor_hotreload.plugin.service import ReloadService
from tests.harness.fake_world import STEP, SUPERVISORD, FakeWorld, Master, Worker


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
