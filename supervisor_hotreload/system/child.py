"""Forks a child that runs one function and ends. The parent does not wait for it."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import Callable


def forked(run: Callable[[], object], descriptors: Sequence[int] = ()) -> int:
    """Fork a child that calls *run* and ends, in a session of its own.

    No signal is caught or blocked in it, and all other descriptors are closed.

    :param descriptors: become its descriptors 0, 1, 2 and so on.
    :return: its pid, at once. The caller's own loop has to reap it.
    :raises OSError: when no child can be made.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                _reset_signals()
                _take_descriptors(descriptors)
                run()
            except BaseException:  # noqa: BLE001 - nobody in the child can handle it
                os._exit(126)
            finally:
                os._exit(0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def _reset_signals() -> None:
    """Make the signals what they are after an exec: none is caught or blocked."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)) or number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _take_descriptors(descriptors: Sequence[int]) -> None:
    """Move *descriptors* to 0, 1, 2 and so on, and close all others.

    An exec closes those above 2 as well.
    """
    first = len(descriptors)
    above = [fcntl.fcntl(held, fcntl.F_DUPFD_CLOEXEC, first) for held in descriptors]
    for number, held in enumerate(above):
        os.dup2(held, number, inheritable=number <= 2)
    try:
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        numbers = list(range(first, os.sysconf("SC_OPEN_MAX")))
    for number in numbers:
        if number >= first:
            with suppress(OSError):
                os.close(number)
