"""Reports to the supervisor of a worker that it serves."""

from __future__ import annotations

import os
import socket
from typing import Any

SEND_TIMEOUT = 1.0  # seconds that a worker waits for room in the receiver's queue


def wanted() -> bool:
    """Tell whether the environment asks for a notification."""
    return bool(os.environ.get("NOTIFY_SOCKET")) or _token_wanted()


def announce(worker_pid: int, master_pid: int, log: Any) -> None:
    """Report once that the worker *worker_pid* of the master *master_pid* is ready.

    The report goes to NOTIFY_SOCKET as sd_notify(3) does. Without one it goes to supervisord as a
    process communication event, if HOTRELOAD_NOTIFY=communication. A failure goes to *log*: the
    worker serves on.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    try:
        if address:
            _send_datagram(address, worker_pid, master_pid)
        elif _token_wanted():
            _write_token(worker_pid, master_pid)
    except (OSError, ValueError) as error:
        log.warning(
            "Worker %s is ready and serves, but could not report it to %s: %s",
            worker_pid,
            repr(address) if address else "supervisord",
            error,
        )


def _token_wanted() -> bool:
    environ = os.environ
    return "SUPERVISOR_ENABLED" in environ and environ.get("HOTRELOAD_NOTIFY") == "communication"


def _send_datagram(address: str, worker_pid: int, master_pid: int) -> None:
    message = (
        "READY=1\n"
        f"STATUS=worker {worker_pid} is ready\n"
        f"X_HOTRELOAD_WORKER={worker_pid}\n"
        f"X_HOTRELOAD_MASTER={master_pid}\n"
    )
    if address[0] not in "/@":
        raise ValueError("NOTIFY_SOCKET must start with '/' or '@'")
    if address[0] == "@":
        address = "\0" + address[1:]  # the abstract namespace, sd_notify(3)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(SEND_TIMEOUT)
        sender.sendto(message.encode("ascii"), address)


def _write_token(worker_pid: int, master_pid: int) -> None:
    token = (
        "<!--XSUPERVISOR:BEGIN-->"
        f"hotreload:ready worker:{worker_pid} master:{master_pid}"
        "<!--XSUPERVISOR:END-->"
    )
    # One write below PIPE_BUF: the workers share the pipe, their tokens must not mix.
    os.write(1, token.encode("ascii"))
