"""Looks at the files and processes of a program with the program's own rights.

supervisord is often root, its programs are not. A program can make a path lead to a secret
that root can read and the program cannot. So only the file system ids of this thread change,
for the time of one look (setfsuid(2), path_resolution(7)). They also open /proc/PID/fd to a
root without CAP_SYS_PTRACE, if all ids of the process are the same (ptrace(2), 'Ptrace access
mode checking').
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Optional

from supervisor_hotreload.system.linux import LINUX, libc, read_whole

PR_SET_PDEATHSIG, PR_GET_PDEATHSIG = 1, 2
PR_GET_DUMPABLE, PR_SET_DUMPABLE = 3, 4

NOBODY = 65534
"""The id of the group that owns nothing."""


class Ids(NamedTuple):
    """The ids of a process, which are its rights (proc(5), status).

    :param users: its real, effective, saved and file system user id.
    :param groups: the same four group ids.
    :param more: its supplementary groups.
    """

    users: tuple[int, ...]
    groups: tuple[int, ...]
    more: tuple[int, ...] = ()

    @property
    def user(self) -> Optional[int]:
        """The user, None where the four ids differ: the process has executed a setuid file,
        or is about to change its user."""
        return self.users[0] if len({*self.users}) == 1 else None

    @classmethod
    def of_user(cls, user: int, group: int = NOBODY) -> Ids:
        """Return the ids of a user, in a group that owns nothing unless one is given."""
        return cls((user,) * 4, (group,) * 4)


OWN = Ids.of_user(0, 0)
"""Our own rights: rights_of() changes nothing for them."""


def ids_of(pid: int) -> Optional[Ids]:
    """Return the ids of *pid*, None when there is no such process or they are hidden."""
    if not LINUX:
        return _portable_ids(pid)
    try:
        return read_ids(read_whole(f"/proc/{pid}/status").split(b"\n"))
    except OSError:
        return None


def read_ids(lines: Iterable[bytes]) -> Optional[Ids]:
    """Return the ids in the lines of /proc/PID/status, None where they are torn."""
    found: dict[bytes, tuple[int, ...]] = {}
    for line in lines:
        key, _, value = line.partition(b":")
        if key in (b"Uid", b"Gid", b"Groups") and key not in found:
            try:
                found[key] = tuple(map(int, value.split()))
            except ValueError:
                return None
            if key == b"Groups":
                break
    users, groups = found.get(b"Uid", ()), found.get(b"Gid", ())
    if len(users) != 4 or len(groups) != 4:
        return None
    return Ids(users, groups, found.get(b"Groups", ()))


def _portable_ids(pid: int) -> Optional[Ids]:
    import psutil

    try:
        peer = psutil.Process(pid)
        users, groups = peer.uids(), peer.gids()
    except psutil.Error:
        return None
    return Ids((*users, users.effective), (*groups, groups.effective))


@contextmanager
def rights_of(ids: Optional[Ids]) -> Iterator[None]:
    """Look at files with the rights of *ids* and no others, until the end of the block.

    Nothing changes when this process is not root, or *ids* are root's. The block must
    neither wait nor yield.

    :param ids: None, or ids that differ among themselves, have no rights at all.
    :raises PermissionError: when these rights cannot be taken.
    """
    if os.geteuid() != 0 or not LINUX:
        yield
        return
    if ids is None or ids.user is None or len({*ids.groups}) != 1:
        raise PermissionError(1, "its user ids differ, or they are unknown")
    if ids.user == 0:
        yield
        return
    library = libc()
    own = os.getgroups()
    dumpable, signal = library.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), ctypes.c_int()
    library.prctl(PR_GET_PDEATHSIG, ctypes.byref(signal), 0, 0, 0)
    user, group = library.setfsuid(-1), library.setfsgid(-1)  # a look may be part of another one
    try:
        os.setgroups(ids.more)
        library.setfsgid(ids.groups[0])
        library.setfsuid(ids.user)
        if library.setfsuid(-1) != ids.user or library.setfsgid(-1) != ids.groups[0]:
            raise PermissionError(1, f"the rights of user {ids.user} cannot be taken")
        yield
    finally:
        library.setfsuid(user)
        library.setfsgid(group)
        if os.getgroups() != own:
            os.setgroups(own)
        # the change of the ids has cleared both (kernel/cred.c, commit_creds)
        if dumpable == 1:
            library.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
        if signal.value:
            library.prctl(PR_SET_PDEATHSIG, signal.value, 0, 0, 0)
