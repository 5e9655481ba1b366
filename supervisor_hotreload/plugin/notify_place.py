"""Finds a folder for a program's notify socket that only supervisord's user can change."""

from __future__ import annotations

import hashlib
import os
import stat

from supervisor_hotreload.core.text import printable
from supervisor_hotreload.system.credentials import Ids, rights_of

LONGEST_BYTES = 107
"""Bytes of the path of a unix socket (unix(7))."""

ELSEWHERE = ("/run", "/tmp")
"""Where the folder may be, if it cannot be beside supervisord's pidfile."""


class NoPlace(Exception):
    """There is no folder that only supervisord can change and that the program's user can reach."""


def place(pidfile: str, name: str, user: int) -> str:
    """Return the path of a program's socket. It depends on the arguments alone.

    :param pidfile: the path of supervisord's pidfile.
    :param name: the name of the program.
    :param user: the user id that has to reach the socket.
    :raises NoPlace: with the reason against each folder.
    """
    file = f"{_digest(name)}.sock"
    beside = f"{os.path.splitext(pidfile)[0]}.hotreload"
    others = (f"{folder}/supervisor-hotreload-{_digest(pidfile)}" for folder in ELSEWHERE)
    refused = []
    for folder in (beside, *others):
        path = os.path.join(folder, file)
        try:
            if len(os.fsencode(path)) > LONGEST_BYTES:
                raise OSError(0, "the path would be too long for a unix socket")
            _make_own(folder)
            with rights_of(Ids.of_user(user)):
                os.stat(os.path.join(folder, "."))
        except OSError as error:
            refused.append(f"{printable(folder)}: {error.strerror}")
        else:
            return path
    raise NoPlace("; ".join(refused))


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:16]


def _make_own(folder: str) -> None:
    """Make *folder*, or use the one that an earlier supervisord has made.

    :raises OSError: when it belongs to another user, or another user could replace it.
    """
    parent = os.path.realpath(os.path.dirname(folder))
    while True:
        seen = os.stat(parent)
        sticky = seen.st_mode & stat.S_ISVTX
        if seen.st_uid not in (0, os.geteuid()) or (seen.st_mode & 0o022 and not sticky):
            raise OSError(0, f"other users than supervisord's may change {printable(parent)}")
        if parent == os.path.dirname(parent):
            break
        parent = os.path.dirname(parent)
    try:
        os.mkdir(folder, 0o711)
    except FileExistsError:
        pass
    else:
        os.chmod(folder, 0o711)  # mkdir has applied the umask
    seen = os.lstat(folder)
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid() or seen.st_mode & 0o022:
        raise OSError(0, "it belongs to another user, or other users may change it")
