"""Notices the exit of a process that supervisord cannot reap, because it is not its child."""

from __future__ import annotations

import contextlib
import os
from typing import Any, Callable, Optional

from supervisor_hotreload.plugin.dispatcher import Dispatcher
from supervisor_hotreload.plugin.log import Log
from supervisor_hotreload.system.process import Process, is_alive

UNKNOWN_STATUS = 255 << 8
"""The wait status that supervisord gets for such a process: another parent has reaped the
real one. It counts as an unexpected exit, so ``autorestart = unexpected`` starts the program."""


class ExitWatch(Dispatcher):
    """Calls a function once when a process has ended.

    A pidfd becomes readable at the exit. Where the system has no pidfd, every turn of
    supervisord's loop looks whether the process lives.

    :param options: supervisord's ServerOptions.
    :param on_exit: an exception of it is logged.
    """

    def __init__(self, options: Any, process: Process, on_exit: Callable[[], None]) -> None:
        super().__init__(Log(options.logger))
        self._options = options
        self._process = process
        self._on_exit = on_exit
        self._open = True
        self._in_event = False
        self._pidfd = _open(process.pid)
        # supervisord never polls an entry without a pidfd: any key that is no descriptor will do
        self._key = -process.pid if self._pidfd is None else self._pidfd
        options.get_socket_map()[self._key] = self

    def close(self) -> None:
        """Stop watching."""
        socket_map = self._options.get_socket_map()
        if self._open and socket_map.get(self._key) is self:
            del socket_map[self._key]
            if self._pidfd is not None:
                self._unregister()
                os.close(self._pidfd)
        self._open = False

    def _unregister(self) -> None:
        """Remove the pidfd from supervisord's poller.

        While supervisord handles an event of the pidfd it does so itself.
        """
        if not self._in_event:
            with contextlib.suppress(KeyError, OSError, ValueError):  # it was never polled
                self._options.poller.unregister_readable(self._pidfd)

    def readable(self) -> bool:
        if self._open and self._pidfd is None:
            self._look()
        return self._open and self._pidfd is not None

    def handle_read_event(self) -> None:
        self._in_event = True
        self._look()
        self._in_event = False

    def _look(self) -> None:
        self._log.guarded(self._report_exit, None)

    def _report_exit(self) -> None:
        if self._open and not is_alive(self._process):
            self.close()
            self._on_exit()


def _open(pid: int) -> Optional[int]:
    try:
        return os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    except OSError:
        return None  # the process has ended, or the kernel has no pidfd: look at every turn
