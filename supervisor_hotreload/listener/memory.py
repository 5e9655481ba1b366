"""Measures the resident memory of one generation: the tracked master and its descendants."""

from __future__ import annotations

import os

import psutil

from supervisor_hotreload.system.process import children_of

DEPTH = 5
"""Levels of processes under the master that are counted."""


def resident(pid: int, limit: float) -> tuple[float, bool]:
    """Return the bytes that a generation holds, and whether shared pages were counted once.

    The kernel walks every mapping to count shared pages once (PSS). So this is done only
    where the plain sum (RSS), which is never less, is above *limit*.
    """
    pids = descendants(pid)
    plain = sum(_plain(member) for member in pids)
    if plain <= limit:
        return plain, False
    try:
        return float(sum(_proportional(member) for member in pids)), True
    except PermissionError:
        return plain, False


def descendants(pid: int) -> list[int]:
    """Return *pid* and its descendants."""
    found = level = [pid]
    for _ in range(DEPTH):
        level = [child.pid for parent in level for child in children_of(parent)]
        found = found + level
    return list(dict.fromkeys(found))


def _plain(pid: int) -> float:
    """Return the resident set size of *pid*, 0 when it is gone."""
    try:
        return float(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0.0


def _proportional(pid: int) -> int:
    """Return the proportional set size of *pid*, 0 when it is gone (proc(5), Linux 4.14).

    :raises PermissionError: when the kernel does not show it, or not to this user.
    """
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except ProcessLookupError:
        return 0
    except FileNotFoundError:
        if os.path.exists(f"/proc/{pid}"):
            raise PermissionError from None
    return 0
