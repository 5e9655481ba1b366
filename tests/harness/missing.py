"""Programs that pip does not install, and what becomes of a test whose program is missing."""

from __future__ import annotations

import os
import pathlib
import shutil
import sys

BIN = pathlib.Path(sys.executable).parent

PREFIX = "missing program: "
"""How the reason of a skipped test begins."""


class Missing(Exception):
    """A program that a test needs is not installed: without CI the test is skipped.

    :param name: of the program.
    :param cure: what installs it.
    """

    def __init__(self, name: str, cure: str) -> None:
        super().__init__(f"{PREFIX}{name} ({cure})")


def program(name: str, cure: str) -> str:
    """Return the path of a program.

    :param cure: what installs it.
    :raises Missing: when it is not installed.
    """
    path = os.pathsep.join((str(BIN), os.environ["PATH"], "/usr/sbin"))
    found = shutil.which(name, path=path)
    if found is None:
        raise Missing(name, cure)
    return found
