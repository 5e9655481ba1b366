"""The reload as one flat generator. It does no I/O: it yields what it waits for.

*At every instant one process is tracked, at most two generations live, and at
most one of them is not ready.* Before ``adopt`` every failure leads back to
the old generation, which never stopped serving; after it nothing leads back,
and patience is followed by a stronger signal instead of a failure.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Callable, Optional, Protocol

from supervisor_hotreload.core.model import Fault, Overdue, Phase, Policy

RECALL = 2.0
"""Seconds to wait for a successor that may come after all, before giving up on it."""

DRAIN_PATIENCE = 60.0
"""Seconds after which old workers of a server that renews itself are left to it, unless
``drain_timeout`` is set: the next reload has to wait for so long."""

ATTEMPTS = 3
"""A request that comes before the master is promoted is lost: ask again."""


@dataclass(frozen=True)
class Wait:
    """Something to wait for.

    :param phase: the phase that the wait is.
    :param until: polled; anything truthy ends the wait and is its result.
    :param timeout: seconds until Overdue is thrown in; None waits for ever.
    :param fault: the kind of that Overdue.
    :param stepwise: the seconds begin anew whenever more workers are ready than ever before.
    :param told: the seconds that an Overdue speaks of, where those are of a part only.
    """

    phase: Phase
    until: Callable[[], Any]
    timeout: Optional[float]
    fault: Fault = Fault.INTERNAL
    stepwise: bool = False
    told: Optional[float] = None


Steps = Generator[Wait, Any, None]


class Stop(Protocol):
    """One rung of the ladder that ends a generation."""

    @property
    def send(self) -> Callable[[], None]: ...

    @property
    def patience(self) -> float: ...


class Server(Protocol):
    """What a family of servers knows about one reload of one program."""

    def reexec(self) -> None:
        """Ask the old master for a successor."""

    def successor(self) -> Any:
        """Return the successor once there is one."""

    def ready(self, new: Any) -> Any:
        """Return truthy when every intended worker of *new* accepts."""

    def baked(self, new: Any, seconds: float) -> Any:
        """Return truthy when *new* has stayed ready for *seconds*."""

    def serving(self) -> bool:
        """Tell whether the old generation still lives, so that there is a way back."""

    def recall(self) -> Optional[bool]:
        """Make sure that a successor asked for comes now or never; False: none was asked for."""

    def retirement(self) -> Iterable[Stop]:
        """Return the ladder that ends the old generation gracefully."""

    def dismissal(self, new: Any) -> Iterable[Stop]:
        """Return the ladder that ends the successor."""

    def retired(self) -> Any:
        """Return truthy when the old generation is gone."""

    def dismissed(self, new: Any) -> Any:
        """Return truthy when the successor is gone."""

    def promoted(self, new: Any) -> Any:
        """Return truthy when *new* is a master like any other."""


class InPlace(Protocol):
    """What a family knows about a reload that keeps its master: it replaces its own workers."""

    @property
    def master(self) -> Any:
        """The process whose pid stays."""

    def renew(self) -> None:
        """Ask the master to replace its workers; when it raises nothing was touched."""

    def renewed(self) -> Any:
        """Return truthy when every intended worker is a new one that accepts."""

    def baked(self, seconds: float) -> Any:
        """Return truthy when the new workers have stayed ready for *seconds*."""

    def drained(self) -> Any:
        """Return truthy when no old worker is left."""

    def leftover(self) -> Any:
        """Return, truthy, what is said of the old workers that are left to finish."""


class Check(Protocol):
    """A command that has the last word before something that cannot be undone."""

    def __call__(self, new: Any) -> bool: ...

    def tail(self) -> str:
        """Return the end of what it has printed, as the end of a sentence."""

    def close(self) -> None: ...


class Keeper(Protocol):
    """Whoever keeps the program running: supervisord, or the wrapper."""

    def expect(self, new: Any) -> None:
        """Know *new* for the successor, in case the old master dies."""

    def adopt(self, new: Any) -> None:
        """Take *new* as the program's own. The point of no return."""


