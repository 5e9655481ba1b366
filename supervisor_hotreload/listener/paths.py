"""How ``touch`` and ``watch`` look at a path: by stat and readlink, nothing is opened.

The application's user may own the path and put anything there, such as a fifo.
"""

from __future__ import annotations

import math
import os
import stat
from dataclasses import dataclass
from typing import Callable, Optional, Union

Stamp = list[Union[int, str]]
"""One state of a path, as JSON. It is empty when nothing is there."""


@dataclass(frozen=True)
class Look:
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
        if os.path.isdir(os.path.dirname(path)):
            return Look([])  # the file may appear later
        return Look([], trouble="its directory does not exist")
    except (OSError, ValueError) as error:
        return Look(None, trouble=_why(error))
    if not (stat.S_ISREG(seen.st_mode) or stat.S_ISDIR(seen.st_mode)):
        return Look(None, trouble=f"it is {_kind(seen.st_mode)}, not a file")
    return Look([seen.st_mtime_ns, seen.st_ino])


def pointed(path: str) -> Look:
    """Look where a symlink points to, and which file or directory is behind it."""
    try:
        seen = os.stat(path)
        target = _target(path)
    except (FileNotFoundError, NotADirectoryError):
        return Look([], trouble="there is nothing")  # and the same inode may come again
    except (OSError, ValueError) as error:
        return Look(None, trouble=_why(error))
    if not (stat.S_ISREG(seen.st_mode) or stat.S_ISDIR(seen.st_mode)):
        return Look(None, trouble=f"it is {_kind(seen.st_mode)}, not a directory")
    return Look([target, seen.st_dev, seen.st_ino])


def changed(path: str) -> float:
    """Return when the file at *path*, or its link, changed last, in seconds since the epoch."""
    try:
        return max(os.lstat(path).st_ctime, os.stat(path).st_ctime)
    except (OSError, ValueError):
        return math.inf


LOOKS: dict[str, Callable[[str], Look]] = {"touch": touched, "watch": pointed}


def glance_at_file(path: str) -> object:
    """Return a value that differs whenever touched() may see something new, at little cost."""
    try:
        seen = os.stat(path)
    except (OSError, ValueError) as error:
        return getattr(error, "errno", None)
    return seen.st_mtime_ns, seen.st_ino, seen.st_mode


def glance_at_link(path: str) -> object:
    """Return a value that differs whenever pointed() may see something new, at little cost."""
    try:
        seen = os.stat(path)
        link = os.lstat(path)
    except (OSError, ValueError) as error:
        return getattr(error, "errno", None)
    # a symlink cannot be edited, only replaced
    return (
        seen.st_ino,
        seen.st_dev,
        seen.st_mode,
        link.st_ino,
        link.st_ctime_ns if stat.S_ISLNK(link.st_mode) else 0,
    )


GLANCES: dict[str, Callable[[str], object]] = {"touch": glance_at_file, "watch": glance_at_link}


def _target(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""  # not a link


def _why(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a fifo"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"
