"""Looks at the descriptors of processes, with their own rights and within a budget."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Container
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Callable, NamedTuple, Optional, TypeVar

from supervisor_hotreload.system.budget import Budget, Budgets, Unreadable
from supervisor_hotreload.system.cache import FRESH_SECONDS, STALE_SECONDS, Cache
from supervisor_hotreload.system.credentials import Ids, ids_of, rights_of
from supervisor_hotreload.system.linux import LINUX, NANOSECONDS, State, read_whole, state_of
from supervisor_hotreload.system.process import Process, lookup

EPOLL = "anon_inode:[eventpoll]"
"""What the descriptor of an epoll set is a link to."""

HEARTBEAT = "wgunicorn-"
"""How the name of a heartbeat file begins (gunicorn workers.workertmp)."""

DESCRIPTORS = 4096
"""How many descriptors of one process are listed at most."""

NAMES = 8
"""How many known descriptors are listed for one glance. A new one costs a glance by itself:
the kernel makes an inode for it."""

BATCH = 1024
"""How many descriptors the kernel lists at once, however few are wanted."""

INFO = 4
"""What an entry of /proc/PID/fdinfo costs, in glances. Each INFO_BYTES of it cost one more."""

INFO_BYTES = 256

INFO_LIMIT = 1 << 18
"""How many bytes of such an entry are read at most."""

FEW = 256
"""Up to so many descriptors of a process are all looked at each time."""

Found = TypeVar("Found")


class Beat(NamedTuple):
    """The heartbeat file of one gunicorn worker (gunicorn workers.workertmp).

    :param flipped: the worker has touched it, so its run loop has started.
    :param stamp: changes with every touch.
    """

    flipped: bool
    stamp: tuple[int, int, int]


def looking(ids: Callable[[], Optional[Ids]], look: Callable[[], Found]) -> Found:
    """Return what *look* finds of a process, with the rights of its user if possible.

    The user's rights open /proc/PID/fd to a root without CAP_SYS_PTRACE. The kernel refuses
    them for a process that is not dumpable, because it has changed its user: then our own
    rights are used. So *look* may read links, read what the kernel writes (fdinfo), and ask
    for the state of a file. It must never read a file.
    """
    if os.geteuid() == 0:
        try:
            with rights_of(ids()):
                return look()
        except PermissionError:
            pass
    return look()


@dataclass(frozen=True)
class Seen:
    """What was seen of the descriptors of one process.

    :param links: what each descriptor is a link to.
    :param whole_at: when all of them were looked at last.
    :param hidden: why they cannot be seen, '' when they can.
    """

    ids: Optional[Ids]
    links: dict[str, str] = field(default_factory=dict)
    whole_at: float = -math.inf
    hidden: str = ""


class Descriptors:
    """The descriptors of processes, remembered for a moment.

    Descriptors that matter (listening sockets, epoll sets, heartbeat files) and new numbers
    are looked at each time. All others are looked at each time where they are few, else once
    in :data:`STALE_SECONDS`. When the budget of a user is spent, what was seen within that
    time counts.

    :param clock: returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._budgets = Budgets(clock)
        self._seen: Cache[Process, Seen] = Cache(clock)

    def links(self, process: Process, known: Container[int] = ()) -> dict[str, str]:
        """Return what the descriptors of *process* are links to.

        :param known: the inodes of sockets that matter.
        :raises Unreadable: when the kernel hides the descriptors, or there are too many.
        """
        seen = self._seen.fresh(process)
        if seen is None:
            seen = self._look(process, known)
            self._seen.put(process, seen, STALE_SECONDS if seen.hidden else FRESH_SECONDS)
        if seen.hidden:
            raise Unreadable(seen.hidden)
        return seen.links

    def watched(self, process: Process, name: str) -> set[str]:
        """Return the descriptors in the epoll set *name* of *process* (proc(5), fdinfo).

        :raises Unreadable: when there is too much to read.
        """
        return targets(self._info(process, name))

    def closes_on_exec(self, process: Process, name: str) -> bool:
        """Tell whether an exec of *process* closes its descriptor *name* (proc(5), fdinfo).

        :raises Unreadable: when there is too much to read.
        """
        for line in self._info(process, name).split(b"\n"):
            key, _, value = line.partition(b":")
            if key == b"flags" and value.strip().isdigit():
                return bool(int(value, 8) & os.O_CLOEXEC)
        return False

    def heartbeats(self, process: Process) -> dict[tuple[int, int], Beat]:
        """Return the gunicorn heartbeat files that *process* holds, by device and inode.

        A worker touches its file once its run loop has started: up to gunicorn 21.2 by
        fchmod(spinner), from 22 on by utime(monotonic clock), which is long before the time
        of the change (gunicorn workers.workertmp.WorkerTmp.notify).

        :raises Unreadable: when the kernel hides the descriptors, or there are too many.
        """
        paths = [
            f"/proc/{process.pid}/fd/{name}"
            for name, link in self.links(process).items()
            if is_heartbeat(link)
        ]
        if not paths:
            return {}
        ids = self._ids(process)
        self._budget(ids).spend(len(paths), f"/proc/{process.pid}/fd")
        try:
            found = looking(lambda: ids, lambda: [_file(path) for path in paths])
        except PermissionError:
            raise Unreadable(f"/proc/{process.pid}/fd: permission denied") from None
        return {(s.device, s.inode): beat_of(s) for s in found if s is not None}

    def _info(self, process: Process, name: str) -> bytes:
        """Return what the kernel says of a descriptor, nothing once it is closed.

        :raises Unreadable: when there is too much to read.
        """
        path, ids = f"/proc/{process.pid}/fdinfo/{name}", self._ids(process)
        budget = self._budget(ids)
        budget.spend(INFO, path)
        try:
            text = looking(lambda: ids, lambda: read_whole(path, INFO_LIMIT + 1))
        except OSError:
            return b""
        budget.charge(len(text) // INFO_BYTES)
        if len(text) > INFO_LIMIT:
            raise Unreadable(f"{path}: more than {INFO_LIMIT} bytes")
        return text

    def _look(self, process: Process, known: Container[int]) -> Seen:
        """Return what is seen of the descriptors of *process* now, or why nothing is."""
        ids = ids_for_root(process.pid)
        before = replace(self._seen.known(process) or Seen(ids), ids=ids, hidden="")
        try:
            return looking(lambda: ids, lambda: self._read_links(process.pid, before, known))
        except PermissionError:
            # not remembered: a fork of a supervisord that changed its user is hidden until its exec
            raise Unreadable(f"/proc/{process.pid}/fd: permission denied") from None
        except Unreadable as error:
            if self._clock() - before.whole_at < STALE_SECONDS:
                return before
            return replace(before, hidden=str(error))

    def _read_links(self, pid: int, before: Seen, known: Container[int]) -> Seen:
        """Read the links of *pid* that have to be read again.

        :raises PermissionError: when the kernel hides them.
        :raises Unreadable: when there are too many.
        """
        now, budget, links = self._clock(), self._budget(before.ids), before.links
        budget.spend(1, f"/proc/{pid}/fd")
        names = _names(pid, budget, NAMES if links else 1)
        due = now - before.whole_at >= STALE_SECONDS or (len(names) <= FEW and budget.plenty)
        again = {n for n in names if due or n not in links or matters(links[n], known)}
        budget.spend(len(again), f"the {len(names)} descriptors of /proc/{pid}/fd")
        found = {name: link for name in again if (link := _link(pid, name)) is not None}
        others = {name: links[name] for name in names if name not in again}
        whole_at = now if due else before.whole_at
        return replace(before, links={**others, **found}, whole_at=whole_at)

    def _ids(self, process: Process) -> Optional[Ids]:
        seen = self._seen.known(process)
        return ids_for_root(process.pid) if seen is None else seen.ids

    def _budget(self, ids: Optional[Ids]) -> Budget:
        return self._budgets.of(None if ids is None else ids.users[0])


def ids_for_root(pid: int) -> Optional[Ids]:
    """Return the ids of *pid* if we are root. All others look with their own rights."""
    return ids_of(pid) if os.geteuid() == 0 else None


def is_heartbeat(link: str) -> bool:
    return HEARTBEAT in link and os.path.basename(link).startswith(HEARTBEAT)


def matters(link: str, known: Container[int]) -> bool:
    """Tell whether a descriptor that was *link* has to be looked at each time."""
    return link == EPOLL or inode_of(link) in known or is_heartbeat(link)


def inode_of(link: str) -> Optional[int]:
    """Return the inode of the socket that a descriptor is, None when it is no socket."""
    if not link.startswith("socket:[") or not link.endswith("]"):
        return None
    digits = link[8:-1]
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 20 else None


def targets(info: bytes) -> set[str]:
    """Return the descriptors that the fdinfo of an epoll set names. A torn line is left out."""
    words = (line.split() for line in info.split(b"\n")[:-1])
    return {w[1].decode() for w in words if len(w) > 1 and w[0] == b"tfd:" and w[1].isdigit()}


def beat_of(seen: State) -> Beat:
    """Return the beat that the state of a heartbeat file shows; see Descriptors.heartbeats."""
    flipped = stat.S_IMODE(seen.mode) in (0, 1) or seen.modified < seen.changed - NANOSECONDS
    return Beat(flipped, (seen.mode, seen.modified, seen.changed))


def _names(pid: int, budget: Budget, per_glance: int) -> list[str]:
    """Return the numbers of the descriptors of *pid*, none when there is no such process.

    :param per_glance: how many are listed for a glance.
    :raises Unreadable: when there are too many.
    """
    folder = f"/proc/{pid}/fd"
    try:
        # since Linux 6.2 it is their number (proc_fd_getattr); before it is 0
        size = os.stat(folder).st_size
        if size > DESCRIPTORS:
            raise Unreadable(f"{folder}: more than {DESCRIPTORS} descriptors")
        if per_glance == 1 and 2 * size > budget.left:  # each has to be read as well
            raise Unreadable(f"{folder}: {size} descriptors, more than can be looked at at once")
        limit = min(DESCRIPTORS, budget.left * per_glance)
        budget.spend(-(-(size or BATCH) // per_glance), folder)
        with os.scandir(folder) as entries:
            found = [entry.name for entry in islice(entries, limit + 1)]
    except (FileNotFoundError, ProcessLookupError):
        if LINUX or lookup(pid) is None:
            return []
        raise Unreadable(f"{folder}: this system has none") from None
    budget.charge(-(-(len(found) - (size or BATCH)) // per_glance))
    if len(found) > limit:
        raise Unreadable(f"{folder}: more than {limit} descriptors")
    return found


def _link(pid: int, name: str) -> Optional[str]:
    """Return what a descriptor is a link to, None when it was closed meanwhile.

    :raises PermissionError: when the kernel hides it. A root without CAP_SYS_PTRACE may list
        descriptors but not read the links.
    """
    try:
        return os.readlink(f"/proc/{pid}/fd/{name}")
    except PermissionError:
        raise
    except OSError:
        return None


def _file(path: str) -> Optional[State]:
    """Return the state of the heartbeat file *path*, None when it is none any more.

    :raises PermissionError: as :func:`_link`.
    """
    try:
        seen = state_of(path) if is_heartbeat(os.readlink(path)) else None
    except PermissionError:
        raise
    except OSError:
        return None  # closed between two looks
    return seen if seen is not None and stat.S_ISREG(seen.mode) else None
