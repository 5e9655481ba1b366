"""Judges the answer of an HTTP server, of which no byte is trusted."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Union
from urllib.parse import SplitResult, urljoin, urlsplit

STATUS = re.compile(rb"[0-9]{3}")

REDIRECTS = frozenset(("301", "302", "303", "307", "308"))
"""Statuses whose answer has a Location (RFC 9110, 15.4)."""

LOCATION = re.compile(rb"[!-~]{1,2000}")
"""A Location is printable ASCII without blanks (RFC 3986). A longer one is refused."""

LOCATION_CHARACTERS = 120
"""How much of a Location a message shows."""


@dataclass(frozen=True)
class Redirect:
    """An answer that leads elsewhere.

    :param location: is printable; nothing else is known of it.
    """

    status: str
    location: str

    def url(self, base: str) -> str:
        """Return the URL that it leads to from *base*, without a fragment.

        :raises ValueError: with a message, when the URL has another scheme, host or port, or
            is none at all.
        """
        try:
            here, there = urlsplit(base), urlsplit(urljoin(base, self.location))
            if "@" not in there.netloc and _origin(here) == _origin(there):
                return there._replace(path=there.path or "/", fragment="").geturl()
        except ValueError:
            pass  # a URL that is not understood counts as another server
        raise ValueError(
            f"status {self.status} to '{self.location[:LOCATION_CHARACTERS]}', which is elsewhere, "
            f"is not followed"
        )


def judged(answer: bytes, text: str = "", ended: bool = False) -> Union[str, Redirect, None]:
    """Return what is wrong with *answer*, '' when it is good, or a Redirect.

    The status line is enough unless *text* must be in the body.

    :param ended: no more of the answer will be read.
    :return: None while more of it is needed.
    """
    line, complete, _ = answer.partition(b"\n")
    if not complete and not ended:
        return None
    words = line.split(maxsplit=2)[:2]
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not STATUS.fullmatch(words[1]):
        return "no HTTP answer"
    status = words[1].decode()
    head, complete, body = answer.partition(b"\r\n\r\n")
    if status in REDIRECTS:
        if complete:
            return _redirect(status, head)
        return f"status {status} with a header without end" if ended else None
    if not status.startswith("2"):
        return f"status {status}"
    if text.encode() in body:
        return ""
    return f"{text!r} is not in the body" if ended else None


def _redirect(status: str, head: bytes) -> Union[str, Redirect]:
    """Return the Redirect in *head*, or what is wrong with it."""
    fields = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    found = [value.strip(b" \t") for name, _, value in fields if name.lower() == b"location"]
    if len(found) != 1:
        return f"status {status} without one Location"
    if not LOCATION.fullmatch(found[0]):
        return f"status {status} with a Location that is no plain URL"
    return Redirect(status, found[0].decode())


def _origin(url: SplitResult) -> tuple[str, object, int]:
    """Return scheme, address and port.

    :raises ValueError: when the host is a name: a look-up would block.
    """
    name = url.hostname or ""
    host = ipaddress.ip_address("127.0.0.1" if name == "localhost" else name)
    return url.scheme, host, 80 if url.port is None else url.port
