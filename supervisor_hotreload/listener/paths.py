"""Looks at the paths of ``touch`` and ``watch`` by stat and readlink; opens nothing.

The application's user may own the path and put anything there, such as a fifo.
"""

from __future__ import annotations

import math
import os
import stat
from typing import Callable, NamedTuple, Optional, Union

Stamp = list[Union[int, str]]
"""One state of a path, as JSON. It is empty when nothing is there."""


class Look(NamedTuple):
    """What was seen at a path.

    :param stamp: None when nothing can be seen: then the last stamp still holds.
    :param trouble: a sentence for the operator, '' when all is well.
    """

    stamp: Optional[Stamp]
    trouble: str = ""


def touched(path: str) -> Look:
    """Look at the modification time of a file, as uWSGI's touch-reload does."""
    try:
        seen = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        may_appear = os.path.isdir(os.path.dirname(path))
        return Look([], "" if may_appear else "its directory does not exist")
    except (OSError, ValueError) as error:
        return _unseen(error)
    return _look(seen, "a file", [seen.st_mtime_ns, seen.st_ino])


def pointed(path: str) -> Look:
    """Look where a symlink points to, and which file or directory is behind it."""
    try:
        seen = os.stat(path)
        target = _target(path)
    except (FileNotFoundError, NotADirectoryError):
        return Look([], "there is nothing")  # and the same inode may come again
    except (OSError, ValueError) as error:
        return _unseen(error)
    return _look(seen, "a directory", [target, seen.st_dev, seen.st_ino])


def changed(path: str) -> float:
    """Return when the file at *path*, or its link, changed last, in seconds since the epoch."""
    try:
        return max(os.lstat(path).st_ctime, os.stat(path).st_ctime)
    except (OSError, ValueError):
        return math.inf


LOOKS: dict[str, Callable[[str], Look]] = {"touch": touched, "watch": pointed}


def _target(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""  # not a link


def _unseen(error: Exception) -> Look:
    return Look(None, (getattr(error, "strerror", None) or str(error)).lower())


def _look(seen: os.stat_result, expected: str, stamp: Stamp) -> Look:
    if stat.S_ISREG(seen.st_mode) or stat.S_ISDIR(seen.st_mode):
        return Look(stamp)
    return Look(None, f"it is {_kind(seen.st_mode)}, not {expected}")


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a fifo"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"
