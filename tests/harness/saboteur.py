"""An rpcinterface plugin for tests: breaks hotreload from inside a real supervisord.

``break`` names a method of servers.gunicorn.family.GunicornReexec, or of ProgramAdopter, that is to
raise; ``times`` names a file for the processor time of every step of a reload;
``hold`` names a method of GunicornReexec that has nothing to say for ``seconds``;
``patience`` is how long a batch waits for a generation that drains, and a listener may be silent;
``polls`` counts the turns of supervisord's loop; ``setClock`` lets the system
clock jump as supervisord sees it.
"""

from __future__ import annotations

import time
from typing import Any

from supervisor_hotreload.core import reload as driver
from supervisor_hotreload.core.driver import Driver
from supervisor_hotreload.plugin import triggers
from supervisor_hotreload.plugin.builder import ProgramAdopter
from supervisor_hotreload.servers.gunicorn.family import GunicornReexec


class SaboteurRPCInterface:
    def __init__(self) -> None:
        self.turns = 0

    def getTurns(self) -> int:
        """@return int result  how often supervisord has polled"""
        return self.turns

    def setClock(self, seconds: int) -> bool:
        """@return boolean result  the system clock is *seconds* off from now on"""
        real = time.clock_gettime
        time.time = lambda: real(time.CLOCK_REALTIME) + seconds
        return True


def make_saboteur_rpcinterface(supervisord: Any, **config: str) -> SaboteurRPCInterface:
    interface = SaboteurRPCInterface()
    target = config.get("break")
    if target:
        owner = ProgramAdopter if hasattr(ProgramAdopter, target) else GunicornReexec
        setattr(owner, target, _raise)
    if "hold" in config:
        _hold(config["hold"], float(config["seconds"]))
    if "patience" in config:
        driver.DRAINING_SECONDS = float(config["patience"])
        triggers.SILENCE_SECONDS = float(config["patience"])
    if "times" in config:
        _time_steps(config["times"])
    if "polls" in config:
        _count_polls(supervisord.options.poller, interface)
    return interface


def _raise(*_: Any) -> None:
    raise FileNotFoundError("sabotage")


def _hold(name: str, seconds: float) -> None:
    real = getattr(GunicornReexec, name)
    began: list[float] = []

    def held(self: GunicornReexec, *arguments: Any) -> Any:
        if not began:
            began.append(time.monotonic())
        return real(self, *arguments) if time.monotonic() - began[0] > seconds else None

    setattr(GunicornReexec, name, held)


def _time_steps(path: str) -> None:
    step = Driver.step

    def timed(self: Driver) -> None:
        began = time.thread_time()
        step(self)
        with open(path, "a") as out:
            out.write(f"{time.thread_time() - began:.6f}\n")

    Driver.step = timed  # type: ignore[method-assign]


def _count_polls(poller: Any, interface: SaboteurRPCInterface) -> None:
    poll = poller.poll

    def counted(timeout: float) -> Any:
        interface.turns += 1
        return poll(timeout)

    poller.poll = counted
