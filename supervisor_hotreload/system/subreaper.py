"""Makes orphaned descendants the children of this process (prctl(2), Linux 3.4)."""

from __future__ import annotations

import ctypes
import sys

PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> bool:
    """Become the parent of every descendant that loses its own.

    It is not inherited over fork, so it has to be set after daemonizing. It
    needs no privilege.

    :return: False where the system cannot do it.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        return bool(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (AttributeError, OSError):
        return False
