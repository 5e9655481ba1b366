"""The processes of a test: which there are, which live, and their end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import psutil


def working_below(root: str) -> Iterator[psutil.Process]:
    """Yield processes whose working directory lies below *root*: only tests have such."""
    for pid in psutil.pids():
        with contextlib.suppress(psutil.Error, OSError):
            if os.readlink(f"/proc/{pid}/cwd").startswith(root) and pid != os.getpid():
                yield psutil.Process(pid)


def parent(process: psutil.Process) -> int:
    """Return the parent's pid, 0 when *process* has ended meanwhile."""
    try:
        return int(process.ppid())
    except psutil.NoSuchProcess:
        return 0


def with_children(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return those of *processes* that are the parent of another of them."""
    parents = {parent(process) for process in processes if lives(process)}
    return [process for process in processes if process.pid in parents]


def killed(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Kill *processes* and return them."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return processes


def lives(process: psutil.Process) -> bool:
    """Tell whether *process* runs; a zombie has ended."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
