"""Text that others have written, as a terminal and XML may have it."""

from __future__ import annotations


def printable(text: str, also: str = "") -> str:
    """Return *text* with a replacement for every character that is not printable.

    :param also: characters that are kept as well, such as a tab.
    """
    return "".join(c if c.isprintable() or c in also else "\ufffd" for c in text)
