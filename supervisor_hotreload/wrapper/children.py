"""Reaps the children of hotreload-run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Callable

Reaper = Callable[[int, int], None]
"""Is called with the pid and the wait status of a child that has ended."""


class Children:
    """Reaps the server, its orphans and the commands of our own."""

    def __init__(self) -> None:
        self.reapers: dict[int, Reaper] = {}
        """By pid, who wants to know the wait status of a child."""
        self.are_left = True
        """False once the kernel knows of no child at all."""

    def reap(self) -> Iterator[tuple[int, int]]:
        """Reap each child that has ended, and yield its pid and its wait status."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self.are_left = False
                return
            self.are_left = True
            if pid == 0:
                return
            yield pid, status
