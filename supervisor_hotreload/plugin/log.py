"""supervisord's log as hotreload writes to it. Nothing of the package writes there otherwise."""

from __future__ import annotations

from typing import Any, Callable

from supervisor_hotreload.core.text import log_lines


class Log:
    """Writes printable lines, whatever others have put into a message.

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

    def _write(self, write: Callable[[str], None], text: str) -> None:
        for line in log_lines(text):
            write(line)
