"""The seam to the operating system: the clock, processes, their sockets, and signals.

The unit tests replace it by a simulated system. The families and the plugin learn about
processes from it alone.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Container, Iterable
from typing import Callable, Optional, TypeVar

from supervisor_hotreload.system import peek
from supervisor_hotreload.system.cache import Cache
from supervisor_hotreload.system.credentials import OWN, Ids, ids_of, rights_of
from supervisor_hotreload.system.descriptors import Beat, Descriptors, inode_of
from supervisor_hotreload.system.files import read_pidfile
from supervisor_hotreload.system.process import (
    Process,
    ancestors_of,
    arguments_of,
    children_of,
    count_of_sleeps,
    executable_of,
    has_handler,
    is_alive,
    leads_a_namespace,
    lookup,
    only_waits,
    pids_of_children,
    send_signal,
    status_of,
)
from supervisor_hotreload.system.sd_notify import Notices
from supervisor_hotreload.system.sockets import Sockets, SocketView

ORPHANS = 512
"""How many children of one process are looked at for what a program has left behind."""

STRAYS = 1 << 14
"""The same when supervisord starts, which happens once: a host may have many services."""

Found = TypeVar("Found")


class World:
    """The real system. No method blocks, except :meth:`environments`.

    ``subreaper`` tells whether the kernel makes the orphans below us our children. What looks at
    descriptors raises Unreadable when they are hidden, or there are too many.
    """

    def __init__(self) -> None:
        self.notices = Notices()
        self.subreaper = False
        self._children: Cache[Process, list[Process]] = Cache(lambda: self.now())
        self._descriptors = Descriptors(lambda: self.now())
        self._sockets = SocketView(self._descriptors, lambda: self.now())

    # -- what needs nothing of this object

    now = staticmethod(time.monotonic)
    own_pid = staticmethod(os.getpid)
    lookup = staticmethod(lookup)
    alive = staticmethod(is_alive)
    status = staticmethod(status_of)
    send = staticmethod(send_signal)
    environments = staticmethod(peek.environments)
    """It waits; all others return at once."""

    # -- one process

    def is_child(self, pid: int) -> bool:
        """Tell whether *pid* is a child of ours, dead or alive.

        While it is one the kernel gives its pid to no other process.
        """
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True

    def ids(self, process: Process) -> Optional[Ids]:
        """Return the ids of *process*, None once it is gone."""
        found = ids_of(process.pid)
        return found if self.alive(process) else None

    def image(self, process: Process) -> int:
        """Return a number that an exec of *process* changes and a fork does not, 0 if hidden."""
        status = self.status(process.pid)
        if status is not None and not status.image:  # root without CAP_SYS_PTRACE
            status = self._with_its_rights(process, lambda: self.status(process.pid), None)
        return 0 if status is None or status.process != process else status.image

    def directory(self, process: Process) -> Optional[str]:
        """Return the directory that *process* is in, None when it is hidden."""
        return self._with_its_rights(process, lambda: os.readlink(f"/proc/{process.pid}/cwd"), None)

    def program(self, process: Process) -> str:
        """Return the name of the file that *process* executes, '' when it is hidden."""
        return self._with_its_rights(process, lambda: executable_of(process.pid), "")

    def waits(self, process: Process) -> bool:
        """Tell whether *process* does nothing but wait for a child of its own."""
        return self._with_its_rights(process, lambda: only_waits(process.pid), False)

    def _with_its_rights(self, process: Process, look: Callable[[], Found], hidden: Found) -> Found:
        """Return what *look* finds with the rights of *process*, else *hidden*."""
        try:
            with rights_of(self.ids(process)):
                return look()
        except OSError:
            return hidden

    def same_files(self, process: Process) -> bool:
        """Tell whether a path is the same file for *process* as for us; False if hidden."""
        place = f"/proc/{process.pid}"
        try:
            mounts = os.readlink(f"{place}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
            return mounts and os.path.samefile(f"{place}/root", "/")
        except OSError:
            return False

    def leads_a_namespace(self, process: Process) -> bool:
        """Tell whether the end of *process* ends all others of its pid namespace."""
        return leads_a_namespace(process.pid)

    def arguments(self, process: Process) -> list[str]:
        """Return the command line of *process*. The process can change it: it proves nothing."""
        return arguments_of(process.pid)

    def catches(self, process: Process, name: str) -> Optional[bool]:
        """Tell whether *process* has a handler for the signal *name* ('HUP'); None if hidden."""
        return has_handler(process.pid, signal.Signals[f"SIG{name}"])

    def sleeps(self, process: Process) -> Optional[int]:
        """Return how often *process* has gone to sleep, None when it is hidden."""
        return count_of_sleeps(process.pid)

    def signal(self, process: Process, name: str) -> bool:
        """Send the signal *name* ('TERM') to *process*; see :meth:`send`."""
        return self.send(process, signal.Signals[f"SIG{name}"])

    # -- its relatives

    def parent(self, process: Process) -> Optional[Process]:
        """Return the living parent of *process*, None when it is gone."""
        status = self.status(process.pid)
        return self.lookup(status.parent) if status is not None else None

    def children(self, process: Process) -> list[Process]:
        """Return the living children of *process*, none once it is gone.

        :raises Unreadable: when there are too many.
        """
        found = self._children.fresh(process)
        if found is None:
            found = self._children.put(process, children_of(process.pid))
            return found if self.alive(process) else []
        return [child for child in found if self.alive(child)] if self.alive(process) else []

    def orphanage(self, users: Collection[int], ours: bool = False) -> list[Process]:
        """Return our children and those of our ancestors: orphans become children of these.

        :param users: whose processes; those that hide their user are returned as well.
        :param ours: only our children, if we are a subreaper: then no orphan below us becomes
            the child of another process.
        """
        own = self.own_pid()
        ours = ours and self.subreaper
        parents = (own,) if ours else (own, *ancestors_of(own))
        return _children_of_users(parents, users, ORPHANS)

    def strays(self, users: Collection[int]) -> list[Process]:
        """Return the children of our ancestors that are older than we: they may be orphans.

        We and our ancestors are left out. Not every process of the host is looked at.
        """
        own = self.own_pid()
        line = ancestors_of(own)
        me = lookup(own)
        return [
            child
            for child in _children_of_users(line, users, STRAYS)
            if child.pid not in (own, *line) and me is not None and child.start <= me.start
        ]

    # -- its descriptors

    def heartbeats(self, process: Process) -> dict[tuple[int, int], Beat]:
        """Return the gunicorn heartbeat files that *process* holds, by device and inode."""
        return self._descriptors.heartbeats(process)

    def descriptors(self, process: Process) -> dict[str, str]:
        """Return what the descriptors of *process* are links to."""
        return dict(self._descriptors.links(process))

    def listening(self, process: Process) -> dict[int, str]:
        """Return the listening sockets where *process* lives: inode to address.

        :raises Unreadable: when there are too many.
        """
        return self._sockets.listening(process)

    def sockets(self, process: Process, known: Container[int]) -> Sockets:
        """Return which of the listening sockets *known* are held and accepted by *process*."""
        return self._sockets.sockets(process, known)

    def held(self, process: Process) -> frozenset[int]:
        """Return the inodes of the listening sockets that *process* holds."""
        return self.sockets(process, self.listening(process)).held

    def own_sockets(self) -> frozenset[int]:
        """Return the inodes of the listening sockets that we hold."""
        me = self.lookup(self.own_pid())
        return self.held(me) if me is not None else frozenset()

    def handed_on(self, process: Process, sockets: Container[int]) -> frozenset[int]:
        """Return those of *sockets* that *process* keeps open if it executes another file."""
        links = self._descriptors.links(process, sockets)
        return frozenset(
            inode
            for name, link in links.items()
            if (inode := inode_of(link)) is not None
            and inode in sockets
            and not self._descriptors.closes_on_exec(process, name)
        )

    # -- its files

    def read_pid(self, path: str, rights: Optional[Ids] = OWN) -> int:
        """Return the pid in the pidfile *path*.

        :param rights: with whose rights it is read, see rights_of().
        :raises ValueError: with a sentence that says what is wrong with which file.
        """
        try:
            with rights_of(rights):
                return read_pidfile(path)
        except OSError as error:
            raise ValueError(f"pidfile {path}: {error.strerror}") from None


def _children_of_users(parents: Iterable[int], users: Collection[int], limit: int) -> list[Process]:
    """Return the children of *parents* that may belong to *users*, oldest first.

    The children of a parent that has more than *limit* of them are left out: what others
    start must not cost supervisord anything.
    """
    found: list[Process] = []
    for parent in parents:
        pids = [pid for pid in pids_of_children(parent) if _may_belong_to(pid, users)]
        if len(pids) <= limit:
            found += filter(None, map(lookup, pids))
    return sorted(found, key=lambda child: child.start)


def _may_belong_to(pid: int, users: Collection[int]) -> bool:
    """Tell whether *pid* may act as one of *users*.

    Its folder in /proc belongs to its user, or to root where the process hides (proc(5)).
    """
    try:
        owner = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return False
    return 0 in users or owner == 0 or owner in users
