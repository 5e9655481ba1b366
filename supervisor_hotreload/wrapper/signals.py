"""Catches signals for a loop, which reads them from a descriptor in the order they came."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterable
from contextlib import suppress
from typing import Optional

UNCAUGHT = {  # what cannot be caught, or is not to be
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGTSTP,  # job control of a shell: it reaches the whole foreground group by itself
    signal.SIGSEGV,  # faults of this process itself
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGTRAP,
    signal.SIGSYS,
    signal.SIGABRT,
    signal.SIGPIPE,  # ignored by Python, so that a write fails instead
    signal.SIGXFSZ,
}


def name_of(number: int) -> str:
    """Return the name of a signal; a real-time signal has none (signal(7))."""
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


class Signals:
    """Catches every signal that can be caught.

    :param mask: what was blocked when hotreload-run was started; asked of the kernel unless
        an earlier version of this process has handed it over.
    """

    def __init__(self, mask: Optional[Iterable[int]] = None) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self.mask = frozenset(int(number) for number in (before if mask is None else mask))
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._caught = sorted(signal.valid_signals() - UNCAUGHT)
        for number in self._caught:
            signal.signal(number, lambda *_: None)
        self.unblock()

    def block(self) -> None:
        """Let signals stay pending: over a fork or an exec none may get lost."""
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

    def unblock(self) -> None:
        """Let signals come again."""
        signal.pthread_sigmask(signal.SIG_SETMASK, [])

    def reset(self) -> None:
        """Undo all of this in a child before its exec."""
        signal.set_wakeup_fd(-1)
        for number in (*self._caught, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)

    def put(self, number: int) -> None:
        """Let wait() return *number* as if it had just come."""
        with suppress(OSError):  # the pipe is full, so the loop has signals enough
            os.write(self._writer, bytes([number]))

    def wait(self, timeout: Optional[float]) -> list[int]:
        """Return each signal that has come, once; wait for one up to *timeout* seconds.

        :param timeout: None to wait for ever.
        """
        select.select([self._reader], [], [], timeout)
        try:
            numbers = os.read(self._reader, 65536)
        except BlockingIOError:
            return []
        return list(dict.fromkeys(numbers))
