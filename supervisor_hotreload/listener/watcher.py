"""Finds out what has changed without an event: paths, ages, memory."""

from __future__ import annotations

import os
import time
from typing import Callable, Optional, TypeVar

from supervisor_hotreload.listener.paths import GLANCES, LOOKS, Look, changed
from supervisor_hotreload.listener.program import Program, backoff
from supervisor_hotreload.system.credentials import rights_of

Seen = TypeVar("Seen")

CHECKS = 2
"""Looks in a row that have to find too much memory."""

MEGABYTE = 1 << 20


class Watcher:
    """Looks at what belongs to a program, and lets it fire.

    :param say: told what is odd about a path, once.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._host = os.uname().nodename
        self._glances: dict[tuple[str, str, str], object] = {}
        self._known: set[tuple[str, str]] = set()
        self._troubles: dict[tuple[str, str], str] = {}

    def look(
        self, program: Program, now: float, closely: bool = False, unseen: float = 0.0
    ) -> bool:
        """Look at every path of *program* and at its age.

        :param closely: also where nothing seems to be new.
        :param unseen: seconds for which there has been a listener that could not look; what
            has changed meanwhile is news, even where nothing is known of before.
        :return: whether there is anything for the state file.
        """
        news = False
        for kind, glance in GLANCES.items():
            for path in program.setting(kind, ()):
                key, seen = (program.name, kind, path), _seen(program, glance, path)
                if closely or self._glances.get(key, self) != seen:
                    self._glances[key] = seen
                    news |= self._look_at(program, kind, path, now, unseen)
        period = program.setting("every", 0.0)
        if period and program.born and now - program.born >= period + program.jitter(self._host):
            news |= program.keep(f"every = {period:g} s", now)
        return news

    def _look_at(self, program: Program, kind: str, path: str, now: float, unseen: float) -> bool:
        key = f"{kind} {path}"
        look: Look = _seen(program, LOOKS[kind], path) or Look(None)
        self._report(program, key, look.trouble)
        first = (program.name, key) not in self._known
        self._known.add((program.name, key))
        before = program.stamps.get(key)
        if look.stamp is None or look.stamp == before:
            return False
        program.stamps[key] = look.stamp
        known = before is not None or (unseen and changed(path) >= time.time() - unseen)
        if not known or not look.stamp:
            return True
        cause = f"{kind} = {path}"
        if first and changed(path) < time.time() - (now - program.born) - 0.1:
            self._say(f"{program.name}: {cause}: changed before its generation began, no reload")
        else:
            program.fire(cause, now, program.settle if kind == "watch" else 0.0)
        return True

    def _report(self, program: Program, key: str, trouble: str) -> None:
        if self._troubles.get((program.name, key), "") == trouble:
            return
        self._troubles[program.name, key] = trouble
        self._say(f"{program.name}: {key}: {trouble or 'is all right now'}")

    def weigh(self, program: Program, now: float) -> bool:
        """Look at the memory of *program*; two looks in a row decide.

        :return: whether there is anything for the state file.
        """
        limit = float(program.setting("max_memory", 0.0))
        if not limit or program.row["statename"] != "RUNNING" or program.row["active"]:
            program.swollen = 0
            return False
        from supervisor_hotreload.listener.memory import resident  # psutil is heavy

        size, shared = resident(program.row["pid"], limit)
        if size <= limit:
            program.swollen = program.futile = 0
            return False
        program.swollen += 1
        if program.swollen < CHECKS:
            return False
        if program.futile and program.idle:
            wait = program.ended + backoff(program.futile, program.min_interval)
            program.retry = max(program.retry, wait)
        how = "shared pages counted once" if shared else "shared pages counted in every process"
        held, allowed = size / MEGABYTE, limit / MEGABYTE
        return program.keep(f"max_memory = {allowed:.0f} MB: {held:.0f} MB are held ({how})", now)


def _seen(program: Program, look: Callable[[str], Seen], path: str) -> Optional[Seen]:
    """Return what *look* finds at *path* with the rights of the program, whose it may be."""
    try:
        with rights_of(program.rights):
            return look(path)
    except PermissionError:
        return None  # its process is about to change its user
