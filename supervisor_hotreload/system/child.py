"""Forks a child that never runs its parent's code; the parent waits for nothing."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import Callable


def forked(run: Callable[[], object], descriptors: Sequence[int] = ()) -> int:
    """Let a child *run* and end, in a session of its own.

    It has the signals of a new process, and no descriptor but those given.

    :param descriptors: what are to be its descriptors 0, 1, 2 and so on.
    :return: its pid, at once; the caller's own loop reaps it.
    :raises OSError: when there can be no child.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                _reset_signals()
                _keep(descriptors)
                run()
            except BaseException:  # noqa: BLE001 - nobody is there whom it could be told
                os._exit(126)
            finally:
                os._exit(0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def _reset_signals() -> None:
    """As after an exec: nothing is caught, nothing is blocked."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)) or number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _keep(descriptors: Sequence[int]) -> None:
    """Move *descriptors* to 0, 1, 2 and so on, and close all others; an exec closes those
    above 2 as well."""
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
