"""The reload as one flat generator. It does no I/O: it yields what it waits for.

The invariant: at every instant supervisord tracks one process of the program, at most two
generations live, and at most one of them is not ready.

Adoption is the point of no return. A failure before it rolls back: the successor is ended,
and the old generation serves on; it has never stopped. After it nothing fails any more: a
process that does not end in time gets a stronger signal.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Callable, Optional, Protocol

from supervisor_hotreload.core.model import Fault, Overdue, Phase, Policy

RECALL_SECONDS = 2.0
"""How long a rollback waits for a successor that was requested and has not appeared. The old
master may have received the request late."""

DRAIN_SECONDS = 60.0
"""How long a reload in place waits for the old workers where ``drain_timeout`` is not set.
Then the server ends them by itself. The next reload of the program has to wait so long."""

REQUESTS = 3
"""How often a successor is requested within ``spawn_timeout``: a master that is not promoted
yet loses a request."""


@dataclass(frozen=True)
class Wait:
    """A condition that the reload waits for.

    :param phase: the phase that the reload is in meanwhile.
    :param until: is polled. A truthy result ends the wait and is its value.
    :param timeout: in seconds; then Overdue is thrown in. None waits for ever.
    :param fault: the fault of that Overdue.
    :param awaited: what is waited for, as the object of 'timed out waiting for'.
    :param for_each: the timeout starts again when another worker is ready.
    """

    phase: Phase
    until: Callable[[], Any]
    timeout: Optional[float]
    fault: Fault = Fault.INTERNAL
    awaited: str = ""
    for_each: bool = False


Steps = Generator[Wait, Any, None]


@dataclass(frozen=True)
class Rung:
    """One rung of the ladder of signals that ends a generation, from the mildest to SIGKILL.

    :param send: sends the signal.
    :param grace_seconds: the grace period; then the next rung is climbed.
    """

    send: Callable[[], None]
    grace_seconds: float


class Server(Protocol):
    """What a family of servers does in one reload of one program."""

    def reexec(self) -> None:
        """Ask the old master for a successor."""

    def successor(self) -> Any:
        """Return the successor, something falsy while there is none."""

    def ready(self, new: Any) -> Any:
        """Return something truthy once every intended worker of *new* accepts requests."""

    def baked(self, new: Any, seconds: float) -> Any:
        """Return something truthy once *new* has stayed ready for *seconds*."""

    def serving(self) -> bool:
        """Tell whether the old generation lives, so that a rollback is possible."""

    def recall(self) -> Optional[bool]:
        """Make a successor that was requested appear now or never.

        :return: False when none was requested.
        """

    def retirement(self) -> Iterable[Rung]:
        """Return the ladder that ends the old generation gracefully."""

    def dismissal(self, new: Any) -> Iterable[Rung]:
        """Return the ladder that ends the successor *new*."""

    def retired(self) -> Any:
        """Return something truthy once the old generation is gone."""

    def dismissed(self, new: Any) -> Any:
        """Return something truthy once the successor *new* is gone."""

    def promoted(self, new: Any) -> Any:
        """Return something truthy once *new* is promoted: it can be reloaded in its turn."""


class InPlace(Protocol):
    """What a family does in one reload in which the master stays and replaces its workers."""

    @property
    def master(self) -> Any:
        """The master, whose pid stays."""

    def renew(self) -> None:
        """Ask the master to replace its workers. If it raises, nothing was changed."""

    def renewed(self) -> Any:
        """Return something truthy once every intended worker is new and accepts requests."""

    def baked(self, seconds: float) -> Any:
        """Return something truthy once the new workers have stayed ready for *seconds*."""

    def drained(self) -> Any:
        """Return something truthy once no old worker is left."""

    def leftover(self) -> Any:
        """Return what the log says of the old workers that are left to finish; truthy."""


class Judge(Protocol):
    """A command that decides whether a reload goes on: a trial, or a health check."""

    def __call__(self, new: Any) -> bool:
        """Return True once the command has agreed. The first call starts it.

        :param new: the successor, None when nothing was changed yet.
        :raises Failure: when it has not agreed.
        """

    def tail(self) -> str:
        """Return the end of its output as the end of a sentence: ': TEXT', or ''."""

    def close(self) -> None:
        """End the command if it still runs."""


class Adopter(Protocol):
    """What tracks the program's process: supervisord, or hotreload-run."""

    def expect(self, new: Any) -> None:
        """Note that *new* is the successor. It inherits if the old master dies now."""

    def adopt(self, new: Any) -> None:
        """Track *new* as the program's process. This is the point of no return.

        :raises Failure: when *new* may not be adopted; then the reload rolls back.
        """


def reload(
    server: Server, policy: Policy, adopter: Adopter, health_check: Optional[Judge] = None
) -> Steps:
    """Replace the old generation by a new one. Each yield is one phase with its timeout.

    :param server: knows the old generation.
    :param health_check: is asked once the successor is ready.
    :raises Failure: when the reload was rolled back and the old generation serves on.
    """
    try:
        new = yield from spawn(server, policy.spawn_timeout)
    except Exception:
        yield from undo(server, None)
        raise
    yield from resume(server, policy, adopter, new, health_check)


