"""``request_reload()``: an application asks for a new generation of itself.

It runs inside the application. So it imports little before it is called, and the standard
library only.
"""

from __future__ import annotations

import os
import stat

BEGIN, END = "<!--XSUPERVISOR:BEGIN-->", "<!--XSUPERVISOR:END-->"
"""The marks around a message to supervisord (supervisor.events.ProcessCommunicationEvent)."""


def request_reload(program: str = "") -> str:
    """Ask the event listener ``hotreload-listener`` to reload the program that calls this.

    It returns at once. The reload comes after ``settle`` seconds, and at most once in
    ``min_interval`` seconds. The request goes through supervisor's process communication where
    that is switched on (``stdout_capture_maxbytes = 1KB`` in the program's section), else
    through supervisord's XML-RPC.

    :param program: another program, whose ``allow_requests_from`` names this one.
    :return: the way that the request took: 'stdout', 'stderr' or 'rpc'.
    :raises RuntimeError: when there is no way to ask; the message says what to do.
    :raises ValueError: when *program* cannot be a name.
    """
    if any(character.isspace() for character in program):
        raise ValueError(f"{program!r} is not the name of a program")
    for descriptor, way in ((1, "stdout"), (2, "stderr")):
        if _is_captured(descriptor):
            # so few bytes are written to a pipe at once, and no other text gets between (pipe(7))
            os.write(descriptor, f"{BEGIN}hotreload {program}{END}".encode())
            return way
    _ask(program or _own_name())
    return "rpc"


def _is_captured(descriptor: int) -> bool:
    """Tell whether supervisord reads messages there: HOTRELOAD_CHANNEL names the pipe."""
    try:
        pipe = os.fstat(descriptor)
    except OSError:
        return False  # closed
    channel = os.environ.get("HOTRELOAD_CHANNEL")
    return stat.S_ISFIFO(pipe.st_mode) and channel == f"{descriptor}:{pipe.st_ino}"


def _own_name() -> str:
    group = os.environ.get("SUPERVISOR_GROUP_NAME")
    process = os.environ.get("SUPERVISOR_PROCESS_NAME")
    if not group or not process:
        raise RuntimeError("request_reload: this process was not started by supervisord")
    return f"{group}:{process}"


def _ask(name: str) -> None:
    from xmlrpc.client import Fault

    from supervisor_hotreload.listener.rpcclient import NoAnswer, from_environment

    advice = "set 'stdout_capture_maxbytes = 1KB' in the program's section and restart it"
    try:
        server = from_environment(os.environ)
        if server is None:
            raise RuntimeError(f"request_reload: supervisord has no server; {advice}")
        server.call("hotreload.requestReload", name)
    except (NoAnswer, ValueError) as error:
        raise RuntimeError(f"request_reload: {error}; {advice}") from None
    except Fault as fault:
        raise RuntimeError(f"request_reload: {fault.faultString}") from None
