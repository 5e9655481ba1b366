"""Runs ``notify = COMMAND`` with the outcome of a reload on its standard input."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from contextlib import suppress
from typing import Any

from supervisor_hotreload.listener.log import say

TIMEOUT_SECONDS = 60.0
"""Limit for one command."""

MAX_COMMANDS = 16
"""Commands that may run at the same time."""

MAX_INPUT_BYTES = 60_000
"""Bytes that a pipe takes before anybody reads it (pipe(7): 65,536)."""


class NotifyCommands:
    """Starts ``notify`` commands, and ends those that take too long.

    Their output goes to the listener's log: its standard output belongs to supervisord.
    """

    def __init__(self) -> None:
        self._running: list[tuple[subprocess.Popen[bytes], str, float]] = []

    def run(self, command: str, outcome: dict[str, Any], now: float) -> None:
        """Start *command* with *outcome* as JSON on its standard input; do not wait for it."""
        if len(self._running) >= MAX_COMMANDS:
            say(f"notify ({command}) is not run: {MAX_COMMANDS} such commands still run")
            return
        text = json.dumps(outcome).encode()
        if len(text) > MAX_INPUT_BYTES:
            text = json.dumps({**outcome, "output": []}).encode()
        try:
            child = subprocess.Popen(
                shlex.split(command), stdin=subprocess.PIPE, stdout=2, start_new_session=True
            )
        except (OSError, ValueError) as error:
            say(f"notify ({command}) cannot be run: {error}")
            return
        self._running.append((child, command, now + TIMEOUT_SECONDS))
        assert child.stdin is not None
        with suppress(BrokenPipeError), child.stdin as pipe:
            pipe.write(text)

    def look(self, now: float) -> None:
        """Log the commands that have failed, and kill those that take too long."""
        left = []
        for child, command, deadline in self._running:
            if child.poll() is None:
                if now < deadline:
                    left.append((child, command, deadline))
                    continue
                self._kill(child)
                say(f"notify ({command}) timed out after {TIMEOUT_SECONDS:g} s and was killed")
            elif child.returncode:
                say(f"notify ({command}) exited with status {child.returncode}")
        self._running = left

    def close(self) -> None:
        """Kill every command: after the listener nobody would do so."""
        for child, _, _ in self._running:
            self._kill(child)

    def _kill(self, child: subprocess.Popen[bytes]) -> None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait(5)
