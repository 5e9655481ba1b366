"""The seam to the operating system: the clock, signals, files and processes.

A fake of it drives the unit tests.
"""

from __future__ import annotations

import math
import os
import signal
import stat
import time
from collections.abc import Collection, Container, Iterable, Mapping
from typing import Optional

from supervisor_hotreload.system import peek
from supervisor_hotreload.system.credentials import Ids, ids_of, rights_of
from supervisor_hotreload.system.descriptors import FRESH, Descriptors, inode_of
from supervisor_hotreload.system.process import (
    Beat,
    Process,
    Status,
    ancestors_of,
    arguments_of,
    children_of,
    count_of_sleeps,
    executable_of,
    has_handler,
    is_alive,
    lookup,
    only_waits,
    owner_of,
    pids_of_children,
    status_of,
)
from supervisor_hotreload.system.sd_notify import Notices
from supervisor_hotreload.system.sockets import Memory, Sockets

ORPHANS = 2048
"""Children of us, or of an ancestor, that are looked at for what a program has left."""

STRAYS = 1 << 14
"""The same once, when supervisord starts: a host may have many services."""


def _may_be_of(pid: int, users: Collection[int]) -> bool:
    """Tell whether *pid* may act as one of *users*: its entry is its user's, or root's where it
    hides itself (proc(5))."""
    try:
        owner = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return False
    return 0 in users or owner == 0 or owner in users


