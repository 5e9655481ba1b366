"""Starts the command ``hotreload-run``, and ends it as its server has ended."""

from __future__ import annotations

import os
import resource
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from typing import NoReturn, Optional

from supervisor_hotreload.core.text import printable
from supervisor_hotreload.system.files import replace_file
from supervisor_hotreload.system.linux import become_subreaper
from supervisor_hotreload.system.world import World
from supervisor_hotreload.wrapper import files, handover
from supervisor_hotreload.wrapper.handover import Handover
from supervisor_hotreload.wrapper.launch import CANNOT_EXECUTE, CannotStart, Launcher
from supervisor_hotreload.wrapper.listening import BadAddress, Listening
from supervisor_hotreload.wrapper.options import RunOptions, Usage, parse
from supervisor_hotreload.wrapper.reports import Reports
from supervisor_hotreload.wrapper.run import Runner
from supervisor_hotreload.wrapper.signals import Signals


def main() -> NoReturn:
    """Run a command under a pid that never changes; end as its server ends."""
    try:
        options = parse(sys.argv[0], sys.argv[1:])
    except Usage as usage:
        _exit_with(str(usage), usage.status)
    state = handover.take(os.environ)
    signals = Signals(None if state is None else state.mask)
    try:
        opened = () if state is None else state.sockets
        listening = Listening(options.listen, os.environ, opened)
        if options.pid is not None and state is None:
            replace_file(options.pid, f"{os.getpid()}\n", 0o644)
    except (BadAddress, OSError) as error:
        _exit_with(f"hotreload-run: {error}", 2)
    try:
        status = _run(options, signals, listening, state)
    except OSError as error:  # nothing has been started yet
        _exit_with(f"hotreload-run: {error}", 2)
    if options.pid is not None:
        files.remove_if(options.pid, f"{os.getpid()}\n")
    if not options.leave:
        listening.remove_paths()
    _end_like(status)


def _run(
    options: RunOptions, signals: Signals, listening: Listening, state: Optional[Handover]
) -> int:
    """Return the wait status of the server."""
    world = World()
    world.subreaper = become_subreaper()
    inherited = {k: v for k, v in os.environ.items() if k not in ("LISTEN_FDS", "LISTEN_PID")}
    notify = inherited.pop("NOTIFY_SOCKET", None) if options.notify else None
    reports = Reports(options, world, notify)
    if state is not None:
        options = replace(options, directory=state.folder)
    sockets, directory = listening.descriptors, options.directory
    launcher = Launcher(options.command, inherited, sockets, signals, directory, options.leave)
    try:
        return Runner(world, options, signals, listening, launcher, reports, state).run()
    except CannotStart as error:
        reports.log(f"hotreload-run: {error}")
        return CANNOT_EXECUTE << 8


def _end_like(status: int) -> NoReturn:
    """End as the server has ended: with its exit status, or killed by the same signal."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        os._exit(code)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with suppress(OSError):  # SIGKILL cannot be reset
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
    os._exit(128 - code)  # pid 1 cannot be killed by itself


def _exit_with(text: str, status: int) -> NoReturn:
    (sys.stderr if status else sys.stdout).write(printable(text.rstrip(), "\n") + "\n")
    sys.exit(status)
