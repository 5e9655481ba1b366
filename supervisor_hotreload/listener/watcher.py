"""Looks for the triggers that have no event: paths, ages, memory."""

from __future__ import annotations

import math
import os
import time
from typing import Callable, Optional, TypeVar

from supervisor_hotreload.listener.paths import LOOKS, Look, changed
from supervisor_hotreload.listener.watched_program import WatchedProgram, backoff
from supervisor_hotreload.system.credentials import rights_of

Seen = TypeVar("Seen")

MEMORY_LOOKS = 2
"""Looks in a row that have to find too much memory."""

MEGABYTE = 1 << 20


class Watcher:
    """Looks at the paths, the age and the memory of programs, and plans their reloads.

    :param say: logs what is wrong with a path, once.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._host = os.uname().nodename
        self._troubles: dict[tuple[str, str], str] = {}

    def look(self, program: WatchedProgram, now: float, unseen: float = 0.0) -> bool:
        """Look at every path of *program* and at its age.

        :param unseen: for so many seconds a listener has run that could not look. A change in
            that time is news, even where no earlier stamp is known.
        :return: whether the state file has to be written.
        """
        changed_state = False
        for kind in LOOKS:
            for path in program.setting(kind, ()):
                changed_state |= self._look_at(program, kind, path, now, unseen)
        period = program.setting("every", 0.0)
        if period and program.born and now - program.born >= period + program.jitter(self._host):
            changed_state |= program.trigger_if_idle(f"every = {period:g} s", now)
        return changed_state

    def _look_at(
        self, program: WatchedProgram, kind: str, path: str, now: float, unseen: float
    ) -> bool:
        key = f"{kind} {path}"
        place = program.name, key
        look: Look = _seen(program, LOOKS[kind], path) or Look(None)
        first = place not in self._troubles
        if look.trouble != self._troubles.get(place, ""):
            self._say(f"{program.name}: {key}: {look.trouble or 'it is all right now'}")
        self._troubles[place] = look.trouble
        before = program.stamps.get(key)
        if look.stamp is None or look.stamp == before:
            return False
        program.stamps[key] = look.stamp
        known = before is not None or (unseen and _age(program, path) <= unseen)
        if not known or not look.stamp:
            return True
        cause = f"{kind} = {path}"
        if first and _age(program, path) > now - program.born + 0.1:
            why = "it changed before the running generation began"
            self._say(f"{program.name}: {cause}: no reload: {why}")
        else:
            program.trigger(cause, now, program.settle if kind == "watch" else 0.0)
        return True

    def check_memory(self, program: WatchedProgram, now: float) -> bool:
        """Look at the memory of *program*; several looks in a row decide.

        :return: whether the state file has to be written.
        """
        limit = float(program.setting("max_memory", 0.0))
        if not limit or program.row["statename"] != "RUNNING" or program.row["active"]:
            program.excesses = 0
            return False
        from supervisor_hotreload.listener.memory import resident  # psutil takes long to import

        size, shared = resident(program.row["pid"], limit)
        if size <= limit:
            program.excesses = program.futile = 0
            return False
        program.excesses += 1
        if program.excesses < MEMORY_LOOKS:
            return False
        if program.futile and program.is_idle:
            wait = program.ended + backoff(program.futile, program.min_interval)
            program.retry = max(program.retry, wait)
        how = "shared pages counted once" if shared else "shared pages counted in every process"
        used, allowed = size / MEGABYTE, limit / MEGABYTE
        cause = f"max_memory = {allowed:.0f} MB: it uses {used:.0f} MB ({how})"
        return program.trigger_if_idle(cause, now)


def _age(program: WatchedProgram, path: str) -> float:
    """Return the seconds since the last change at *path*, less than 0 when that is not known."""
    seen = _seen(program, changed, path)
    return -math.inf if seen is None else time.time() - seen


def _seen(program: WatchedProgram, look: Callable[[str], Seen], path: str) -> Optional[Seen]:
    """Return what *look* finds at *path* with the rights of the program, whose user may own it."""
    try:
        with rights_of(program.rights):
            return look(path)
    except PermissionError:
        return None  # the process is changing its user