def resume(
    server: Server,
    policy: Policy,
    adopter: Adopter,
    new: Any,
    health_check: Optional[Judge] = None,
) -> Steps:
    """Do the rest of :func:`reload` with the successor *new*, which exists already."""
    try:
        adopter.expect(new)
        yield Wait(
            Phase.BOOTING,
            lambda: server.ready(new),
            policy.ready_timeout,
            Fault.NOT_READY,
            "workers to boot",
        )
        if health_check is not None:
            yield from ask(health_check, new, policy.check_timeout)
        if policy.bake:
            yield Wait(Phase.BAKING, lambda: server.baked(new, policy.bake), None)
        adopter.adopt(new)
    except Exception:
        yield from undo(server, new)
        raise
    yield from end(Phase.DRAINING, server.retirement(), server.retired)
    with suppress(Overdue):  # it serves; the next reload requests a successor several times
        yield Wait(Phase.PROMOTING, lambda: server.promoted(new), policy.promote_timeout)


def in_place(
    server: InPlace,
    policy: Policy,
    commit: Callable[[], None],
    health_check: Optional[Judge] = None,
) -> Steps:
    """Let the master replace its own workers. No rollback is possible once it was asked.

    :param commit: called as soon as the master was asked.
    :param health_check: is asked once the new workers serve. It can fail the reload, but not
        undo it.
    :raises Failure: when the new workers do not serve. Look at the processes to see what does.
    """
    server.renew()
    commit()
    yield Wait(
        Phase.REPLACING,
        server.renewed,
        policy.ready_timeout,
        Fault.NOT_READY,
        "workers to be replaced",
        for_each=True,
    )
    if health_check is not None:
        yield from ask(health_check, server.master, policy.check_timeout)
    if policy.bake:
        yield Wait(Phase.BAKING, lambda: server.baked(policy.bake), None)
    try:
        yield Wait(Phase.DRAINING, server.drained, policy.drain_timeout or DRAIN_SECONDS)
    except Overdue:  # the old workers end when they have finished; the new ones serve
        yield Wait(Phase.DRAINING, server.leftover, None)


def tried(trial: Judge, policy: Policy, steps: Steps) -> Steps:
    """Ask *trial* before anything is changed, and take *steps* if it agrees.

    :raises Failure: TRIAL_FAILED when it does not agree.
    """
    yield from ask(trial, None, policy.check_timeout, Fault.TRIAL_FAILED)
    yield from steps


def spawn(server: Server, timeout: float) -> Generator[Wait, Any, Any]:
    """Request a successor until there is one, and return it.

    :param timeout: in seconds, for all requests together.
    :raises Overdue: NO_SUCCESSOR.
    """
    awaited = "the successor to start"
    for number in range(1, REQUESTS + 1):
        server.reexec()
        with suppress(Overdue):
            asked = f"{awaited} (request {number} of {REQUESTS})"
            seconds = timeout / REQUESTS
            return (yield Wait(Phase.SPAWNING, server.successor, seconds, awaited=asked))
    raise Overdue(Fault.NO_SUCCESSOR, timed_out(timeout, awaited))


def ask(judge: Judge, new: Any, timeout: float, fault: Fault = Fault.CHECK_FAILED) -> Steps:
    """Wait until *judge* agrees.

    :param timeout: the setting ``check_timeout``.
    :raises Failure: *fault* when it does not agree, or not in time.
    """
    try:
        yield Wait(Phase.CHECKING, lambda: judge(new), timeout, fault, str(judge))
    except Overdue:
        reason = f"{timed_out(timeout, str(judge), 'check_timeout')}{judge.tail()}"
        raise Overdue(fault, reason) from None
    finally:
        judge.close()


def undo(server: Server, new: Any) -> Steps:
    """End the successor and wait until it is gone. The old generation serves on.

    :param new: the successor, None when none has appeared yet.
    """
    if not server.serving():
        return  # the successor is all that is left
    if new is None:
        if server.recall() is False:
            return
        try:
            new = yield Wait(Phase.UNDOING, server.successor, RECALL_SECONDS)
        except Overdue:
            return
    yield from end(Phase.UNDOING, server.dismissal(new), lambda: server.dismissed(new))


def end(phase: Phase, ladder: Iterable[Rung], gone: Callable[[], Any]) -> Steps:
    """Climb the ladder of signals until the generation is gone."""
    for rung in ladder:
        rung.send()
        try:
            yield Wait(phase, gone, rung.grace_seconds)
        except Overdue:
            continue
        return


def timed_out(seconds: float, awaited: str, setting: str = "") -> str:
    """Return the message of a timeout.

    :param setting: the setting that the seconds come from.
    """
    named = f" ({setting})" if setting else ""
    return f"timed out after {round(seconds, 1):g} s{named} waiting for {awaited}"
