"""supervisord's log. Every line that hotreload writes to it passes through here."""

from __future__ import annotations

import traceback
from typing import Any, Callable, TypeVar

from supervisor_hotreload.core.model import Failure, Fault
from supervisor_hotreload.core.text import internal_error, log_lines

T = TypeVar("T")


class Log:
    """Writes printable lines to supervisord's log, whatever a message contains.

    :param logger: supervisor's Logger.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def info(self, text: str) -> None:
        self._write(self._logger.info, text)

    def warn(self, text: str) -> None:
        self._write(self._logger.warn, text)

    def error(self, text: str) -> None:
        self._write(self._logger.error, text)

    def critical(self, text: str) -> None:
        self._write(self._logger.critical, text)

    def exception(self, about: str = "") -> None:
        """Log the exception that is being handled, with its traceback.

        :param about: the program that the exception concerns.
        """
        prefix = f"hotreload: {about}: " if about else "hotreload: "
        self.critical(prefix + traceback.format_exc())

    def guarded(self, function: Callable[[], T], otherwise: T, about: str = "") -> T:
        """Call *function* and return its result; log an exception and return *otherwise*.

        An exception that reaches supervisord's loop ends supervisord.
        """
        try:
            return function()
        except Exception:  # noqa: BLE001 - it would end supervisord
            self.exception(about)
            return otherwise

    def as_failure(self, error: Exception, about: str) -> Failure:
        """Return the *error* that is being handled, as a Failure; an unexpected one is logged."""
        if isinstance(error, Failure):
            return error
        self.exception(about)
        return Failure(Fault.INTERNAL, internal_error(error))

    def _write(self, write: Callable[[str], None], text: str) -> None:
        for line in log_lines(text):
            write(line)
