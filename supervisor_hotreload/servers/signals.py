"""The ladder of signals that ends a generation, one rung after the other."""

from __future__ import annotations

from supervisor_hotreload.core.model import Failure, Fault
from supervisor_hotreload.core.protocol import Rung as Rung
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World

QUICK_SECONDS = 5.0
"""Seconds between a quick stop and SIGKILL, and after SIGKILL."""


def rung(world: World, process: Process, name: str, patience: float) -> Rung:
    """Return the rung that sends *process* the signal *name* ('TERM').

    CONT follows it: a stopped process receives no other signal.
    """

    def send() -> None:
        world.signal(process, name)
        world.signal(process, "CONT")

    return Rung(send, patience)


def is_stopped(world: World, process: Process) -> bool:
    """Tell whether *process* is stopped by a signal."""
    status = world.status(process.pid)
    return status is not None and status.state in "Tt"


def must_not_be_stopped(world: World, name: str, master: Process) -> None:
    """Refuse the reload of a master that is stopped by a signal.

    :param name: the program's name.
    :raises Failure: STOPPED_BY_SIGNAL.
    """
    if is_stopped(world, master):
        raise Failure(
            Fault.STOPPED_BY_SIGNAL,
            f"the master of {name} ({master}) is stopped by a signal; "
            f"continue it with: kill -CONT {master.pid}",
        )
