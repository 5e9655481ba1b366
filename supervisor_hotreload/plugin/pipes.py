"""Opens the pipes of a running process again, so that supervisord can read its output."""

from __future__ import annotations

import os
import stat
from typing import Any, Optional


def reopen_pipes(pid: int, redirect_stderr: bool) -> dict[str, Any]:
    """Open the reading ends of the pipes that process *pid* logs to.

    :param redirect_stderr: both outputs go to one pipe.
    :return: pipes as ``options.make_pipes`` returns them; None for what is no pipe.
    """
    pipes: dict[str, Any] = dict.fromkeys(
        ("child_stdin", "stdin", "stdout", "child_stdout", "stderr", "child_stderr")
    )
    pipes["stdout"] = _reopen(pid, 1)
    if not redirect_stderr:
        pipes["stderr"] = _reopen(pid, 2)
    return pipes


def _reopen(pid: int, descriptor: int) -> Optional[int]:
    """Open the other end of an anonymous pipe, and of nothing else: an open may have effects."""
    try:
        held = os.open(f"/proc/{pid}/fd/{descriptor}", os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        own = f"/proc/self/fd/{held}"
        seen = os.fstat(held)
        if not stat.S_ISFIFO(seen.st_mode) or not os.readlink(own).startswith("pipe:"):
            return None
        if seen.st_uid != os.geteuid():
            return None  # supervisord makes these pipes, so they are of supervisord's user
        return os.open(own, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    finally:
        os.close(held)
