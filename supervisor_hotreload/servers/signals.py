"""The ladder of signals that ends a generation, one signal after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from supervisor_hotreload.core.model import Failure, Fault
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World


@dataclass(frozen=True)
class Rung:
    """One rung of a ladder of signals: what to send, then how long to wait."""

    send: Callable[[], None]
    grace_seconds: float


def rung(world: World, process: Process, name: str, patience: float) -> Rung:
    """Return the rung that sends *process* the signal *name*, and lets it hear that."""

    def send() -> None:
        world.signal(process, name)
        world.signal(process, "CONT")  # a stopped process hears nothing else

    return Rung(send, patience)


def is_stopped(world: World, process: Process) -> bool:
    """Tell whether *process* is stopped by a signal."""
    status = world.status(process.pid)
    return status is not None and status.state in "Tt"


def must_not_be_stopped(world: World, name: str, master: Process) -> None:
    """Refuse the reload of a master that is stopped by a signal.

    :param name: what the program is called.
    :raises Failure: STOPPED_BY_SIGNAL.
    """
    if is_stopped(world, master):
        raise Failure(
            Fault.STOPPED_BY_SIGNAL,
            f"the master of {name} ({master}) is stopped by a signal; "
            f"continue it with: kill -CONT {master.pid}",
        )
