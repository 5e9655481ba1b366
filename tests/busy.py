"""Run a command again and again while other processes keep the cores busy, for make test-busy."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator

BUSY = 2
"""Processes that do nothing but calculate."""

LONGEST_S = 1800
"""Seconds after which such a process ends by itself, whatever becomes of this one."""

CALCULATE = f"""
import os, time
parent, deadline = os.getppid(), time.monotonic() + {LONGEST_S}
while time.monotonic() < deadline and os.getppid() == parent:
    sum(range(100000))
"""


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """Keep the cores busy meanwhile."""
    started = [subprocess.Popen([sys.executable, "-c", CALCULATE]) for _ in range(BUSY)]
    try:
        yield
        ended = [process.pid for process in started if process.poll() is not None]
        assert not ended, f"{ended} have not kept a core busy to the end"
    finally:
        for process in started:
            process.kill()
            process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("command", nargs="+")
    chosen = parser.parse_args()
    lines, failed = [], 0
    for number in range(1, chosen.runs + 1):
        began = time.monotonic()
        with busy():
            status = subprocess.run(chosen.command, check=False).returncode
        failed += status != 0
        took = time.monotonic() - began
        verdict = "green" if status == 0 else f"exit status {status}"
        lines.append(f"busy run {number}: {verdict} in {took:.0f} s")
        print(lines[-1], flush=True)
    print("\n".join([f"on {os.cpu_count()} cores, {BUSY} more processes busy:", *lines]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
