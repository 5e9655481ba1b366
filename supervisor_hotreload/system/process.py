"""A process is its pid and its start time; its family is what the kernel says it is.

Linux answers from /proc. Elsewhere psutil does, which cannot tell everything:
what is not known is None and never guessed. psutil is imported where it is asked,
not before: /proc serves on Linux, and psutil takes megabytes.
"""

from __future__ import annotations

import os
import time
from itertools import islice
from typing import NamedTuple, Optional

from supervisor_hotreload.system.budget import Unreadable as Unreadable
from supervisor_hotreload.system.linux import LINUX

CHILDREN = 1024
"""Children of one process that are looked at, at most: supervisord waits meanwhile."""

THREADS = 16
"""Threads of one process whose children are looked for, the first ones."""

ANCESTORS = 64
"""Ancestors that are looked at, at most: anybody may make a chain of any length."""

READINGS = 4
"""How often a list of children is read at most until two readings agree."""


class Process(NamedTuple):
    """One process for good: a pid that is used again has another start time.

    :param pid: the process id.
    :param start: start time in the kernel's ticks since boot (Linux), else in
        milliseconds since the epoch.
    """

    pid: int
    start: int

    def __str__(self) -> str:
        return f"pid {self.pid}"


class Status(NamedTuple):
    """What the kernel tells of a process at one moment."""

    process: Process
    state: str
    parent: int
    group: int
    session: int
    image: int
    """Bottom of the stack: a fork shares it with its parent, an exec has a new
    one. 0 where the kernel does not let us see it."""


class Beat(NamedTuple):
    """The heartbeat file of one gunicorn worker (gunicorn workers.workertmp).

    :param flipped: the worker has touched it: its run loop has started.
    :param stamp: changes with every touch.
    """

    flipped: bool
    stamp: tuple[int, int, int]


def status_of(pid: int) -> Optional[Status]:
    """Return the status of *pid*, or None when there is no such process."""
    if not LINUX:
        return _portable_status(pid)
    try:
        return read_stat(pid, read_whole(f"/proc/{pid}/stat"))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def read_whole(path: str, limit: int = 1 << 16) -> bytes:
    """Return what a file of the kernel's holds, up to *limit* bytes; this is often asked for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(descriptor, limit)
        while text and len(text) < limit:
            more = os.read(descriptor, limit - len(text))
            if not more:
                break
            text += more
        return text
    finally:
        os.close(descriptor)


def read_stat(pid: int, line: bytes) -> Optional[Status]:
    """Return what a line of /proc/PID/stat says, None when it is torn."""
    # the name is in parentheses and may hold anything, a ')' as well
    fields = line[line.rfind(b")") + 2 :].split(None, 26)
    try:
        return Status(
            process=Process(pid, int(fields[19])),
            state=fields[0].decode("ascii", "replace"),
            parent=int(fields[1]),
            group=int(fields[2]),
            session=int(fields[3]),
            image=int(fields[25]),
        )
    except (IndexError, ValueError):
        return None


def _portable_status(pid: int) -> Optional[Status]:
    import psutil

    try:
        peer = psutil.Process(pid)
        with peer.oneshot():
            return Status(
                process=Process(pid, int(peer.create_time() * 1000)),
                state="Z" if peer.status() == psutil.STATUS_ZOMBIE else "S",
                parent=peer.ppid(),
                group=os.getpgid(pid),
                session=os.getsid(pid),
                image=0,
            )
    except (psutil.Error, ProcessLookupError, PermissionError):
        return None


def lookup(pid: int) -> Optional[Process]:
    """Return the living process behind *pid*; a zombie is not living."""
    seen = status_of(pid)
    return seen.process if seen is not None and seen.state not in "ZX" else None


def is_alive(process: Process) -> bool:
    """Tell whether *process* itself still lives, not another with its pid."""
    return lookup(process.pid) == process


def age_of(process: Process) -> float:
    """Return the seconds since *process* was started."""
    if LINUX:
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        return max(0.0, now - process.start / os.sysconf("SC_CLK_TCK"))
    return max(0.0, time.time() - process.start / 1000)  # all that psutil tells there


def boot_id() -> str:
    """Return what names this boot of the system: pids, start times and the monotonic clock
    begin with it."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return f"{os.uname().nodename} {round((time.time() - time.monotonic()) / 60)}"


def only_waits(pid: int) -> bool:
    """Tell whether *pid* waits for a child and does nothing else (kernel/exit.c, do_wait)."""
    try:
        alone = len(os.listdir(f"/proc/{pid}/task")) == 1
        return alone and read_whole(f"/proc/{pid}/wchan") == b"do_wait"
    except OSError:
        return False


