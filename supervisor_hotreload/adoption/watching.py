"""Learns of the exit of a process that is no child: nobody reaps it for us."""

from __future__ import annotations

import os
import traceback
from typing import Any, Callable, Optional

from supervisor_hotreload.identity import Process, alive

UNKNOWN_STATUS = 255 << 8
"""The wait status that is reported: the real one went to another parent. It counts
as an unexpected exit, so that ``autorestart = unexpected`` starts the program again."""


class Watch:
    """A dispatcher in supervisord's socket map that tells when a process has ended.

    A pidfd becomes readable at that moment; without one, every turn of
    supervisord's loop looks.

    :param on_exit: called once; what it raises is logged and swallowed.
    """

    def __init__(
        self, socket_map: Any, logger: Any, process: Process, on_exit: Callable[[], None]
    ) -> None:
        self._map = socket_map
        self._logger = logger
        self._process = process
        self._on_exit = on_exit
        self.fd = _open(process.pid)
        self._signals = self.fd is not None
        if self.fd is None:
            self.fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._map[self.fd] = self

    def close(self) -> None:
        """Look no longer."""
        if self.fd is not None and self._map.get(self.fd) is self:
            del self._map[self.fd]
            os.close(self.fd)
        self.fd = None

    # what supervisord's loop asks of a dispatcher

    def readable(self) -> bool:
        if not self._signals:
            self._look()
        return self._signals and self.fd is not None

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        self._look()

    def handle_write_event(self) -> None:
        """Never called: writable() is False."""

    def handle_error(self) -> None:
        self._logger.critical(f"hotreload: {traceback.format_exc()}")

    def _look(self) -> None:
        if self.fd is None or alive(self._process):
            return
        self.close()
        try:
            self._on_exit()
        except Exception:  # noqa: BLE001 - it would end supervisord
            self.handle_error()


def _open(pid: int) -> Optional[int]:
    try:
        return os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    except OSError:
        return None  # it is gone already, or the kernel is too old: look at every turn
