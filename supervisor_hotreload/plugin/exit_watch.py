"""Learns of the exit of a process that is no child: nobody reaps it for us."""

from __future__ import annotations

import contextlib
import os
import traceback
from typing import Any, Callable, Optional

from supervisor_hotreload.plugin.log import Log
from supervisor_hotreload.system.process import Process, is_alive

UNKNOWN_STATUS = 255 << 8
"""The wait status that is reported: the real one went to another parent. It counts
as an unexpected exit, so that ``autorestart = unexpected`` starts the program again."""


class Watch:
    """A dispatcher in supervisord's socket map that tells when a process has ended.

    A pidfd becomes readable at that moment; without one, every turn of
    supervisord's loop looks.

    :param options: supervisord's ServerOptions.
    :param on_exit: called once; what it raises is logged and swallowed.
    """

    def __init__(self, options: Any, process: Process, on_exit: Callable[[], None]) -> None:
        self._options = options
        self._process = process
        self._on_exit = on_exit
        self._open = True
        self._in_event = False
        self._pidfd = _open(process.pid)
        # without a descriptor it is never polled, and any key that is none will do
        self._key = -process.pid if self._pidfd is None else self._pidfd
        options.get_socket_map()[self._key] = self

    def close(self) -> None:
        """Look no longer."""
        socket_map = self._options.get_socket_map()
        if self._open and socket_map.get(self._key) is self:
            del socket_map[self._key]
            if self._pidfd is not None:
                self._unregister()
                os.close(self._pidfd)
        self._open = False

    def _unregister(self) -> None:
        """Let the poller forget the descriptor; in its own event supervisord does that."""
        if not self._in_event:
            with contextlib.suppress(KeyError, OSError, ValueError):  # it was never polled
                self._options.poller.unregister_readable(self._pidfd)

    # what supervisord's loop asks of a dispatcher

    def readable(self) -> bool:
        if self._open and self._pidfd is None:
            self._look()
        return self._open and self._pidfd is not None

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        self._in_event = True
        self._look()
        self._in_event = False

    def handle_write_event(self) -> None:
        """Never called: writable() is False."""

    def handle_error(self) -> None:
        Log(self._options.logger).critical(f"hotreload: {traceback.format_exc()}")

    def _look(self) -> None:
        try:
            if self._open and not is_alive(self._process):
                self.close()
                self._on_exit()
        except Exception:  # noqa: BLE001 - it would end supervisord
            self.handle_error()


def _open(pid: int) -> Optional[int]:
    try:
        return os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    except OSError:
        return None  # it is gone already, or the kernel is too old: look at every turn
