"""Asks for the reloads that are due, and follows them to their end."""

from __future__ import annotations

import xmlrpc.client
from dataclasses import dataclass
from typing import Any, Callable

from supervisor_hotreload.core.model import Fault, Outcome
from supervisor_hotreload.listener.log import say
from supervisor_hotreload.listener.notify import NotifyCommands
from supervisor_hotreload.listener.roster import Roster
from supervisor_hotreload.listener.rpcclient import NoAnswer, RpcClient
from supervisor_hotreload.listener.watched_program import WatchedProgram, backoff
from supervisor_hotreload.listener.watcher import Watcher

FOLLOW_SECONDS = 0.5
"""Between two looks at a reload under way."""

REPEAT_SECONDS = 2.0
"""Until a reload that could not begin yet is asked for again."""

PASSING_FAULTS = frozenset({Fault.STILL_STARTING, Fault.ALREADY_RELOADING, Fault.SHUTDOWN_STATE})
"""Refusals that pass by themselves."""

WANTED_FAULTS = frozenset({Fault.NOT_RUNNING, Fault.BAD_NAME, Fault.CANCELLED, Fault.STOPPED})
"""Ends that an operator wanted: no other attempt is made."""


@dataclass(frozen=True)
class Attempts:
    """Asks for the reloads of each program, and follows them.

    :param save: writes the state file; it is called before a reload is asked for.
    """

    rpc: RpcClient
    roster: Roster
    watcher: Watcher
    notify_commands: NotifyCommands
    save: Callable[[], None]

    def follow(self, program: WatchedProgram, now: float) -> None:
        """Compare what supervisord reports about *program* with what is planned."""
        row = program.row
        for name, is_older in self.roster.new_exits(program, now):
            self.roster.dirty = True
            if is_older:
                _say_no_reload(program, f"after = {name}", "the running generation is newer")
            else:
                self.roster.trigger(program, f"after = {name}", now)
        program.resolve_attempt()
        if program.seen is None:  # a reload that ended before this listener is no news
            program.seen = "" if row["active"] else row["reload"]
        elif not row["active"] and row["reload"] != program.seen:
            program.seen = row["reload"]
            self.roster.dirty = True
            self._on_end(program, now)

    def try_reload(self, program: WatchedProgram, now: float) -> None:
        """Ask for the planned reload of *program* if there still is a reason for it."""
        self.roster.dirty |= self.watcher.look(program, now)
        when, due, row = program.next_attempt(), program.due, program.row
        if when is None or due is None or when > now:
            return
        if program.born and due.last < program.born:
            _say_no_reload(program, due.cause, "the running generation is newer")
            program.due = None
        elif row["statename"] in ("STARTING", "BACKOFF"):
            program.hold = now + FOLLOW_SECONDS
        elif row["statename"] != "RUNNING":
            _say_no_reload(program, due.cause, f"the program is {row['statename']}")
            program.drop_plan(now)
        elif row["active"] or self.roster.is_group_busy(program):
            program.hold = now + FOLLOW_SECONDS
        else:
            self._request(program, now)
        self.roster.dirty = True

    def _request(self, program: WatchedProgram, now: float) -> None:
        attempt = program.begin_attempt(now)
        self.roster.dirty = True
        self.save()  # before the request: after a crash it must not be asked for twice
        try:
            self.rpc.call("hotreload.reloadProcess", program.full_name, False)
        except xmlrpc.client.Fault as fault:
            self._on_refusal(program, fault, now)
        except NoAnswer as error:
            say(f"{program.name}: {error}")
            program.hold = now + FOLLOW_SECONDS
        else:
            program.due = None
            self._report(program, attempt.cause, 0.0)
            say(f"{program.name}: reload started: {attempt.cause}")

    def _on_refusal(self, program: WatchedProgram, fault: xmlrpc.client.Fault, now: float) -> None:
        if fault.faultCode in PASSING_FAULTS:
            program.attempt = None
            program.hold = now + REPEAT_SECONDS
        elif fault.faultCode in WANTED_FAULTS:
            say(f"{program.name}: no reload: {fault.faultString}")
            program.drop_plan(now)
        else:
            cause = program.attempt.cause if program.attempt is not None else ""
            reason = fault.faultString
            if self._on_failure(program, reason, now):
                refusal = {"outcome": "refused", "fault": fault.faultCode, "reason": reason}
                self._run_notify(program, cause, now, refusal)

    # -- how it ended

    def _on_end(self, program: WatchedProgram, now: float) -> None:
        row, attempt = program.row, program.attempt
        cause = attempt.cause if attempt is not None else ""
        if row["outcome"] == Outcome.SUCCEEDED.value:
            program.succeed(now)
            program.excesses = 0
            if cause:
                program.futile += cause.startswith("max_memory")
                say(f"{program.name}: reload succeeded in {row['seconds']:.1f} s; {row['serving']}")
                self._report(program, cause, -1.0)
        elif attempt is None:
            program.ended = now
        elif row["fault"] in WANTED_FAULTS:
            say(f"{program.name}: reload ended: {row['reason']}; there is no further attempt")
            program.attempt = None
            program.retry = now + backoff(1, program.min_interval)
            program.ended = now
        else:
            self._on_failure(program, f"{row['reason']}; {row['serving']}", now)
        self._run_notify(program, cause, now, {})

    def _on_failure(self, program: WatchedProgram, reason: str, now: float) -> bool:
        """Plan the next attempt; return whether the reason differs from the last one."""
        attempt = program.attempt
        assert attempt is not None
        is_new = _without_numbers(program.reason) != _without_numbers(reason)
        pause = program.fail(reason, now)
        if is_new:
            say(
                f"{program.name}: reload failed: {reason}; next attempt in {pause:g} s, then at "
                f"growing intervals, and whenever a trigger changes"
            )
        for member in self.roster.group_members(program):
            if member.due is not None and member.due.cause == attempt.cause:
                member.retry = max(member.retry, program.retry)  # it has the same release
        self._report(program, attempt.cause, pause)
        return is_new

    def _report(self, program: WatchedProgram, cause: str, wait: float) -> None:
        """Report a trigger to supervisord, where ``hotreload --status`` shows it."""
        text = f"reload asked for by the listener: {cause}"
        try:
            self.rpc.call("hotreload.noteTrigger", program.full_name, text, wait, program.reason)
        except (xmlrpc.client.Fault, NoAnswer) as error:
            say(f"{program.name}: {error}")

    def _run_notify(
        self, program: WatchedProgram, cause: str, now: float, more: dict[str, Any]
    ) -> None:
        """Run the program's ``notify`` command with its latest reload, and *more* than that."""
        command = program.setting("notify", "")
        if not command:
            return
        row = program.row
        keys = ("name", "group", "process", "outcome", "fault", "reason", "serving", "seconds")
        outcome = {key: row.get(key, "") for key in (*keys, "old_pid", "new_pid")}
        outcome.update(more)
        try:
            info = self.rpc.call("hotreload.getReloadInfo", program.full_name)
            outcome["output"] = [line[:500] for line in info["output"][-20:]]
        except (xmlrpc.client.Fault, NoAnswer) as error:
            outcome["output"] = [str(error)]
        when = program.next_attempt()
        outcome["trigger"] = cause
        outcome["next_attempt"] = None if when is None else round(max(0.0, when - now), 3)
        self.notify_commands.run(command, outcome, now)


def _say_no_reload(program: WatchedProgram, cause: str, why: str) -> None:
    say(f"{program.name}: {cause}: no reload: {why}")


def _without_numbers(text: str) -> str:
    """Return *text* without pids and times: what is left distinguishes reasons."""
    return "".join(character for character in text if not character.isdigit())