def children_of(pid: int, limit: int = CHILDREN) -> list[Process]:
    """Return the living children of *pid*, oldest first.

    gunicorn forks its workers from the main thread, others need not: the
    children of all threads count. The kernel's list can miss one while a
    sibling of it exits (proc(5)), so it is read until two readings agree.

    :raises Unreadable: when there are more than *limit*.
    """
    if not LINUX:
        return _portable_children(pid)
    pids: set[int] = set()
    before: Optional[set[int]] = None
    for _ in range(READINGS):
        seen = _children_of_threads(pid)
        if seen is None:
            return _portable_children(pid)  # a kernel without CONFIG_PROC_CHILDREN
        pids |= seen
        if len(pids) > limit:
            raise Unreadable(f"pid {pid} has more than {limit} children")
        if seen == before:
            break
        before = seen
    found = (lookup(child) for child in pids)
    return sorted((child for child in found if child is not None), key=lambda c: c.start)


def pids_of_children(pid: int) -> set[int]:
    """Return the pids of the children of *pid*, however many they are; of dead ones, too."""
    found = _children_of_threads(pid) if LINUX else None
    return {child.pid for child in _portable_children(pid)} if found is None else found


def _children_of_threads(pid: int) -> Optional[set[int]]:
    """Return one reading of the children of *pid*, None where the kernel has no such list."""
    pids: set[int] = set()
    try:
        with os.scandir(f"/proc/{pid}/task") as entries:
            tasks = [entry.name for entry in islice(entries, THREADS)]
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return pids
    for task in tasks:
        try:
            pids.update(map(int, read_whole(f"/proc/{pid}/task/{task}/children").split()))
        except (FileNotFoundError, ProcessLookupError):
            if os.path.exists(f"/proc/{pid}/task/{task}"):
                return None
    return pids


def _portable_children(pid: int) -> list[Process]:
    import psutil

    try:
        peers = psutil.Process(pid).children()
    except psutil.Error:
        return []
    found = (lookup(peer.pid) for peer in peers)
    return [child for child in found if child is not None]


def ancestors_of(pid: int) -> list[int]:
    """Return the pids of the parent of *pid*, of its parent, and so on, up to ANCESTORS."""
    found: list[int] = []
    seen = status_of(pid)
    while seen is not None and 0 < seen.parent not in found and len(found) < ANCESTORS:
        found.append(seen.parent)
        seen = status_of(seen.parent)
    return found


def environment_of(pid: int) -> dict[str, str]:
    """Return the environment that *pid* was started with, empty when hidden.

    A process may overwrite it (setproctitle does): use it as a hint only.
    """
    try:
        return read_environment(read_whole(f"/proc/{pid}/environ", 1 << 20))
    except OSError:
        return {}


def read_environment(raw: bytes) -> dict[str, str]:
    """Return the variables in *raw*, as far as they are any."""
    pairs = (_text(item).partition("=") for item in raw.split(b"\0") if b"=" in item)
    return {key: value for key, _, value in pairs}


def arguments_of(pid: int) -> list[str]:
    """Return the arguments of *pid*, empty when hidden; a hint only, as above."""
    try:
        raw = read_whole(f"/proc/{pid}/cmdline")
    except OSError:
        return []
    return [_text(item) for item in raw.split(b"\0") if item]


def executable_of(pid: int) -> str:
    """Return the name of the file that *pid* executes, empty when hidden."""
    try:
        name = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return ""
    return name[: -len(" (deleted)")] if name.endswith(" (deleted)") else name


def has_handler(pid: int, number: int) -> Optional[bool]:
    """Tell whether *pid* has a handler for the signal (proc(5), SigCgt); None when unknown."""
    mask = _status_field(pid, b"SigCgt:")
    return None if mask is None else bool(int(mask, 16) >> (number - 1) & 1)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def owner_of(pid: int) -> Optional[int]:
    """Return the effective user id of *pid*, or None when there is no such process."""
    if LINUX:
        value = _status_field(pid, b"Uid:")
        return None if value is None else int(value.split()[1])
    import psutil

    try:
        return int(psutil.Process(pid).uids().effective)
    except psutil.Error:
        return None


def count_of_sleeps(pid: int) -> Optional[int]:
    """Return how often the main thread of *pid* has gone to sleep, None when unknown."""
    value = _status_field(pid, b"voluntary_ctxt_switches:")
    return None if value is None else int(value)


def _status_field(pid: int, key: bytes) -> Optional[bytes]:
    try:
        for line in read_whole(f"/proc/{pid}/status").splitlines():
            if line.startswith(key):
                return line[len(key) :].strip()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    return None
