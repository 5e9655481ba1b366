"""Reads the environments of processes, in children that may be kept waiting.

The kernel lets nobody read /proc/PID/environ while the process executes a file, and a
process can draw that out for as long as it likes (fs/exec.c, exec_update_lock).
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress

from supervisor_hotreload.system.child import forked
from supervisor_hotreload.system.credentials import Ids, ids_of, rights_of
from supervisor_hotreload.system.process import Process, environment_of

PATIENCE = 0.3
"""Seconds until all answers have to be there: supervisord waits for them once, at its start."""

MANY = 256
"""Processes of one user that are looked at."""

ROOM = 1 << 20
"""Bytes of all answers about one user's processes."""


def environments(
    processes: Mapping[Process, Ids], names: Collection[str]
) -> dict[Process, dict[str, str]]:
    """Return those of the variables *names* that each of *processes* was started with.

    Each user's are read by a child of their own: one that is kept waiting is ended, and what
    it has not told by then is left out.

    :param processes: with their ids, which have to be the same still.
    """
    groups: dict[int, list[Process]] = {}
    for process, ids in processes.items():
        groups.setdefault(ids.users[0], []).append(process)
    readers = [_reader(group[:MANY], processes, names) for group in groups.values()]
    found: dict[Process, dict[str, str]] = {}
    deadline = time.monotonic() + PATIENCE
    for pid, pipe in readers:
        try:
            for line in _lines(pipe, deadline):
                with suppress(ValueError, TypeError, KeyError):
                    told = json.loads(line)
                    found[Process(told["pid"], told["start"])] = dict(told["given"])
        finally:
            os.close(pipe)
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
    return {process: given for process, given in found.items() if process in processes}


def _reader(
    group: Iterable[Process], ids: Mapping[Process, Ids], names: Collection[str]
) -> tuple[int, int]:
    """Start a child that reads; return its pid, and where it tells."""
    pipe, writer = os.pipe()
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.set_blocking(pipe, False)

    def read() -> None:
        for process in group:
            if ids_of(process.pid) != ids[process]:
                continue
            try:
                with rights_of(ids[process]):
                    whole = environment_of(process.pid)
            except PermissionError:
                continue
            given = {name: whole[name] for name in names if name in whole}
            line = json.dumps({"pid": process.pid, "start": process.start, "given": given})
            os.write(1, line.encode() + b"\n")

    try:
        return forked(read, (nothing, writer, nothing)), pipe
    finally:
        os.close(writer)
        os.close(nothing)


def _lines(pipe: int, deadline: float) -> list[bytes]:
    """Return the whole lines that are there by the *deadline*."""
    text = b""
    while len(text) < ROOM:
        left = max(0.0, deadline - time.monotonic())  # others may have used it up: it is there
        if not select.select([pipe], [], [], left)[0]:
            break
        more = os.read(pipe, 1 << 16)
        if not more:
            break
        text += more
    return text.split(b"\n")[:-1]
