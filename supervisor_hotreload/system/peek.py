"""Reads the environments of processes, in children of ours, which may have to wait.

A read of /proc/PID/environ waits while the process executes a file, and the process can make
that last for as long as it likes (fs/exec.c, exec_update_lock).
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

ANSWER_SECONDS = 0.3
"""When all answers have to be there. supervisord waits for them once, at its start."""

PROCESSES = 256
"""How many processes of one user are looked at, at most."""

ANSWER_BYTES = 1 << 20
"""The length of all answers about one user's processes, at most."""


def environments(
    processes: Mapping[Process, Ids], names: Collection[str]
) -> dict[Process, dict[str, str]]:
    """Return the variables *names* that each process was started with.

    One child reads the environments of one user's processes. A child that has to wait too
    long is killed, and what it has not answered is left out.

    :param processes: the processes and their ids, which must not have changed.
    """
    groups: dict[int, list[Process]] = {}
    for process, ids in processes.items():
        groups.setdefault(ids.users[0], []).append(process)
    readers = [_reader(group[:PROCESSES], processes, names) for group in groups.values()]
    found: dict[Process, dict[str, str]] = {}
    deadline = time.monotonic() + ANSWER_SECONDS
    for pid, pipe in readers:
        try:
            for line in _lines(pipe, deadline):
                with suppress(ValueError, TypeError, KeyError):
                    answer = json.loads(line)
                    found[Process(answer["pid"], answer["start"])] = dict(answer["given"])
        finally:
            os.close(pipe)
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
    return {process: given for process, given in found.items() if process in processes}


def _reader(
    group: Iterable[Process], ids: Mapping[Process, Ids], names: Collection[str]
) -> tuple[int, int]:
    """Start a child that reads; return its pid, and the pipe with its answers."""
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
    """Return the complete lines that are there at the *deadline*."""
    text = b""
    while len(text) < ANSWER_BYTES:
        left = max(0.0, deadline - time.monotonic())  # another child may have used up the time
        if not select.select([pipe], [], [], left)[0]:
            break
        more = os.read(pipe, 1 << 16)
        if not more:
            break
        text += more
    return text.split(b"\n")[:-1]
