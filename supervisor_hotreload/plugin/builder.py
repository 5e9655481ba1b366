"""Makes the steps of a reload from its plan, and what adopts its successor."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from typing import Callable, Optional

from supervisor_hotreload.core import protocol
from supervisor_hotreload.core.model import Failure, Fault, Outcome
from supervisor_hotreload.core.protocol import Steps, Wait
from supervisor_hotreload.core.reload import Reload
from supervisor_hotreload.core.text import TRACEBACK, printable
from supervisor_hotreload.plugin.admission import Plan
from supervisor_hotreload.plugin.program import SupervisedProgram
from supervisor_hotreload.servers.base import SuccessorReload
from supervisor_hotreload.servers.release_guard import ReleaseGuard
from supervisor_hotreload.servers.trial import Trial
from supervisor_hotreload.system.check import JudgingCommand
from supervisor_hotreload.system.command import RunAs
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World

EXPLAINED = frozenset(
    {
        Fault.NO_SUCCESSOR,
        Fault.SUCCESSOR_EXITED,
        Fault.NOT_READY,
        Fault.SERVER_EXITED,
    }
)
"""Faults of the new code: their reason ends with the exception that the program has printed."""

REASON_CHARACTERS = 300
"""Characters of such an exception that a reason shows: one line of a terminal or three."""


class ProgramAdopter:
    """Lets supervisord adopt the successor of one program (protocol.Adopter)."""

    def __init__(self, reload: Reload, program: SupervisedProgram, guard: ReleaseGuard) -> None:
        self._reload = reload
        self._program = program
        self._guard = guard

    def expect(self, new: Process) -> None:
        """Let *new* inherit the program should the old master die before the adoption."""
        self._reload.new_pid = new.pid
        self._program.generations.successor = new

    def adopt(self, new: Process) -> None:
        """Let supervisord track *new* from now on.

        :raises Failure: RELEASE_MOVED when the release has moved while *new* booted.
        """
        refusal = self._guard.refusal(new)
        if refusal:
            raise Failure(Fault.RELEASE_MOVED, f"{refusal}; reload again")
        self._program.adopt(new)
        self._reload.commit()
        self._reload.say(
            f"adopted: pid {new.pid} is the program's own process now, "
            f"generation {self._program.generations.number}"
        )


def steps(world: World, plan: Plan, reload: Reload) -> Steps:
    """Return the protocol of the plan's strategy.

    :raises Failure: when it cannot begin, before anything is touched.
    """
    program, policy = plan.program, plan.policy
    health_check = None
    if policy.check is not None:
        health_check = _command(plan, policy.check)
    adopter = ProgramAdopter(
        reload, program, ReleaseGuard(world, program.directory, program.rights)
    )
    if plan.successor is not None:
        server = plan.family.server(world, plan.old, policy, program.program)
        server.expect(plan.successor)
        resumed = protocol.resume(server, policy, adopter, plan.successor, health_check)
        return explained(resumed, reload)
    if plan.in_place:
        reload.new_pid = plan.old.master.pid

    def begin() -> Steps:  # after the trial: the server is looked at as it is by then
        if plan.in_place:
            renewal = plan.family.in_place(world, plan.old, policy, program.program)
            renewal.output = reload.output
            yield from protocol.in_place(renewal, policy, reload.commit, health_check)
        else:
            server = plan.family.server(world, plan.old, policy, program.program)
            reload.when_ended(_ends_late_successor(program, server))
            yield from protocol.reload(server, policy, adopter, health_check)

    command = trial(world, plan, reload)
    begun = explained(begin(), reload)
    return begun if command is None else protocol.tried(command, policy, begun)


def trial(world: World, plan: Plan, reload: Reload) -> Optional[JudgingCommand]:
    """Return the command that tries the release before anything is touched.

    :raises Failure: BAD_SETTING when the default command was asked for and there is none.
    """
    program, old = plan.program, plan.old
    command = plan.policy.check_before
    default: Optional[Trial] = None
    strategy = plan.family.strategies[plan.policy.strategy]
    if command == "default" or (command is None and strategy.tried):
        default = plan.family.trial(world, old, program.program)
        if default is None and command == "default":
            raise Failure(
                Fault.BAD_SETTING,
                f"[hotreload:{program.name}] check_before = default: command = "
                f"{program.program.command} does not say what to try; "
                f"write check_before = COMMAND",
            )
        if default is None:
            why = plan.family.why_no_trial(old)
            if why:
                reload.say(
                    f"warning: {program.name}: the release is not tried before the reload: "
                    f"{why}; set check_before = COMMAND"
                )
            return None
        command = shlex.join(default.words)
    if command is None and strategy.in_place:
        reload.say(
            f"warning: {program.name}: the release is not tried before the reload, and "
            f"{old.master} cannot go back from a broken one; set check_before = COMMAND"
        )
    if command is None or command == "none":
        return None
    return _command(plan, command, default or Trial((), command))


def _command(plan: Plan, command: str, tries: Optional[Trial] = None) -> JudgingCommand:
    """Return a command with the user, the directory and the environment of the program.

    :param tries: how it tries the release, without words where an operator says it; None for a
        health check.
    """
    program, config = plan.program, plan.program.process.config
    run_as, given = RunAs(config.uid), {**os.environ, **program.given, **(config.environment or {})}
    title, fault, hint = "", Fault.CHECK_FAILED, ""
    if tries is not None:
        if tries.words and not config.uid:  # only root may become another user
            run_as = tries.run_as
        given.update(tries.environment)
        title, fault = f"check_before ({tries.title})", Fault.TRIAL_FAILED
        by = "" if run_as.user is None else f" (as user {printable(str(run_as.user))})"
        hint = f"{by}; set check_before = COMMAND, or none"
    return JudgingCommand(
        program.name,
        command,
        plan.old.master,
        given,
        config.options.pidhistory.__setitem__,  # supervisord.reap calls finish of what is there
        title,
        fault,
        config.directory,
        config.umask,
        run_as,
        hint,
    )


def _ends_late_successor(
    program: SupervisedProgram, server: SuccessorReload
) -> Callable[[Reload], None]:
    """Return what ends a successor that was asked for and comes after the reload has failed."""

    def end_late_successor(reload: Reload) -> None:
        before = server.before  # None until the old master is asked for a successor
        failed = reload.outcome is not Outcome.SUCCEEDED
        if before is not None and failed and not reload.new_pid:
            program.unwanted.refuse_successor(before)

    return end_late_successor


def explained(steps: Steps, reload: Reload) -> Steps:
    """Go through *steps*; when the new code fails, say with which exception.

    supervisord may see that a process has ended before it has read what that has printed last.
    """
    try:
        yield from steps
    except Failure as failure:
        if failure.fault in EXPLAINED:
            turns = iter((False, False, True))  # in the second one it reads what was there
            yield Wait(reload.phase, lambda: next(turns), None)
            failure.reason += last_exception(reload.output)
        raise


EXCEPTION = re.compile(
    r"^[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit|NotFound)\b"  # Python
    r"|^(Error|\S+: error): "  # gunicorn, about its configuration and its command line
    r"|^Failed to (find|parse) "  # gunicorn, about its application (util.import_app)
    r"|^\S+:\d+:in .* \([A-Z][\w:]*(Error|Exception)\)$"  # Ruby
)

TRACEBACK_END = re.compile(r"^[A-Za-z_][\w.]*(: .*)?$")
"""The line that follows the frames of a traceback, whatever the exception is called."""


def last_exception(output: Iterable[str]) -> str:
    """Return the last exception that a program has printed, as the end of a sentence.

    gunicorn's own HaltServer is left out: it follows the exception that is the cause.
    """
    found: list[str] = []
    in_traceback = False
    for line in output:
        ends = in_traceback and TRACEBACK_END.match(line)
        if (ends or EXCEPTION.match(line)) and "HaltServer" not in line:
            found.append(line)
        in_traceback = TRACEBACK in line or (in_traceback and line[:1] in ("", " ", "\t"))
    if found[1:] and found[-2].startswith("Error: ") and found[-2].rstrip().endswith(":"):
        found[-1] = f"{found[-2].rstrip()} {found[-1]}"  # gunicorn's sentence, and its cause
    return f": {found[-1][:REASON_CHARACTERS]}" if found else ""
