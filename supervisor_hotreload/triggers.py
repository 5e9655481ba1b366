"""What reloads each program unattended, and how its latest reload went: all that the
event listener has to know, from the one place that reads the configuration."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from typing import Any

from supervisor_hotreload import identity
from supervisor_hotreload.adoption import Tracked, printable, unheard
from supervisor_hotreload.config import PREFIX, Settings
from supervisor_hotreload.model import Failure, Triggers
from supervisor_hotreload.names import matches
from supervisor_hotreload.reloads import Reloads
from supervisor_hotreload.servers import gunicorn

DEFAULT = Triggers()


class TriggerTable:
    """The triggers of every program of one supervisord.

    :param reloads: where reloads are asked for.
    """

    def __init__(self, reloads: Reloads) -> None:
        self.reloads = reloads
        self._settings = Settings()
        self._remarks: dict[str, Remark] = {}
        self._known: Any = None
        self._number = 0

    def read(self, revision: str) -> dict[str, Any]:
        """Return the table; without its programs when it still is *revision*."""
        trouble = self._refresh()
        members = [t for group in self.reloads.supervised.groups().values() for t in group]
        known = (self._settings, trouble, [self._mark(tracked) for tracked in members])
        if known != self._known:
            self._known = known
            self._number += 1
        now = f"{self.reloads.announcer.instance}.{self._number}"
        if now == revision:
            return {"revision": now}
        errors = [trouble] if trouble else []
        rows = [self._row(tracked, members, errors) for tracked in members]
        errors += self._settings.errors()
        return {
            "revision": now,
            "instance": self.reloads.announcer.instance,
            "state_file": self._state_file(),
            "sighup": self._settings.sighup(),
            "errors": list(dict.fromkeys(errors)),
            "programs": rows,
        }

    def note(self, tracked: Tracked, trigger: str, wait: float, failure: str) -> None:
        """Take note of what the listener is about to do; 0 seconds is about to reload."""
        if wait == 0:
            self.reloads.supervised.logger.info(f"hotreload: {tracked.name}: {printable(trigger)}")
        attempt = time.monotonic() + wait if wait >= 0 else 0.0
        self._remarks[tracked.name] = Remark(trigger, attempt, failure)

    def remark(self, tracked: Tracked) -> dict[str, Any]:
        """Return what the listener has said of a program, as part of a reload info."""
        return self._remarks.get(tracked.name, Remark()).shown()

    def _refresh(self) -> str:
        """Read the settings; where they cannot be read, the last ones hold."""
        try:
            self._settings = self.reloads.settings()
        except Failure as failure:
            return failure.reason
        return ""

    def _mark(self, tracked: Tracked) -> Any:
        """Return what changes when the row of a program does."""
        name = tracked.name
        latest = self.reloads.announcer.latest(name)
        outcome = latest.outcome if latest is not None else None
        exits = self.reloads.exits.of(name)[0]
        serial = self.reloads.announcer.serial(name)
        return (name, tracked.pid, tracked.state, serial, outcome, exits)

    def _row(self, tracked: Tracked, members: list[Tracked], errors: list[str]) -> dict[str, Any]:
        process = str(tracked.process.config.name)
        triggers, bad = self._settings.triggers(tracked.group, process)
        where = f"[{PREFIX}{tracked.name}]"
        errors += bad
        for condition in triggers.on:
            why = unheard(condition.event, self.reloads.supervised.pools())
            if why is not None:
                errors.append(f"{where} on = {condition.event}: {why}")
        current = tracked.current()
        return {
            "name": tracked.name,
            "group": tracked.group,
            "process": process,
            "statename": tracked.state,
            "pid": tracked.pid,
            "age": identity.age(current) if current is not None else 0.0,
            "likely": gunicorn.names_gunicorn(tracked.command) and self._listed(tracked),
            "triggers": _changed(triggers),
            "after": [self._exits(spec, members, where, errors) for spec in triggers.after],
            **self._latest(tracked),
        }

    def _listed(self, tracked: Tracked) -> bool:
        only = self._settings.programs()
        return only is None or tracked.group in only or tracked.name in only

    def _exits(
        self, spec: str, members: list[Tracked], where: str, errors: list[str]
    ) -> dict[str, Any]:
        """Return how often the program that *spec* means has exited as expected."""
        meant = [t for t in members if matches(spec, t.group, t.process.config.name)]
        if not meant:
            errors.append(f"{where} after = {spec}: no such program")
        found = [self.reloads.exits.of(tracked.name) for tracked in meant]
        ended = [seconds for count, seconds in found if count]
        return {
            "name": spec,
            "count": sum(count for count, _ in found),
            "ago": min(ended, default=0.0),
        }

    def _latest(self, tracked: Tracked) -> dict[str, Any]:
        latest = self.reloads.announcer.latest(tracked.name)
        row: dict[str, Any] = {
            "active": self.reloads.driver.active(tracked.name) is not None,
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

    def _state_file(self) -> str:
        """Return where a listener may keep what it has to know after a restart."""
        options = self.reloads.supervised.options
        pidfile = os.path.abspath(options.pidfile or options.logfile or "supervisord.pid")
        return os.path.splitext(pidfile)[0] + ".hotreload.json"


def _changed(triggers: Triggers) -> dict[str, Any]:
    """Return the triggers that are not the default, as XML-RPC has them."""
    default = asdict(DEFAULT)
    found = {key: value for key, value in asdict(triggers).items() if value != default[key]}
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
