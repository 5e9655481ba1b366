"""Makes text from outside safe for a log, a terminal and XML; numbers nouns; matches names."""

from __future__ import annotations

LONGEST = 4096
"""Characters of one line, one reason or one path. Linux allows no longer path (PATH_MAX)."""

TRACEBACK = "Traceback (most recent call last)"
"""How Python begins a traceback."""


def printable(text: str, also: str = "") -> str:
    """Return *text* with U+FFFD for each character that is not printable.

    :param also: characters that may stay although they are not printable, such as a tab.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in also else "\ufffd" for c in text)


def one_line(text: str) -> str:
    """Return *text* as one printable line. The middle of a long text is left out."""
    if len(text) > LONGEST:
        half = LONGEST // 2
        text = f"{text[:half]} ... {text[-half:]}"
    return printable(joined(text))


def joined(text: str) -> str:
    """Return the lines of *text* as one line, with ' | ' between them."""
    first, *rest = text.rstrip("\n").split("\n")
    return " | ".join([first, *filter(None, map(str.strip, rest))])


def log_lines(text: str) -> list[str]:
    """Return the lines to log for *text*: one line, or the lines of a traceback.

    Each further line of a traceback begins with 'hotreload: |', so that none of them can
    pass for a line that the log's owner wrote.
    """
    if TRACEBACK not in text:
        return [one_line(text)]
    first, *rest = text.splitlines()
    return [one_line(first), *(f"hotreload: | {one_line(line)}" for line in rest)]


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: '1 worker', '4 workers'."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def there_are(count: int, noun: str) -> str:
    """Return how many there are, as a clause: 'there is 1 worker', 'there are 4 workers'."""
    return f"there {'is' if count == 1 else 'are'} {counted(count, noun)}"


def internal_error(error: Exception, during: str = "") -> str:
    """Return a sentence about an exception that hotreload does not expect.

    :param during: when it was raised, such as ' while booting'.
    """
    kind = type(error).__name__
    log = "the traceback is in supervisord's log"
    return f"an error inside hotreload{during}: {kind}: {error} ({log})"


def matches(name: str, group: str, process: str) -> bool:
    """Tell whether *name* means a program, as the name of a [hotreload:NAME] section does.

    :param name: a group, 'group:*', a process, or 'group:process'.
    """
    return name in (group, f"{group}:*", process, f"{group}:{process}")
