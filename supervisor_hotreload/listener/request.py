"""``request_reload()``: an application asks for a new generation of itself.

It runs inside the application, so it imports the standard library only, and
that when it is called.
"""

from __future__ import annotations

import os
import stat

BEGIN, END = "<!--XSUPERVISOR:BEGIN-->", "<!--XSUPERVISOR:END-->"
"""What encloses a message to supervisord (supervisor.events.ProcessCommunicationEvent)."""


def request_reload(program: str = "") -> str:
    """Ask the event listener ``hotreload-listener`` to reload the program that calls this.

    It returns at once; the reload comes after ``settle`` seconds, and at most
    once in ``min_interval``. It goes over supervisor's process communication
    where supervisord listens to it (``stdout_capture_maxbytes = 1KB`` in the
    program's section), else over supervisord's XML-RPC.

    :param program: another one, whose ``allow_requests_from`` names this one.
    :return: 'stdout', 'stderr' or 'rpc': the way it went.
    :raises RuntimeError: when there is no way to ask, with what to do about it.
    """
    if any(character.isspace() for character in program):
        raise ValueError(f"{program!r} is not the name of a program")
    for descriptor, way in ((1, "stdout"), (2, "stderr")):
        if _listened_to(descriptor):
            # one write of so few bytes to a pipe is not torn apart by another's (pipe(7))
            os.write(descriptor, f"{BEGIN}hotreload {program}{END}".encode())
            return way
    _ask(program or _own_name())
    return "rpc"


def _listened_to(descriptor: int) -> bool:
    """Tell whether supervisord reads messages there: the plugin has told which pipe it is."""
    try:
        pipe = os.fstat(descriptor)
    except OSError:
        return False  # closed
    told = os.environ.get("HOTRELOAD_CHANNEL")
    return stat.S_ISFIFO(pipe.st_mode) and told == f"{descriptor}:{pipe.st_ino}"


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
