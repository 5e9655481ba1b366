"""What an HTTP server has answered so far; every byte of it is distrusted."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Union
from urllib.parse import SplitResult, urljoin, urlsplit

STATUS = re.compile(rb"[0-9]{3}")

REDIRECTS = frozenset(("301", "302", "303", "307", "308"))
"""What a Location says more about (RFC 9110, 15.4)."""

LOCATION = re.compile(rb"[!-~]{1,2000}")
"""A Location is printable ASCII without a blank (RFC 3986), and need not be longer."""

SHOWN = 120
"""Characters of a Location that are shown."""


@dataclass(frozen=True)
class Redirect:
    """An answer that leads elsewhere.

    :param location: printable, not yet looked at.
    """

    status: str
    location: str

    def url(self, base: str) -> str:
        """Return where it leads from *base*, without a fragment.

        :raises ValueError: with what is to be said of it, when that is another scheme, host
            or port, or no URL at all.
        """
        try:
            here, there = urlsplit(base), urlsplit(urljoin(base, self.location))
            if "@" not in there.netloc and _origin(here) == _origin(there):
                return there._replace(path=there.path or "/", fragment="").geturl()
        except ValueError:
            pass  # what cannot be understood is elsewhere
        raise ValueError(
            f"status {self.status} to '{self.location[:SHOWN]}', which is elsewhere, "
            f"is not followed"
        )


def judged(answer: bytes, text: str = "", ended: bool = False) -> Union[str, Redirect, None]:
    """Return what is wrong with *answer*, '' when it is good, or where it leads.

    The status line alone is enough unless a *text* is to be in the body.

    :param ended: no more of it is read.
    :return: None while that cannot be told.
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
    """Return where *head* leads, or why that is not said."""
    fields = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    found = [value.strip(b" \t") for name, _, value in fields if name.lower() == b"location"]
    if len(found) != 1:
        return f"status {status} without one Location"
    if not LOCATION.fullmatch(found[0]):
        return f"status {status} with a Location that is no plain URL"
    return Redirect(status, found[0].decode())


def _origin(url: SplitResult) -> tuple[str, object, int]:
    """Return scheme, address and port.

    :raises ValueError: when its host is a name: to look it up would block.
    """
    name = url.hostname or ""
    host = ipaddress.ip_address("127.0.0.1" if name == "localhost" else name)
    return url.scheme, host, 80 if url.port is None else url.port
