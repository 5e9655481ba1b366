"""Reads supervisor's event listener protocol, version 3.0.

Source: supervisor.childutils, supervisor.dispatchers.PEventListenerDispatcher.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import Optional

READY = b"READY\n"
OK = b"RESULT 2\nOK"
FAIL = b"RESULT 4\nFAIL"


class ProtocolError(Exception):
    """supervisord sent something else than an event; what follows cannot be read."""


@dataclass(frozen=True)
class Event:
    """One event.

    :param headers: the headers of the protocol, such as ``eventname`` and ``poolserial``.
    :param tokens: the tokens in the first line of the payload.
    :param data: the rest of the payload; a program may have written it.
    """

    headers: dict[str, str]
    tokens: dict[str, str]
    data: str

    @property
    def name(self) -> str:
        return self.headers["eventname"]

    def is_a(self, family: str) -> bool:
        """Tell whether this is the event *family*, or one of that family."""
        return family in ("EVENT", self.name) or self.name.startswith(family + "_")

    def has(self, key: str, value: str) -> bool:
        """Tell whether a token of the header or the payload has this value, or the data for the
        key 'data'."""
        if key == "data":
            return self.data.strip() == value
        return value in (self.headers.get(key), self.tokens.get(key))


class Stream:
    """Cuts what supervisord writes to our standard input into events.

    ``len`` counts characters, not bytes (EventListenerPool._eventEnvelope).
    """

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._text = ""
        self._headers: Optional[dict[str, str]] = None

    def feed(self, data: bytes) -> None:
        self._text += self._decode(data)

    def next(self) -> Optional[Event]:
        """Return the next event, None while it is not complete.

        :raises ProtocolError: for something else than an event.
        """
        if self._headers is None:
            line, newline, rest = self._text.partition("\n")
            if not newline:
                return None
            self._headers, self._text = _tokens(line), rest
        try:
            length = int(self._headers["len"])
            self._headers["eventname"]
        except (KeyError, ValueError):
            raise ProtocolError(f"not an event: {self._headers!r:.200}") from None
        if len(self._text) < length:
            return None
        payload, self._text = self._text[:length], self._text[length:]
        first, _, data = payload.partition("\n")
        event = Event(self._headers, _tokens(first), data)
        self._headers = None
        return event


def _tokens(line: str) -> dict[str, str]:
    pairs = (word.partition(":") for word in line.split())
    return {key: value for key, colon, value in pairs if colon}
