"""What hotreload adds to supervisord's loop: a tick while a reload is active, and exits.

supervisord asks each entry of its socket map the questions of Dispatcher (supervisord.runforever).
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any, Callable, Optional

from supervisor_hotreload.plugin.log import Log
from supervisor_hotreload.system.linux import set_timer, timerfd
from supervisor_hotreload.system.process import Process, is_alive

NO_DESCRIPTOR = -1
"""The key in the socket map where the system has no timerfd. supervisord never polls it."""

INTERVAL_SECONDS = 0.025
"""Seconds between two steps of the active reloads: what a phase may take longer than needed."""

UNKNOWN_STATUS = 255 << 8
"""The wait status that supervisord gets for such a process: another parent has reaped the
real one. It counts as an unexpected exit, so ``autorestart = unexpected`` starts the program."""


class Dispatcher:
    """An entry in supervisord's socket map, keyed by the descriptor that supervisord polls.

    :param log: gets the exceptions, which would end supervisord otherwise.
    """

    def __init__(self, log: Log) -> None:
        self._log = log

    def readable(self) -> bool:
        """Tell whether supervisord is to poll the descriptor for input."""
        raise NotImplementedError

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        """Read what has arrived. supervisord has seen that the descriptor is readable."""
        raise NotImplementedError

    def handle_write_event(self) -> None:
        """Do nothing: supervisord calls this only where writable() is True."""

    def handle_error(self) -> None:
        """Log the exception that a handler has raised."""
        self._log.exception()


class Tick(Dispatcher):
    """Calls a function every INTERVAL_SECONDS while it is on.

    It does so by a timerfd, which supervisord polls only while the tick is on. Where the
    system has no timerfd, each turn of supervisord's loop is a tick: one a second at least.

    :param socket_map: supervisord's ``options.get_socket_map()``.
    :param step: called at every tick. Its exceptions are logged: they would end supervisord.
    """

    def __init__(self, socket_map: Any, log: Log, step: Callable[[], None]) -> None:
        super().__init__(log)
        self._map = socket_map
        self._step = step
        self._on = False
        self._remove_old_entries()
        descriptor = timerfd()
        self._timer = descriptor is not None
        self.fd = descriptor if descriptor is not None else NO_DESCRIPTOR
        self._map[self.fd] = self

    def _remove_old_entries(self) -> None:
        """Remove the entries of hotreload from before supervisord has reloaded itself.

        options.cleanup_fds has closed their descriptors. Others may use the numbers now, so
        the descriptors are not closed again.
        """
        for descriptor, dispatcher in list(self._map.items()):
            if isinstance(dispatcher, Dispatcher):
                del self._map[descriptor]

    def turn_on(self) -> None:
        if not self._on:
            self._on = True
            if self._timer:
                set_timer(self.fd, INTERVAL_SECONDS)

    def turn_off(self) -> None:
        if self._on:
            self._on = False
            if self._timer:
                set_timer(self.fd, 0.0)

    def readable(self) -> bool:
        if self._on and not self._timer:
            self._log.guarded(self._step, None)
        return self._on and self._timer

    def handle_read_event(self) -> None:
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            return
        self._log.guarded(self._step, None)


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
            with suppress(KeyError, OSError, ValueError):  # it was never polled
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
