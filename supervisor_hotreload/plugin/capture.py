"""Reads along what a program prints while a reload of it is active."""

from __future__ import annotations

from typing import Any, Callable

from supervisor_hotreload.core.text import printable

LINE_CHARACTERS = 2000
"""A longer line is cut: a program may print without ever ending a line."""


def capture(process: Any, sink: Callable[[str], None]) -> Callable[[], None]:
    """Give *sink* every line that a program prints from now on.

    :param process: supervisor's Subprocess of the program.
    :return: a function that ends the capture. It may be called more than once.
    """
    dispatchers = process.dispatchers.values()
    ends = [_read_along(d, sink) for d in dispatchers if hasattr(d, "_log")]

    def end() -> None:
        while ends:
            ends.pop()()

    return end


def _read_along(dispatcher: Any, sink: Callable[[str], None]) -> Callable[[], None]:
    """Replace ``_log`` of one POutputDispatcher, and give *sink* each line that it logs.

    :return: a function that ends this. Where a neighbour has replaced ``_log`` after us its
        function stays, and ours below it only passes the data on.
    """
    log, before = dispatcher._log, vars(dispatcher).get("_log")
    rest = [""]
    active = True

    def hooked_log(data: Any) -> None:
        log(data)
        if not active:
            return
        text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
        *lines, rest[0] = (rest[0] + text).split("\n")
        for line in lines:
            sink(printable(line[:LINE_CHARACTERS].rstrip("\r"), also="\t"))
        rest[0] = rest[0][-LINE_CHARACTERS:]

    def end() -> None:
        nonlocal active
        active = False
        if vars(dispatcher).get("_log") is not hooked_log:
            return
        if before is None:
            del dispatcher._log
        else:
            dispatcher._log = before

    dispatcher._log = hooked_log
    return end
