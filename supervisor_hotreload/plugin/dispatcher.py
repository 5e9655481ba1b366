"""What supervisord's loop asks of an entry in its socket map (supervisord.runforever)."""

from __future__ import annotations

from supervisor_hotreload.plugin.log import Log


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
