"""A process is its pid and its start time. What else is known of it the kernel says.

Linux answers from /proc. On other systems psutil does, which does not know everything: what
is unknown is None and never guessed. psutil takes megabytes, so it is imported only there.
"""

from __future__ import annotations

import os
import signal
import time
from itertools import islice
from typing import NamedTuple, Optional

from supervisor_hotreload.system.budget import Unreadable as Unreadable
from supervisor_hotreload.system.linux import LINUX, read_whole

CHILDREN = 1024
"""How many children of one process are looked at, at most: supervisord waits meanwhile."""

THREADS = 16
"""How many threads of one process are asked for their children, at most."""

ANCESTORS = 64
"""How many ancestors are looked at, at most: a user can make a chain of any length."""

READINGS = 4
"""How often a list of children is read at most until two readings agree."""

ENVIRONMENT_BYTES = 1 << 20
"""How much of an environment is read at most."""

GONE = (FileNotFoundError, ProcessLookupError, PermissionError)
"""What reading /proc raises of a process that has ended, or is hidden (hidepid)."""


class Process(NamedTuple):
    """One process for good: a pid that is used again has another start time.

    :param pid: the process id.
    :param start: the start time in the kernel's ticks since boot (Linux), else in
        milliseconds since the epoch.
    """

    pid: int
    start: int

    def __str__(self) -> str:
        return f"pid {self.pid}"


class Status(NamedTuple):
    """What the kernel says of a process at one moment.

    :param image: the bottom of its stack. A fork has that of its parent, an exec makes a new
        one. 0 where the kernel hides it.
    """

    process: Process
    state: str
    parent: int
    group: int
    session: int
    image: int


def status_of(pid: int) -> Optional[Status]:
    """Return the status of *pid*, None when there is no such process."""
    if not LINUX:
        return _portable_status(pid)
    try:
        return read_stat(pid, read_whole(f"/proc/{pid}/stat"))
    except GONE:
        return None


def read_stat(pid: int, line: bytes) -> Optional[Status]:
    """Return what a line of /proc/PID/stat says, None when it is torn."""
    # the name is in parentheses and may contain anything, also a ')'
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
    """Return the living process with the pid *pid*. A zombie does not live."""
    seen = status_of(pid)
    return seen.process if seen is not None and seen.state not in "ZX" else None


def is_alive(process: Process) -> bool:
    """Tell whether *process* itself lives, and not another process with its pid."""
    return lookup(process.pid) == process


def age_of(process: Process) -> float:
    """Return the seconds since *process* was started."""
    if LINUX:
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        return max(0.0, now - process.start / os.sysconf("SC_CLK_TCK"))
    return max(0.0, time.time() - process.start / 1000)  # psutil knows no better clock


def boot_id() -> str:
    """Return what names this boot: pids, start times and the monotonic clock begin with it."""
    try:
        return read_whole("/proc/sys/kernel/random/boot_id").decode("ascii").strip()
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

    The children of all threads count: not every server forks from its main thread. The
    kernel's list can lack a child while a sibling of it exits (proc(5)), so the list is read
    until two readings agree.

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
    """Return the pids of all children of *pid*, also of dead ones."""
    found = _children_of_threads(pid) if LINUX else None
    return {child.pid for child in _portable_children(pid)} if found is None else found


def _children_of_threads(pid: int) -> Optional[set[int]]:
    """Return one reading of the children of *pid*, None where the kernel has no such list."""
    pids: set[int] = set()
    try:
        with os.scandir(f"/proc/{pid}/task") as entries:
            tasks = [entry.name for entry in islice(entries, THREADS)]
    except GONE:
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
    """Return the environment that *pid* was started with, empty when it is hidden.

    A process may overwrite it (setproctitle does), so it proves nothing.
    """
    try:
        return read_environment(read_whole(f"/proc/{pid}/environ", ENVIRONMENT_BYTES))
    except OSError:
        return {}


def read_environment(raw: bytes) -> dict[str, str]:
    """Return the variables in *raw*. Whatever is no variable is left out."""
    pairs = (_text(item).partition("=") for item in raw.split(b"\0") if b"=" in item)
    return {key: value for key, _, value in pairs}


def arguments_of(pid: int) -> list[str]:
    """Return the arguments of *pid*, empty when they are hidden. They prove nothing either."""
    try:
        raw = read_whole(f"/proc/{pid}/cmdline")
    except OSError:
        return []
    return [_text(item) for item in raw.split(b"\0") if item]


def executable_of(pid: int) -> str:
    """Return the name of the file that *pid* executes, empty when it is hidden."""
    try:
        name = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return ""
    return name[: -len(" (deleted)")] if name.endswith(" (deleted)") else name


def has_handler(pid: int, number: int) -> Optional[bool]:
    """Tell whether *pid* has a handler for a signal (proc(5), SigCgt); None when unknown."""
    mask = _status_field(pid, b"SigCgt:")
    return None if mask is None else bool(int(mask, 16) >> (number - 1) & 1)


def count_of_sleeps(pid: int) -> Optional[int]:
    """Return how often the main thread of *pid* has gone to sleep, None when unknown."""
    value = _status_field(pid, b"voluntary_ctxt_switches:")
    return None if value is None else int(value)


def leads_a_namespace(pid: int) -> bool:
    """Tell whether *pid* is the first process of a pid namespace below ours: when it ends, the
    kernel kills all others there (pid_namespaces(7))."""
    numbers = (_status_field(pid, b"NSpid:") or b"").split()
    own = (_status_field(os.getpid(), b"NSpid:") or b"").split()
    return len(numbers) > len(own) and numbers[-1] == b"1"


def _status_field(pid: int, key: bytes) -> Optional[bytes]:
    try:
        lines = read_whole(f"/proc/{pid}/status").splitlines()
    except GONE:
        return None
    return next((line[len(key) :].strip() for line in lines if line.startswith(key)), None)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def send_signal(process: Process, number: int) -> bool:
    """Send a signal to *process* and to no other.

    A pid descriptor holds the process while its start time is compared, so that another
    process that has got the pid is never hit. Where the system has no pid descriptors, the
    start time is compared right before the signal is sent.

    :return: False when the process is gone.
    """
    handle = None
    try:
        handle = _pid_descriptor(process.pid)
        if not is_alive(process):
            return False
        if handle is not None:
            signal.pidfd_send_signal(handle, number)
        else:
            os.kill(process.pid, number)
    except ProcessLookupError:
        return False
    finally:
        if handle is not None:
            os.close(handle)
    return True


def _pid_descriptor(pid: int) -> Optional[int]:
    """Return a pid descriptor, None where the system has none to give.

    :raises ProcessLookupError: when there is no such process.
    """
    try:
        return os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    except ProcessLookupError:
        raise
    except OSError:
        return None  # an old kernel, a seccomp filter, or no descriptor is left
