"""Runs ``notify = COMMAND`` with the outcome of a reload on its standard input."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from contextlib import suppress
from typing import Any, Callable

DEADLINE = 60.0
"""Seconds that a command may take."""

MOST = 16
"""Commands that may run at the same time."""

PIPE = 60_000
"""Bytes that a pipe takes without anybody reading (pipe(7): 65,536)."""


class Notifier:
    """The commands under way.

    What they print goes to the listener's log: its standard output belongs to
    supervisord.

    :param say: told what goes wrong.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._running: list[tuple[subprocess.Popen[bytes], str, float]] = []

    @property
    def idle(self) -> bool:
        return not self._running

    def run(self, command: str, outcome: dict[str, Any], now: float) -> None:
        """Start *command*; nothing waits for it."""
        if len(self._running) >= MOST:
            self._say(f"notify ({command}) is not run: {MOST} commands have not ended yet")
            return
        text = json.dumps(outcome).encode()
        if len(text) > PIPE:
            text = json.dumps({**outcome, "output": []}).encode()
        try:
            child = subprocess.Popen(
                shlex.split(command), stdin=subprocess.PIPE, stdout=2, start_new_session=True
            )
        except (OSError, ValueError) as error:
            self._say(f"notify ({command}) could not be run: {error}")
            return
        self._running.append((child, command, now + DEADLINE))
        assert child.stdin is not None
        with suppress(BrokenPipeError), child.stdin as pipe:
            pipe.write(text)

    def look(self, now: float) -> None:
        """See which commands have ended, and end those that take too long."""
        left = []
        for child, command, deadline in self._running:
            if child.poll() is None:
                if now < deadline:
                    left.append((child, command, deadline))
                    continue
                self._kill(child)
                self._say(f"notify ({command}) was killed: it has not ended in {DEADLINE:g} s")
            elif child.returncode:
                self._say(f"notify ({command}) exited with status {child.returncode}")
        self._running = left

    def close(self) -> None:
        """End every command: nobody would any more."""
        for child, _, _ in self._running:
            self._kill(child)

    def _kill(self, child: subprocess.Popen[bytes]) -> None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait(5)