class World:
    """The real thing. Nothing here blocks."""

    def __init__(self) -> None:
        self.notices = Notices()
        self._children: dict[Process, tuple[float, list[Process]]] = {}
        self.subreaper = False
        """Whether the kernel hands us the orphans below us, and not to others."""
        self._descriptors = Descriptors(lambda: self.now())
        self._memory = Memory(self._descriptors, lambda: self.now())

    def now(self) -> float:
        """Return the monotonic clock, in seconds."""
        return time.monotonic()

    def own_pid(self) -> int:
        return os.getpid()

    def is_child(self, pid: int) -> bool:
        """Tell whether *pid* is a child of ours, dead or alive; needs no descriptor.

        As long as it is one its pid is nobody else's.
        """
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True

    def status(self, pid: int) -> Optional[Status]:
        return status_of(pid)

    def image(self, process: Process) -> int:
        """Return what tells an exec of *process* from a fork, 0 where that is hidden."""
        status = self.status(process.pid)
        if status is not None and not status.image:  # root without CAP_SYS_PTRACE
            try:
                with rights_of(self.ids(process)):
                    status = self.status(process.pid)
            except PermissionError:
                return 0
        return 0 if status is None or status.process != process else status.image

    def ids(self, process: Process) -> Optional[Ids]:
        """Return as whom *process* acts, None once it is gone."""
        found = ids_of(process.pid)
        return found if self.alive(process) else None

    def lookup(self, pid: int) -> Optional[Process]:
        return lookup(pid)

    def alive(self, process: Process) -> bool:
        return is_alive(process)

    def children(self, process: Process) -> list[Process]:
        """Return the living children of *process*; none once it is gone.

        Several families look at the same processes in one step: what was seen a moment ago
        is not looked at again.
        """
        now = self.now()
        at, found = self._children.get(process, (-math.inf, []))
        if now - at >= FRESH:
            found = children_of(process.pid)
            self._children = {
                p: seen for p, seen in self._children.items() if now - seen[0] < FRESH
            }
            self._children[process] = now, found
            return found if self.alive(process) else []
        return [child for child in found if self.alive(child)] if self.alive(process) else []

    def orphanage(self, users: Collection[int], ours: bool = False) -> list[Process]:
        """Return our children, and those of our ancestors: the kernel hands orphans to them.

        :param users: whose; those that hide it are among them.
        :param ours: ours only: as a subreaper we are handed all that is below us.
        """
        own = self.own_pid()
        ours = ours and self.subreaper
        parents = (own,) if ours else (own, *ancestors_of(own))
        return self._children_of(parents, users, ORPHANS)

    def _children_of(
        self, parents: Iterable[int], users: Collection[int], limit: int
    ) -> list[Process]:
        """Return the children of *parents* that may be of *users*, none where there are too
        many of these: what others have left costs next to nothing."""
        found: list[Process] = []
        for parent in parents:
            pids = [pid for pid in pids_of_children(parent) if _may_be_of(pid, users)]
            if len(pids) <= limit:
                found += filter(None, map(lookup, pids))
        return sorted(found, key=lambda child: child.start)

    def strays(self, users: Collection[int]) -> list[Process]:
        """Return the processes older than we that lost their parent: children of our ancestors.

        Not every process of the host is looked at. We and our ancestors are none of them.
        """
        own = self.own_pid()
        line = ancestors_of(own)
        me = lookup(own)
        return [
            child
            for child in self._children_of(line, users, STRAYS)
            if child.pid not in (own, *line) and me is not None and child.start <= me.start
        ]

    def directory(self, process: Process) -> Optional[str]:
        """Return the directory that *process* is in, None when that is hidden."""
        try:
            with rights_of(self.ids(process)):
                return os.readlink(f"/proc/{process.pid}/cwd")
        except OSError:
            return None

    def same_files(self, process: Process) -> bool:
        """Tell whether a path is the same file for *process* as for us; False when hidden."""
        place = f"/proc/{process.pid}"
        try:
            mounts = os.readlink(f"{place}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
            return mounts and os.path.samefile(f"{place}/root", "/")
        except OSError:
            return False

    def owner(self, process: Process) -> Optional[int]:
        return owner_of(process.pid)

    def environments(
        self, processes: Mapping[Process, Ids], names: Collection[str]
    ) -> dict[Process, dict[str, str]]:
        """Return those of the variables *names* that each of *processes* was started with, as
        far as that is told soon; not for the middle of a loop."""
        return peek.environments(processes, names)

    def heartbeats(self, process: Process) -> dict[tuple[int, int], Beat]:
        return self._descriptors.heartbeats(process)

    def listening(self, process: Process) -> dict[int, str]:
        return self._memory.listening(process)

    def sockets(self, process: Process, known: Container[int]) -> Sockets:
        return self._memory.sockets(process, known)

    def held(self, process: Process) -> frozenset[int]:
        """Return the listening sockets that *process* holds, by inode.

        :raises Unreadable: when its descriptors cannot be read.
        """
        return self.sockets(process, self.listening(process)).held

    def handed_on(self, process: Process, sockets: Container[int]) -> frozenset[int]:
        """Return those of *sockets* that an exec of *process* would hand on.

        :raises Unreadable: when its descriptors cannot be read.
        """
        links = self._descriptors.links(process, sockets)
        return frozenset(
            inode
            for name, link in links.items()
            if (inode := inode_of(link)) is not None
            and inode in sockets
            and not self._descriptors.closes_on_exec(process, name)
        )

    def own_sockets(self) -> frozenset[int]:
        """Return those that this process holds."""
        me = self.lookup(self.own_pid())
        return self.held(me) if me is not None else frozenset()

    def descriptors(self, process: Process) -> dict[str, str]:
        return dict(self._descriptors.links(process))

    def program(self, process: Process) -> str:
        """Return the name of the file that *process* executes, '' when hidden."""
        try:
            with rights_of(self.ids(process)):
                return executable_of(process.pid)
        except PermissionError:
            return ""

    def waits(self, process: Process) -> bool:
        """Tell whether *process* does nothing but wait for a child of its own."""
        try:
            with rights_of(self.ids(process)):
                return only_waits(process.pid)
        except PermissionError:
            return False

    def catches(self, process: Process, name: str) -> Optional[bool]:
        """Tell whether *process* has a handler for the signal *name* ('HUP')."""
        return has_handler(process.pid, signal.Signals[f"SIG{name}"])

    def arguments(self, process: Process) -> list[str]:
        return arguments_of(process.pid)

    def sleeps(self, process: Process) -> Optional[int]:
        return count_of_sleeps(process.pid)

    def signal(self, process: Process, name: str) -> bool:
        """Send the signal *name* ('TERM') to *process*; see :meth:`send`."""
        return self.send(process, signal.Signals[f"SIG{name}"])

    def send(self, process: Process, number: int) -> bool:
        """Send a signal to *process*, and to nobody else.

        A pid descriptor holds the process while its start time is compared,
        so that a pid that has been used again is never hit; where the system
        has none, the comparison comes right before the signal.

        :return: False when the process is gone.
        """
        handle = None
        try:
            handle = _hold(process.pid)
            if not self.alive(process):
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

    def read_pid(self, path: str, rights: Optional[Ids] = None) -> int:
        """Return the pid that the pidfile *path* names.

        The file belongs to the application, so it may be anything: it is
        opened without side effects, read only if it is a regular file, and
        only as far as a pid is long.

        :param rights: with whose rights it is read, None for our own.
        :raises ValueError: with a sentence that says what is wrong with which file.
        """
        try:
            with rights_of(rights or Ids.of_user(os.geteuid(), os.getegid())):
                text = read_regular(path, 32)
        except OSError as error:
            raise ValueError(f"pidfile {path}: {error.strerror}") from None
        digits = text.strip()
        if not digits.isdigit() or len(text) >= 32:
            raise ValueError(f"pidfile {path}: what it holds is not a pid")
        pid = int(digits)
        if not 1 < pid < 1 << 31:
            raise ValueError(f"pidfile {path}: {pid} cannot be the pid of a server")
        return pid


def _hold(pid: int) -> Optional[int]:
    """Return a pid descriptor, None where the system has none to give."""
    try:
        return os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    except ProcessLookupError:
        raise
    except OSError:
        return None  # an old kernel, a seccomp filter, no descriptor left


def read_regular(path: str, limit: int) -> bytes:
    """Read up to *limit* bytes of a regular file; opening a fifo or a device has effects."""
    held = os.open(path, getattr(os, "O_PATH", os.O_NONBLOCK | os.O_NOCTTY) | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(held).st_mode):
            raise OSError(0, "not a regular file")
        if not hasattr(os, "O_PATH"):
            return os.read(held, limit)
        descriptor = os.open(f"/proc/self/fd/{held}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.read(descriptor, limit)
        finally:
            os.close(descriptor)
    finally:
        os.close(held)
