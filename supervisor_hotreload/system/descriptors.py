"""What processes hold open, looked at with their own rights and within one budget."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Container
from dataclasses import dataclass, field
from itertools import islice
from typing import Callable, Optional, TypeVar

from supervisor_hotreload.system.budget import Budget, Budgets, Unreadable
from supervisor_hotreload.system.credentials import Ids, ids_of, rights_of
from supervisor_hotreload.system.linux import LINUX, State, state_of
from supervisor_hotreload.system.process import Beat, Process, lookup

EPOLL = "anon_inode:[eventpoll]"

HEARTBEAT = "wgunicorn-"
"""What the name of a heartbeat file begins with (gunicorn workers.workertmp)."""

DESCRIPTORS = 4096
"""Descriptors of one process that are listed, at most."""

NAMES = 8
"""Descriptors that are listed for a glance; one, for the first time: the kernel makes an
inode for each."""

BATCH = 1024
"""Descriptors that the kernel lists at once, however few are wanted."""

INFO = 4
"""Glances that an entry of /proc/PID/fdinfo costs, and one more for each INFO_BYTES of it."""

INFO_BYTES = 256

INFO_LIMIT = 1 << 18
"""Bytes of such an entry that are read, at most."""

FRESH = 0.01
"""Seconds for which what was seen is not looked at again: less than a tick."""

WHOLE = 1.0
"""Seconds after which a number may have been used again for something else."""

FEW = 256
"""Descriptors that are all looked at each time."""

REMEMBERED = 500
"""Processes above which those of earlier reloads are forgotten."""

Found = TypeVar("Found")


def looking(ids: Callable[[], Optional[Ids]], look: Callable[[], Found]) -> Found:
    """Return what *look* finds of a process with the rights of its user, else with ours.

    Its own open /proc/PID/fd for a root without CAP_SYS_PTRACE. They are refused for a
    process that is not dumpable: it has changed its user itself. So *look* may read links
    and what the kernel writes (fdinfo), and ask for the state of a file, never read one.
    """
    if os.geteuid() == 0:
        try:
            with rights_of(ids()):
                return look()
        except PermissionError:
            pass
    return look()


@dataclass
class Seen:
    """What is remembered of the descriptors of one process.

    :param links: what each of them is a link to.
    :param at: when they were looked at.
    :param whole_at: when each of them was.
    :param hidden: why they cannot be told, for longer than a moment.
    """

    ids: Optional[Ids]
    links: dict[str, str] = field(default_factory=dict)
    at: float = -math.inf
    whole_at: float = -math.inf
    hidden: str = ""


class Descriptors:
    """The descriptors of processes, and what was seen of them a moment ago.

    Those that may matter (sockets that listen, epoll sets, heartbeats) are looked at again
    each time, and so are new numbers; all others where they are few, else once in
    :data:`WHOLE` seconds. Once the budget of a user is spent, what was seen within that
    time stands.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._budgets = Budgets(clock)
        self._seen: dict[Process, Seen] = {}

    def links(self, process: Process, known: Container[int] = ()) -> dict[str, str]:
        """Return what the descriptors of *process* are links to.

        :param known: inodes of sockets that matter.
        :raises Unreadable: when the kernel hides them, or there are too many.
        """
        now, seen = self._clock(), self._of(process)
        if now - seen.at >= (WHOLE if seen.hidden else FRESH):
            seen.hidden, seen.at = "", now
            try:
                self._look(process.pid, seen, known)
            except PermissionError:
                seen.hidden = f"/proc/{process.pid}/fd: permission denied"
            except Unreadable as error:
                if now - seen.whole_at >= WHOLE:
                    seen.hidden = str(error)
        if seen.hidden:
            raise Unreadable(seen.hidden)
        return seen.links

    def watched(self, process: Process, name: str) -> set[str]:
        """Return the descriptors in the epoll set *name* of *process* (proc(5), fdinfo).

        :raises Unreadable: when there is too much to read.
        """
        return targets(self._info(process, name))

    def closes_on_exec(self, process: Process, name: str) -> bool:
        """Tell whether an exec of *process* closes its descriptor *name* (proc(5), fdinfo)."""
        for line in self._info(process, name).split(b"\n"):
            key, _, value = line.partition(b":")
            if key == b"flags" and value.strip().isdigit():
                return bool(int(value, 8) & os.O_CLOEXEC)
        return False

    def _info(self, process: Process, name: str) -> bytes:
        """Return what the kernel tells of a descriptor, nothing once it is closed.

        :raises Unreadable: when there is too much to read.
        """
        path, seen = f"/proc/{process.pid}/fdinfo/{name}", self._of(process)
        budget = self._budget(seen)
        budget.spend(INFO, path)
        try:
            text = looking(lambda: seen.ids, lambda: _read(path, INFO_LIMIT + 1))
        except OSError:
            return b""
        budget.charge(len(text) // INFO_BYTES)
        if len(text) > INFO_LIMIT:
            raise Unreadable(f"{path}: more than {INFO_LIMIT} bytes")
        return text

    def heartbeats(self, process: Process) -> dict[tuple[int, int], Beat]:
        """Return the gunicorn heartbeat files that *process* holds open, by device and inode.

        A worker that has started its run loop has touched its file: up to gunicorn
        21.2 by fchmod(spinner), from 22 on by utime(monotonic clock), which lies
        long before the change time (gunicorn workers.workertmp.WorkerTmp.notify).

        :raises Unreadable: when the kernel hides the descriptors.
        """
        paths = [
            f"/proc/{process.pid}/fd/{name}"
            for name, link in self.links(process).items()
            if is_heartbeat(link)
        ]
        if not paths:
            return {}
        seen = self._of(process)
        self._budget(seen).spend(len(paths), f"/proc/{process.pid}/fd")
        try:
            found = looking(lambda: seen.ids, lambda: [_file(path) for path in paths])
        except PermissionError:
            raise Unreadable(f"/proc/{process.pid}/fd: permission denied") from None
        return {(s.device, s.inode): beat_of(s) for s in found if s is not None}

    # -- one look

    def _look(self, pid: int, seen: Seen, known: Container[int]) -> None:
        """:raises PermissionError: when the kernel hides them.
        :raises Unreadable: when there are too many."""
        seen.ids = _ids(pid)
        budget = self._budget(seen)
        budget.spend(1, f"/proc/{pid}/fd")
        now = self._clock()

        def look() -> tuple[bool, dict[str, str]]:
            names = _names(pid, budget, NAMES if seen.links else 1)
            due = now - seen.whole_at >= WHOLE or (len(names) <= FEW and budget.plenty)
            again = {
                name
                for name in names
                if due or name not in seen.links or matters(seen.links[name], known)
            }
            budget.spend(len(again), f"the {len(names)} descriptors of /proc/{pid}/fd")
            found = {n: link for n in again if (link := _link(pid, n)) is not None}
            kept = {n: seen.links[n] for n in names if n not in again}
            return due, {**kept, **found}

        due, seen.links = looking(lambda: seen.ids, look)
        seen.whole_at = now if due else seen.whole_at

    def _of(self, process: Process) -> Seen:
        """Return what is remembered of *process*; forget now and then what nobody asks about."""
        if len(self._seen) > REMEMBERED:
            now = self._clock()
            self._seen = {p: seen for p, seen in self._seen.items() if now - seen.at < WHOLE}
        if process not in self._seen:
            self._seen[process] = Seen(_ids(process.pid))
        return self._seen[process]

    def _budget(self, seen: Seen) -> Budget:
        return self._budgets.of(None if seen.ids is None else seen.ids.users[0])


def _ids(pid: int) -> Optional[Ids]:
    """Return as whom *pid* acts, for root: all others look with their own rights only."""
    return ids_of(pid) if os.geteuid() == 0 else None


def is_heartbeat(link: str) -> bool:
    return HEARTBEAT in link and os.path.basename(link).startswith(HEARTBEAT)


def matters(link: str, known: Container[int]) -> bool:
    """Tell whether a descriptor that was *link* is looked at each time."""
    return link == EPOLL or inode_of(link) in known or is_heartbeat(link)


def inode_of(link: str) -> Optional[int]:
    """Return the inode of the socket that a descriptor is, None when it is none."""
    if not link.startswith("socket:[") or not link.endswith("]"):
        return None
    digits = link[8:-1]
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 20 else None


def targets(info: bytes) -> set[str]:
    """Return the descriptors that the fdinfo of an epoll set names, without a torn line."""
    words = (line.split() for line in info.split(b"\n")[:-1])
    return {w[1].decode() for w in words if len(w) > 1 and w[0] == b"tfd:" and w[1].isdigit()}


def beat_of(seen: State) -> Beat:
    flipped = stat.S_IMODE(seen.mode) in (0, 1) or seen.modified < seen.changed - 1_000_000_000
    return Beat(flipped, (seen.mode, seen.modified, seen.changed))


def _names(pid: int, budget: Budget, names: int) -> list[str]:
    """Return the numbers of the descriptors of *pid*, none when there is no such process.

    :param names: how many are listed for a glance.
    """
    folder = f"/proc/{pid}/fd"
    try:
        # since Linux 6.2 it tells how many there are (proc_fd_getattr); else 0
        size = os.stat(folder).st_size
        if size > DESCRIPTORS:
            raise Unreadable(f"{folder}: more than {DESCRIPTORS} descriptors")
        if names == 1 and 2 * size > budget.left:  # each is to be read as well
            raise Unreadable(f"{folder}: {size} descriptors, more than can be looked at at once")
        limit = min(DESCRIPTORS, budget.left * names)
        budget.spend(-(-(size or BATCH) // names), folder)
        with os.scandir(folder) as entries:
            found = [entry.name for entry in islice(entries, limit + 1)]
    except (FileNotFoundError, ProcessLookupError):
        if LINUX or lookup(pid) is None:
            return []
        raise Unreadable(f"{folder}: this system has none") from None
    budget.charge(-(-(len(found) - (size or BATCH)) // names))
    if len(found) > limit:
        raise Unreadable(f"{folder}: more than {limit} descriptors")
    return found


def _link(pid: int, name: str) -> Optional[str]:
    """Return what a descriptor is a link to, None when it has been closed.

    :raises PermissionError: a root without CAP_SYS_PTRACE may list but not look.
    """
    try:
        return os.readlink(f"/proc/{pid}/fd/{name}")
    except PermissionError:
        raise
    except OSError:
        return None


def _file(path: str) -> Optional[State]:
    """Return what the heartbeat file behind *path* is now, None when it is none any more."""
    try:
        seen = state_of(path) if is_heartbeat(os.readlink(path)) else None
    except PermissionError:
        raise
    except OSError:
        return None  # closed between two looks
    return seen if seen is not None and stat.S_ISREG(seen.mode) else None


def _read(path: str, limit: int) -> bytes:
    with open(path, "rb", buffering=0) as file:
        parts, size = [], 0
        while size < limit and (part := file.read(min(1 << 16, limit - size))):
            parts.append(part)
            size += len(part)
        return b"".join(parts)
