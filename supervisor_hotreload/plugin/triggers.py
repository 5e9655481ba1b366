"""The answers to the event listener: what reloads each program unattended, and how it went."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from supervisor_hotreload import servers
from supervisor_hotreload.core.model import Failure, Triggers
from supervisor_hotreload.core.text import LONGEST, matches
from supervisor_hotreload.plugin.listener_pools import why_not_received
from supervisor_hotreload.plugin.program import SupervisedProgram
from supervisor_hotreload.plugin.service import ReloadService
from supervisor_hotreload.plugin.structs import Struct, outcome_of
from supervisor_hotreload.plugin.supervisord import beside_pidfile
from supervisor_hotreload.servers.settings import PREFIX, Settings
from supervisor_hotreload.system.process import age_of

DEFAULT = Triggers()

SILENCE_SECONDS = 20.0
"""A listener that asks for nothing for so long does not work: it asks every 5 seconds."""


@dataclass(frozen=True)
class Configured:
    """The configuration of one program, as the listener gets it.

    :param struct: the part of its row that only an edit of the configuration changes.
    :param after: the programs whose exits reload it, by the name in the setting.
    """

    struct: Struct
    after: dict[str, list[str]]


@dataclass(frozen=True)
class Remark:
    """What the listener has reported about a program.

    :param trigger: what has asked for a reload.
    :param attempt: when the next attempt is due, on the monotonic clock; 0 for never.
    :param failure: why the latest attempt has failed.
    """

    trigger: str = ""
    attempt: float = 0.0
    failure: str = ""

    def struct(self) -> Struct:
        """Return it as a part of a reload info."""
        left = max(0.0, self.attempt - time.monotonic()) if self.attempt else -1.0
        return {"trigger": self.trigger, "next_attempt": left, "trigger_failure": self.failure}


class TriggerTable:
    """The triggers of every program of one supervisord.

    The listener asks every few seconds and gets only the rows that have changed. Each change
    has a number; a revision is the latest number, with the id of this supervisord.
    """

    def __init__(self, service: ReloadService) -> None:
        self._service = service
        self._remarks: dict[str, Remark] = {}
        self._settings = Settings()
        self._trouble = ""
        self._errors: list[str] = []
        self._configured: dict[str, Configured] = {}
        self._states: dict[str, Any] = {}
        self._changed: dict[str, int] = {}
        self._number = 0
        self._asked = 0.0

    def read(self, revision: str) -> Struct:
        """Return what has changed since *revision*, everything where that is unknown."""
        self._asked = time.monotonic()
        programs = self._service.supervised.programs()
        self._update(programs)
        instance = self._service.announcer.instance
        now = f"{instance}.{self._number}"
        if now == revision:
            return {"revision": now}
        known, _, number = revision.partition(".")
        since = int(number) if known == instance and number.isdigit() else 0
        return {
            "revision": now,
            "instance": instance,
            "state_file": beside_pidfile(self._service.supervised.options, ".hotreload.json"),
            "listener_age": self._service.supervised.listener_age(),
            "sighup": self._settings.sighup(),
            "errors": self._errors,
            "names": [program.name for program in programs],
            "programs": [self._row(one) for one in programs if self._changed[one.name] > since],
        }

    def warnings(self) -> list[str]:
        """Return why unattended reloads do not work, one line for each listener."""
        supervised = self._service.supervised
        silent = min(supervised.listener_age(), time.monotonic() - self._asked)
        if silent < SILENCE_SECONDS:
            return []
        return [
            f"the event listener {name} has not asked for {silent:.0f} s: nothing is reloaded "
            f"unattended; read its log"
            for name in supervised.listeners()
        ]

    def note(self, program: SupervisedProgram, trigger: str, wait: float, failure: str) -> None:
        """Record what the listener does.

        :param wait: seconds until the next attempt, 0 when it begins, negative for never.
        """
        if wait == 0:
            self._service.supervised.logger.info(f"hotreload: {program.name}: {trigger}")
        attempt = time.monotonic() + wait if wait >= 0 else 0.0
        self._remarks[program.name] = Remark(trigger[:LONGEST], attempt, failure[:LONGEST])

    def remark(self, program: SupervisedProgram) -> Struct:
        """Return what the listener has reported about a program, as a part of a reload info."""
        return self._remarks.get(program.name, Remark()).struct()

    # -- what has changed

    def _update(self, programs: list[SupervisedProgram]) -> None:
        """Give a number to each change since the last call."""
        before, trouble = self._settings, self._trouble
        try:
            self._settings, self._trouble = self._service.settings.read(), ""
        except Failure as failure:
            self._trouble = failure.reason  # the settings that were read last hold
        same = self._settings is before and self._trouble == trouble
        if not same or self._configured.keys() != {program.name for program in programs}:
            self._number += 1
            self._configure(programs)
        for program in programs:
            state = self._state(program)
            if self._states.get(program.name) != state:
                self._number += 1
                self._states[program.name] = state
                self._changed[program.name] = self._number

    def _state(self, program: SupervisedProgram) -> Any:
        """Return a value that changes whenever the row of a program does."""
        latest = self._service.announcer.latest(program.name)
        return (
            program.pid,
            program.process.state,
            self._service.announcer.serial(program.name),
            latest.outcome if latest is not None else None,
            self._drains_on(program.name),
            [row["count"] for row in self._exits(program.name)],
        )

    # -- the configuration

    def _configure(self, programs: list[SupervisedProgram]) -> None:
        errors = [self._trouble] if self._trouble else []
        self._configured = {one.name: self._read(one, programs, errors) for one in programs}
        self._errors = list(dict.fromkeys(errors + self._settings.errors()))
        self._states.clear()

    def _read(
        self, program: SupervisedProgram, programs: list[SupervisedProgram], errors: list[str]
    ) -> Configured:
        """Return the configuration of one program; what is wrong with it is added to *errors*."""
        process = str(program.process.config.name)
        triggers, bad = self._settings.triggers(program.group, process)
        section = f"[{PREFIX}{program.name}]"
        errors += bad
        for condition in triggers.on:
            why = why_not_received(condition.event, self._service.supervised.pools())
            if why:
                errors.append(f"{section} on = {condition.event}: {why}")
        after = {name: _named(name, programs) for name in triggers.after}
        errors += [
            f"{section} after = {name}: no such program" for name in after if not after[name]
        ]
        only = self._settings.programs()
        listed = only is None or program.group in only or program.name in only
        struct = {
            "name": program.name,
            "group": program.group,
            "process": process,
            "likely": listed and servers.family_by_command(program.program) is not None,
            "triggers": _changed_triggers(triggers),
        }
        return Configured(struct, after)

    # -- the rows

    def _row(self, program: SupervisedProgram) -> Struct:
        tracked = program.current()
        latest = self._service.announcer.latest(program.name)
        return {
            **self._configured[program.name].struct,
            "statename": program.state,
            "pid": program.pid,
            "rights": [" ".join(map(str, ids)) for ids in program.rights],
            "age": age_of(tracked) if tracked is not None else 0.0,
            "after": self._exits(program.name),
            "active": self._service.driver.active(program.name) is not None,
            "drains_on": self._drains_on(program.name),
            "reload": self._service.announcer.serial(program.name),
            **(outcome_of(latest) if latest is not None else {}),
        }

    def _exits(self, name: str) -> list[Struct]:
        """Return how often the programs that *name* is reloaded after have exited as expected."""
        rows = []
        for spec, names in self._configured[name].after.items():
            found = [self._service.exits.of(other) for other in names]
            ended = [seconds for count, seconds in found if count]
            count = sum(count for count, _ in found)
            rows.append({"name": spec, "count": count, "ago": min(ended, default=0.0)})
        return rows

    def _drains_on(self, name: str) -> bool:
        active = self._service.driver.active(name)
        return active is not None and active.drains_on


def _named(name: str, programs: list[SupervisedProgram]) -> list[str]:
    """Return the programs that *name* means, as in a setting."""
    return [p.name for p in programs if matches(name, p.group, str(p.process.config.name))]


def _changed_triggers(triggers: Triggers) -> Struct:
    """Return the triggers that differ from the default, as XML-RPC has them."""
    found = {
        name: value for name, value in vars(triggers).items() if value != getattr(DEFAULT, name)
    }
    if triggers.on:
        found["on"] = [{"event": c.event, "tokens": dict(c.tokens)} for c in triggers.on]
    return found
