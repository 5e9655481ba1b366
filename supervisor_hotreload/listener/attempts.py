"""Asks for the reloads that are due, and sees how they end."""

from __future__ import annotations

import xmlrpc.client
from typing import Any, Callable

from supervisor_hotreload.core.model import Fault, Outcome
from supervisor_hotreload.listener.log import say
from supervisor_hotreload.listener.notify import Notifier
from supervisor_hotreload.listener.program import Program, backoff
from supervisor_hotreload.listener.roster import Roster
from supervisor_hotreload.listener.rpcclient import NoAnswer, Server
from supervisor_hotreload.listener.watcher import Watcher

FOLLOW = 0.5
"""Seconds between two looks at a reload under way."""

AGAIN = 2.0
"""Seconds until a reload is asked for again that could not be begun yet."""

LATER = frozenset({Fault.STILL_STARTING, Fault.ALREADY_RELOADING, Fault.SHUTDOWN_STATE})
"""Refusals that will pass by themselves."""

OVER = frozenset({Fault.NOT_RUNNING, Fault.BAD_NAME, Fault.CANCELLED, Fault.STOPPED})
"""Ends that somebody wanted: nothing is tried again."""


class Attempts:
    """The reloads of every program.

    :param save: writes the state file; called before a reload is asked for.
    """

    def __init__(
        self,
        server: Server,
        roster: Roster,
        watcher: Watcher,
        notifier: Notifier,
        save: Callable[[], None],
    ) -> None:
        self._server = server
        self._roster = roster
        self._watcher = watcher
        self._notifier = notifier
        self._save = save

    def follow(self, program: Program, now: float) -> None:
        """Compare what supervisord tells of *program* with what is planned."""
        row = program.row
        for name, old in self._roster.exits(program, now):
            self._roster.dirty = True
            if old:
                say(f"{program.name}: after = {name}: its generation began later, no reload")
            else:
                self._roster.fire(program, f"after = {name}", now)
        program.resolve()
        if program.seen is None:  # what was before us is no news
            program.seen = "" if row["active"] else row["reload"]
        elif not row["active"] and row["reload"] != program.seen:
            program.seen = row["reload"]
            self._roster.dirty = True
            self._conclude(program, now)

    def attempt(self, program: Program, now: float) -> None:
        """Reload *program* if this still makes sense when one looks closely."""
        self._roster.dirty |= self._watcher.look(program, now)
        when, due, row = program.when(), program.due, program.row
        if when is None or due is None or when > now:
            return
        if program.born and due.last < program.born:
            say(f"{program.name}: {due.cause}: its generation began later, no reload")
            program.due = None
        elif row["statename"] in ("STARTING", "BACKOFF"):
            program.hold = now + FOLLOW
        elif row["statename"] != "RUNNING":
            say(f"{program.name}: {due.cause}: it is {row['statename']}, no reload")
            program.drop(now)
        elif row["active"] or self._roster.busy_mate(program):
            program.hold = now + FOLLOW
        else:
            self._ask(program, now)
        self._roster.dirty = True

    def _ask(self, program: Program, now: float) -> None:
        attempt = program.begin(now)
        self._roster.dirty = True
        self._save()  # before it is asked for: a crash now must not ask for it twice
        try:
            self._server.call("hotreload.reloadProcess", self._full(program), False)
        except xmlrpc.client.Fault as fault:
            self._refuse(program, fault, now)
        except NoAnswer as error:
            say(f"{program.name}: {error}")
            program.hold = now + FOLLOW
        else:
            program.due = None
            self._note(program, attempt.cause, 0.0)
            say(f"{program.name}: reload begun: {attempt.cause}")

    def _refuse(self, program: Program, fault: xmlrpc.client.Fault, now: float) -> None:
        if fault.faultCode in LATER:
            program.attempt = None
            program.hold = now + AGAIN
        elif fault.faultCode in OVER:
            say(f"{program.name}: no reload: {fault.faultString}")
            program.drop(now)
        else:
            cause = program.attempt.cause if program.attempt is not None else ""
            if self._fail(program, fault.faultString, now):
                told = {"outcome": "refused", "fault": fault.faultCode, "reason": fault.faultString}
                self._tell(program, cause, now, told)

    # -- how it ended

    def _conclude(self, program: Program, now: float) -> None:
        row, attempt = program.row, program.attempt
        cause = attempt.cause if attempt is not None else ""
        if row["outcome"] == Outcome.SUCCEEDED.value:
            program.succeed(now)
            program.swollen = 0
            if cause:
                program.futile += cause.startswith("max_memory")
                say(f"{program.name}: reload succeeded in {row['seconds']:.1f} s; {row['serving']}")
                self._note(program, cause, -1.0)
        elif attempt is None:
            program.ended = now
        elif row["fault"] in OVER:
            say(f"{program.name}: reload ended: {row['reason']}; it is not tried again")
            program.attempt = None
            program.retry = now + backoff(1, program.min_interval)
            program.ended = now
        else:
            self._fail(program, f"{row['reason']}; {row['serving']}", now)
        self._tell(program, cause, now, {})

    def _fail(self, program: Program, reason: str, now: float) -> bool:
        """Plan the next attempt; return whether the reason is another than before."""
        attempt = program.attempt
        assert attempt is not None
        known = _without_numbers(program.reason) == _without_numbers(reason)
        pause = program.fail(reason, now)
        if not known:
            say(
                f"{program.name}: reload failed: {reason}; tried again in {pause:g} s, then ever "
                f"more seldom, and when something changes"
            )
        for mate in self._roster.mates(program):
            if mate.due is not None and mate.due.cause == attempt.cause:
                mate.retry = max(mate.retry, program.retry)  # it would meet the same release
        self._note(program, attempt.cause, pause)
        return not known

    def _note(self, program: Program, cause: str, wait: float) -> None:
        """Let supervisord know, for those who ask it how things are."""
        try:
            self._server.call(
                "hotreload.noteTrigger",
                self._full(program),
                f"reload asked for by the listener: {cause}",
                wait,
                program.reason,
            )
        except (xmlrpc.client.Fault, NoAnswer) as error:
            say(f"{program.name}: {error}")

    def _tell(self, program: Program, cause: str, now: float, told: dict[str, Any]) -> None:
        """Run the program's ``notify`` command; *told* is what its latest reload does not tell."""
        command = program.setting("notify", "")
        if not command:
            return
        row = program.row
        keys = ("name", "group", "process", "outcome", "fault", "reason", "serving", "seconds")
        outcome = {key: row.get(key, "") for key in (*keys, "old_pid", "new_pid")}
        outcome.update(told)
        try:
            info = self._server.call("hotreload.getReloadInfo", self._full(program))
            outcome["output"] = [line[:500] for line in info["output"][-20:]]
        except (xmlrpc.client.Fault, NoAnswer) as error:
            outcome["output"] = [str(error)]
        when = program.when()
        outcome["trigger"] = cause
        outcome["next_attempt"] = None if when is None else round(max(0.0, when - now), 3)
        self._notifier.run(command, outcome, now)

    def _full(self, program: Program) -> str:
        return f"{program.row['group']}:{program.row['process']}"


def _without_numbers(text: str) -> str:
    """Return *text* without pids and times: what is left tells one reason from another."""
    return "".join(character for character in text if not character.isdigit())
