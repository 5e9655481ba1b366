"""Writes the listener's log to standard error, which supervisord writes to a file."""

from __future__ import annotations

import sys
import time

from supervisor_hotreload.core.text import log_lines


def say(text: str) -> None:
    """Write a line with the time. No text can forge another line or move a cursor."""
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    for line in log_lines(text):
        sys.stderr.write(f"{now} {line}\n")
    sys.stderr.flush()
