"""Waits for something, with a deadline."""

from __future__ import annotations

import socket
import time
from typing import Any, Callable, Union


def wait_until(
    condition: Callable[[], Any],
    timeout: float = 60.0,
    what: Union[str, Callable[[], str]] = "",
    longest: float = 0.1,
) -> Any:
    """Poll *condition* until it is truthy and return that.

    :param longest: seconds between two looks in the end; they begin at 0.02. A look costs
        processor time, so what stays true is looked for less and less often.
    :raises AssertionError: when it is not after *timeout* seconds.
    """
    deadline = time.monotonic() + timeout
    pause = 0.02
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout:g} s: {what() if callable(what) else what}")
        time.sleep(pause)
        pause = min(pause * 1.1, longest)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
