"""Where a program's notify socket may lie: nobody but supervisord may change that folder."""

from __future__ import annotations

import hashlib
import os
import stat

from supervisor_hotreload.core.text import printable
from supervisor_hotreload.system.credentials import Ids, rights_of

LONGEST = 107
"""Bytes of the path of a unix socket (unix(7))."""

ELSEWHERE = ("/run", "/tmp")
"""Where else than beside supervisord's pidfile a folder may lie."""


class NoPlace(Exception):
    """There is no folder that is supervisord's own and that the program's user may reach."""


def place(pidfile: str, name: str, user: int) -> str:
    """Return the path of a program's socket, the same one for as long as its name is.

    :param pidfile: supervisord's.
    :param name: the program's.
    :param user: who has to reach it.
    :raises NoPlace: with what is wrong with each folder.
    """
    file = f"{_digest(name)}.sock"
    beside = f"{os.path.splitext(pidfile)[0]}.hotreload"
    others = (f"{folder}/supervisor-hotreload-{_digest(pidfile)}" for folder in ELSEWHERE)
    refused = []
    for folder in (beside, *others):
        path = os.path.join(folder, file)
        try:
            if len(os.fsencode(path)) > LONGEST:
                raise OSError(0, "its path is too long for a unix socket")
            _own(folder)
            with rights_of(Ids.of_user(user)):
                os.stat(os.path.join(folder, "."))
        except OSError as error:
            refused.append(f"{printable(folder)}: {error.strerror}")
        else:
            return path
    raise NoPlace("; ".join(refused))


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:16]


def _own(folder: str) -> None:
    """Make *folder*, or take what an earlier supervisord has made.

    :raises OSError: when it is somebody else's, or could be replaced by somebody else.
    """
    parent = os.path.realpath(os.path.dirname(folder))
    while True:
        seen = os.stat(parent)
        sticky = seen.st_mode & stat.S_ISVTX
        if seen.st_uid not in (0, os.geteuid()) or (seen.st_mode & 0o022 and not sticky):
            raise OSError(0, f"others than supervisord's user may change {printable(parent)}")
        if parent == os.path.dirname(parent):
            break
        parent = os.path.dirname(parent)
    try:
        os.mkdir(folder, 0o711)
    except FileExistsError:
        pass
    else:
        os.chmod(folder, 0o711)  # whatever the umask is
    seen = os.lstat(folder)
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid() or seen.st_mode & 0o022:
        raise OSError(0, "it is not supervisord's own")
