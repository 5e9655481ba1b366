"""Text that others have written, as a log, a terminal and XML may have it."""

from __future__ import annotations

LONGEST = 4096
"""Characters of one line, one reason, one path (PATH_MAX)."""

TRACEBACK = "Traceback (most recent call last)"


def printable(text: str, also: str = "") -> str:
    """Return *text* with a replacement for every character that is not printable.

    :param also: characters that are kept as well, such as a tab.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in also else "\ufffd" for c in text)


def one_line(text: str) -> str:
    """Return *text* as one printable line; of a long one the middle is left out."""
    if len(text) > LONGEST:
        half = LONGEST // 2
        text = f"{text[:half]} ... {text[-half:]}"
    return printable(joined(text))


def joined(text: str) -> str:
    """Return the lines of *text* as one, with a mark where each began."""
    first, *rest = text.rstrip("\n").split("\n")
    return " | ".join([first, *filter(None, map(str.strip, rest))])


def log_lines(text: str) -> list[str]:
    """Return the lines that a log gets for *text*: one, or those of a traceback.

    Each further line of a traceback begins with a mark of ours, so that none of them
    passes for a line of the log's own.
    """
    if TRACEBACK not in text:
        return [one_line(text)]
    first, *rest = text.splitlines()
    return [one_line(first), *(f"hotreload: | {one_line(line)}" for line in rest)]


def matches(name: str, group: str, process: str) -> bool:
    """Tell whether *name* means a program, as the name of a [hotreload:NAME] section does.

    :param name: a group, 'group:*', a process, or 'group:process'.
    """
    return name in (group, f"{group}:*", process, f"{group}:{process}")
