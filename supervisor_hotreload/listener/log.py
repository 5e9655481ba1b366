"""The listener's log: standard error, which supervisord writes to a file."""

from __future__ import annotations

import sys
import time

from supervisor_hotreload.printable import printable

LONGEST = 2000
"""Characters of one line; programs have a say in what is logged."""


def say(text: str) -> None:
    """Write one line for the operator, with the time, and nothing a terminal would act on."""
    shown = printable(text[:LONGEST], also="\n")
    sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {shown}\n")
    sys.stderr.flush()