def reload(server: Server, policy: Policy, keeper: Keeper, check: Optional[Check] = None) -> Steps:
    """Replace a generation by a new one. Each yield is one phase, each phase has its deadline.

    :param server: the family of the program, bound to its old generation.
    :param keeper: adopts the successor.
    :param check: asked once the successor is ready.
    :raises Failure: when the old generation serves on instead.
    """
    try:
        new = yield from spawn(server, policy.spawn_timeout)
    except Exception:
        yield from undo(server, None)
        raise
    yield from resume(server, policy, keeper, new, check)


def resume(
    server: Server, policy: Policy, keeper: Keeper, new: Any, check: Optional[Check] = None
) -> Steps:
    """Go on with a reload whose successor *new* exists, as :func:`reload` does."""
    try:
        keeper.expect(new)
        yield Wait(Phase.BOOTING, lambda: server.ready(new), policy.ready_timeout, Fault.NOT_READY)
        if check is not None:
            yield from ask(check, new, policy.check_timeout)
        if policy.bake:
            yield Wait(Phase.BAKING, lambda: server.baked(new, policy.bake), None)
        keeper.adopt(new)
    except Exception:
        yield from undo(server, new)
        raise
    yield from end(Phase.DRAINING, server.retirement(), server.retired)
    with suppress(Overdue):  # it serves; the next reload asks until it is heard
        yield Wait(Phase.PROMOTING, lambda: server.promoted(new), policy.promote_timeout)


def in_place(
    server: InPlace, policy: Policy, commit: Callable[[], None], check: Optional[Check] = None
) -> Steps:
    """Let a server replace its own workers; nothing leads back from its first step.

    :param commit: called right after that.
    :param check: asked when the new workers serve; it can tell, not undo.
    :raises Failure: when the new workers do not serve; what does is to be observed.
    """
    server.renew()
    commit()
    timeout = policy.ready_timeout
    yield Wait(Phase.REPLACING, server.renewed, timeout, Fault.NOT_READY, stepwise=True)
    if check is not None:
        yield from ask(check, server.master, policy.check_timeout)
    if policy.bake:
        yield Wait(Phase.BAKING, lambda: server.baked(policy.bake), None)
    try:
        yield Wait(Phase.DRAINING, server.drained, policy.drain_timeout or DRAIN_PATIENCE)
    except Overdue:  # they end when they have finished; the new ones serve
        yield Wait(Phase.DRAINING, server.leftover, None)


def tried(trial: Check, policy: Policy, steps: Steps) -> Steps:
    """Go through *steps* only if *trial* agrees, before anything is touched.

    :raises Failure: TRIAL_FAILED.
    """
    yield from ask(trial, None, policy.check_timeout, Fault.TRIAL_FAILED)
    yield from steps


def spawn(server: Server, timeout: float) -> Generator[Wait, Any, Any]:
    """Ask for a successor until there is one."""
    for _ in range(ATTEMPTS):
        server.reexec()
        try:
            return (
                yield Wait(
                    Phase.SPAWNING,
                    server.successor,
                    timeout / ATTEMPTS,
                    Fault.NO_SUCCESSOR,
                    told=timeout,
                )
            )
        except Overdue:
            continue
    raise Overdue(Fault.NO_SUCCESSOR, f"spawning was not over in {timeout:g} s")


def ask(check: Check, new: Any, timeout: float, fault: Fault = Fault.CHECK_FAILED) -> Steps:
    """Let a command decide."""
    try:
        yield Wait(Phase.CHECKING, lambda: check(new), timeout, fault)
    except Overdue:
        late = f"{check} was not over in {timeout:g} s (check_timeout){check.tail()}"
        raise Overdue(fault, late) from None
    finally:
        check.close()


def undo(server: Server, new: Any) -> Steps:
    """End the successor and wait until it is gone; the old generation serves on."""
    if not server.serving():
        return  # the successor is all there is
    if new is None:
        if server.recall() is False:
            return
        try:
            new = yield Wait(Phase.UNDOING, server.successor, RECALL)
        except Overdue:
            return
    yield from end(Phase.UNDOING, server.dismissal(new), lambda: server.dismissed(new))


def end(phase: Phase, ladder: Iterable[Stop], gone: Callable[[], Any]) -> Steps:
    """Climb the ladder until the generation is gone."""
    for stop in ladder:
        stop.send()
        try:
            yield Wait(phase, gone, stop.patience)
        except Overdue:
            continue
        return
