"""Wakes supervisord's loop while a reload is active, and only then."""

from __future__ import annotations

import os
from typing import Any, Callable

from supervisor_hotreload.plugin.dispatcher import Dispatcher
from supervisor_hotreload.plugin.log import Log
from supervisor_hotreload.system.linux import set_timer, timerfd

NO_DESCRIPTOR = -1
"""The key in the socket map where the system has no timerfd. supervisord never polls it."""

INTERVAL_SECONDS = 0.025
"""Seconds between two steps of the active reloads: what a phase may take longer than needed."""


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
