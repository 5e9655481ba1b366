"""What reloads each program unattended, and how its latest reload went: all that the
event listener has to know, from the one place that reads the configuration."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from supervisor_hotreload import servers
from supervisor_hotreload.core.model import Failure, Triggers
from supervisor_hotreload.core.text import LONGEST, matches
from supervisor_hotreload.plugin.events import unheard
from supervisor_hotreload.plugin.program import SupervisedProgram
from supervisor_hotreload.plugin.service import ReloadService
from supervisor_hotreload.plugin.supervisord import beside_pidfile
from supervisor_hotreload.servers.settings import PREFIX, Settings
from supervisor_hotreload.system.process import age_of

DEFAULT = Triggers()

SILENCE = 20.0
"""Seconds without a question after which a listener does not work: it asks every 5."""


@dataclass(frozen=True)
class Fixed:
    """What the configuration tells of one program.

    :param struct: that, as XML-RPC has it.
    :param after: the programs it waits for, by the name in the setting.
    """

    struct: dict[str, Any]
    after: dict[str, list[str]]


class TriggerTable:
    """The triggers of every program of one supervisord.

    Only what has changed is handed out: it is asked for every few seconds.

    :param reloads: where reloads are asked for.
    """

    def __init__(self, reloads: ReloadService) -> None:
        self.reloads = reloads
        self._remarks: dict[str, Remark] = {}
        self._settings = Settings()
        self._trouble = ""
        self._errors: list[str] = []
        self._fixed: dict[str, Fixed] = {}
        self._marks: dict[str, Any] = {}
        self._changed: dict[str, int] = {}
        self._number = 0
        self._asked = 0.0

    def read(self, revision: str) -> dict[str, Any]:
        """Return what has changed since *revision*; everything where that is not known."""
        self._asked = time.monotonic()
        members = [t for group in self.reloads.supervised.groups().values() for t in group]
        self._update(members)
        instance = self.reloads.announcer.instance
        now = f"{instance}.{self._number}"
        if now == revision:
            return {"revision": now}
        known, _, number = revision.partition(".")
        since = int(number) if known == instance and number.isdigit() else 0
        return {
            "revision": now,
            "instance": instance,
            "state_file": self._state_file(),
            "listener_age": self.reloads.supervised.listener_age(),
            "sighup": self._settings.sighup(),
            "errors": self._errors,
            "names": [tracked.name for tracked in members],
            "programs": [self._row(t) for t in members if self._changed[t.name] > since],
        }

    def warnings(self) -> list[str]:
        """Return what keeps unattended reloads from working: each line is for an operator."""
        supervised = self.reloads.supervised
        silent = min(supervised.listener_age(), time.monotonic() - self._asked)
        if silent < SILENCE:
            return []
        return [
            f"the event listener {name} has not asked for {silent:.0f} s, nothing is reloaded "
            f"unattended; its log says why"
            for name in supervised.listeners()
        ]

    def note(self, tracked: SupervisedProgram, trigger: str, wait: float, failure: str) -> None:
        """Take note of what the listener does; 0 seconds until the next attempt: it has begun."""
        if wait == 0:
            self.reloads.supervised.logger.info(f"hotreload: {tracked.name}: {trigger}")
        attempt = time.monotonic() + wait if wait >= 0 else 0.0
        self._remarks[tracked.name] = Remark(trigger[:LONGEST], attempt, failure[:LONGEST])

    def remark(self, tracked: SupervisedProgram) -> dict[str, Any]:
        """Return what the listener has said of a program, as part of a reload info."""
        return self._remarks.get(tracked.name, Remark()).shown()

    # -- what the configuration tells

    def _update(self, members: list[SupervisedProgram]) -> None:
        """Find out what has changed since it was last asked."""
        before, trouble = self._settings, self._trouble
        try:
            self._settings, self._trouble = self.reloads.settings(), ""
        except Failure as failure:
            self._trouble = failure.reason  # the last settings hold
        same = self._settings is before and self._trouble == trouble
        if not same or self._fixed.keys() != {tracked.name for tracked in members}:
            self._number += 1
            self._fix(members)
        for tracked in members:
            mark = self._mark(tracked)
            if self._marks.get(tracked.name) != mark:
                self._number += 1
                self._marks[tracked.name] = mark
                self._changed[tracked.name] = self._number

    def _fix(self, members: list[SupervisedProgram]) -> None:
        errors = [self._trouble] if self._trouble else []
        self._fixed = {
            tracked.name: self._fixed_of(tracked, members, errors) for tracked in members
        }
        self._errors = list(dict.fromkeys(errors + self._settings.errors()))
        self._marks.clear()

    def _fixed_of(
        self, tracked: SupervisedProgram, members: list[SupervisedProgram], errors: list[str]
    ) -> Fixed:
        process = str(tracked.process.config.name)
        triggers, bad = self._settings.triggers(tracked.group, process)
        where = f"[{PREFIX}{tracked.name}]"
        errors += bad
        for condition in triggers.on:
            why = unheard(condition.event, self.reloads.supervised.pools())
            if why is not None:
                errors.append(f"{where} on = {condition.event}: {why}")
        after = {name: _meant(name, members) for name in triggers.after}
        errors += [f"{where} after = {name}: no such program" for name in after if not after[name]]
        only = self._settings.programs()
        listed = only is None or tracked.group in only or tracked.name in only
        struct = {
            "name": tracked.name,
            "group": tracked.group,
            "process": process,
            "likely": listed and servers.family_by_command(tracked.program) is not None,
            "triggers": _told(triggers),
        }
        return Fixed(struct, after)

    # -- how things are

    def _mark(self, tracked: SupervisedProgram) -> Any:
        """Return what changes when the row of a program does."""
        name = tracked.name
        latest = self.reloads.announcer.latest(name)
        exits = [told["count"] for told in self._exits(name)]
        return (
            tracked.pid,
            tracked.process.state,
            self.reloads.announcer.serial(name),
            latest.outcome if latest is not None else None,
            self._drains_on(name),
            exits,
        )

    def _row(self, tracked: SupervisedProgram) -> dict[str, Any]:
        current = tracked.current()
        return {
            **self._fixed[tracked.name].struct,
            "statename": tracked.state,
            "pid": tracked.pid,
            "rights": [" ".join(map(str, ids)) for ids in tracked.rights],
            "age": age_of(current) if current is not None else 0.0,
            "after": self._exits(tracked.name),
            **self._latest(tracked),
        }

    def _exits(self, name: str) -> list[dict[str, Any]]:
        """Return how often the programs that *name* waits for have exited as expected."""
        rows = []
        for spec, meant in self._fixed[name].after.items():
            found = [self.reloads.exits.of(other) for other in meant]
            ended = [seconds for count, seconds in found if count]
            count = sum(count for count, _ in found)
            rows.append({"name": spec, "count": count, "ago": min(ended, default=0.0)})
        return rows

    def _latest(self, tracked: SupervisedProgram) -> dict[str, Any]:
        latest = self.reloads.announcer.latest(tracked.name)
        row: dict[str, Any] = {
            "active": self.reloads.driver.active(tracked.name) is not None,
            "drains_on": self._drains_on(tracked.name),
            "reload": self.reloads.announcer.serial(tracked.name),
        }
        if latest is not None:
            row.update(
                outcome=latest.outcome.value,
                fault=int(latest.fault or 0),
                reason=latest.reason,
                serving=latest.serving,
                seconds=latest.seconds,
                old_pid=latest.old_pid,
                new_pid=latest.new_pid,
            )
        return row

    def _drains_on(self, name: str) -> bool:
        active = self.reloads.driver.active(name)
        return active is not None and active.drains_on

    def _state_file(self) -> str:
        """Return where a listener may keep what it has to know after a restart."""
        return beside_pidfile(self.reloads.supervised.options, ".hotreload.json")


def _meant(name: str, members: list[SupervisedProgram]) -> list[str]:
    return [t.name for t in members if matches(name, t.group, str(t.process.config.name))]


def _told(triggers: Triggers) -> dict[str, Any]:
    """Return the triggers that are not the default, as XML-RPC has them."""
    found = {
        name: value for name, value in vars(triggers).items() if value != getattr(DEFAULT, name)
    }
    if triggers.on:
        found["on"] = [{"event": c.event, "tokens": dict(c.tokens)} for c in triggers.on]
    return found


@dataclass(frozen=True)
class Remark:
    """What the listener has said of a program, for operators.

    :param trigger: what fired last.
    :param attempt: when the next attempt is due, on the monotonic clock; 0 for none.
    :param failure: why the last attempt has failed.
    """

    trigger: str = ""
    attempt: float = 0.0
    failure: str = ""

    def shown(self) -> dict[str, Any]:
        """Return it as part of a reload info."""
        left = max(0.0, self.attempt - time.monotonic()) if self.attempt else -1.0
        return {"trigger": self.trigger, "next_attempt": left, "trigger_failure": self.failure}
