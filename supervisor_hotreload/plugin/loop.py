"""Wakes supervisord's loop while a reload is active, and only then."""

from __future__ import annotations

import os
import traceback
from typing import Any, Callable

from supervisor_hotreload.plugin.exit_watch import ExitWatch
from supervisor_hotreload.plugin.log import Log
from supervisor_hotreload.plugin.notify_socket import NotifySocket
from supervisor_hotreload.system.linux import set_timer, timerfd

NO_DESCRIPTOR = -1
"""A key in the socket map that is never polled."""

INTERVAL = 0.025
"""Seconds between two steps."""


class Tick:
    """A dispatcher in supervisord's socket map (see supervisord.runforever).

    With a timerfd it is readable every INTERVAL while it is on; supervisord
    does not even poll it while it is off. Without one, supervisord's own loop,
    which turns at least once a second, is the clock.

    :param socket_map: supervisord's ``options.get_socket_map()``.
    :param step: called at every tick; what it raises is logged and swallowed,
        because it would end supervisord.
    """

    def __init__(self, socket_map: Any, log: Log, step: Callable[[], None]) -> None:
        self._map = socket_map
        self._log = log
        self._step = step
        self._on = False
        self._sweep()
        descriptor = timerfd()
        self._timer = descriptor is not None
        self.fd = descriptor if descriptor is not None else NO_DESCRIPTOR
        self._map[self.fd] = self

    def _sweep(self) -> None:
        """Drop what is left in the map from before supervisord's own reload.

        Its descriptors were closed by options.cleanup_fds and may be somebody
        else's by now: they are not touched.
        """
        for descriptor, dispatcher in list(self._map.items()):
            if isinstance(dispatcher, (Tick, ExitWatch, NotifySocket)):
                del self._map[descriptor]

    def turn_on(self) -> None:
        if not self._on:
            self._on = True
            if self._timer:
                set_timer(self.fd, INTERVAL)

    def turn_off(self) -> None:
        if self._on:
            self._on = False
            if self._timer:
                set_timer(self.fd, 0.0)

    # what supervisord's loop asks of a dispatcher

    def readable(self) -> bool:
        if self._on and not self._timer:
            self._guarded()
        return self._on and self._timer

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            return
        self._guarded()

    def handle_write_event(self) -> None:
        """Never called: writable() is False."""

    def handle_error(self) -> None:
        self._log.critical(f"hotreload: {traceback.format_exc()}")

    def _guarded(self) -> None:
        try:
            self._step()
        except Exception:  # noqa: BLE001 - it would end supervisord
            self.handle_error()
