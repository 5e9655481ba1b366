"""SIGWINCH, honoured by a master in the foreground on request."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import pty
import signal
import struct
import sys
import termios
import time

import pytest
from conftest import Start
from test_forks_failures import APP, ask_slowly

from tests.harness.forkservers import Notifications, Server, gunicorn, write

CONF = """
from supervisor_hotreload.forks.gunicorn import install

def when_ready(server):
    server.log.info("own when_ready")

install(globals(), honour_winch=True)
"""


@pytest.fixture
def directory(tmp_path: pathlib.Path) -> pathlib.Path:
    write(tmp_path, app=APP, conf=CONF)
    return tmp_path


def stays_for(seconds: float, server: Server, workers: list[int]) -> bool:
    """Whether the master keeps exactly *workers* for a while."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if server.process.poll() is not None or server.children() != workers:
            return False
        time.sleep(0.05)
    return True


def ready_workers(notifications: Notifications) -> set[int]:
    """The pids of the next two workers; before they are ready, gunicorn loses a TERM to them."""
    return {int(notifications.next_worker()["X_HOTRELOAD_WORKER"]) for _ in range(2)}


@pytest.mark.parametrize("worker", ["sync", "gthread"])
def test_winch_drains_the_workers_and_hup_brings_them_back(
    worker: str, directory: pathlib.Path, start: Start, notifications: Notifications
) -> None:
    command = gunicorn(directory, "-k", worker, "-w", "2")
    server = start(command, NOTIFY_SOCKET=notifications.address)
    old = ready_workers(notifications)
    server.wait_for_answer()
    thread, answers = ask_slowly(server, directory)
    server.signal(signal.SIGWINCH)
    server.wait(lambda: not server.children(), "drained workers")
    thread.join(5)
    assert [status for status, _ in answers] == [200], "the request in flight is finished"
    # the arbiter's loop looks at its workers once a second
    assert stays_for(1.3, server, []), "the master lives, without workers"
    server.signal(signal.SIGHUP)
    new = ready_workers(notifications)
    assert not new & old
    assert int(server.wait_for_answer()) in new
    assert set(server.children()) == new
    assert "own when_ready" in server.log
    server.signal(signal.SIGTERM)
    assert server.wait_for_exit() == 0


def test_a_rollback_after_winch(directory: pathlib.Path, start: Start) -> None:
    server = start(gunicorn(directory))
    server.wait_for_answer()
    (old,) = server.children()
    server.signal(signal.SIGUSR2)
    server.wait(lambda: len(server.children()) == 2, "a new master")
    (successor,) = set(server.children()) - {old}
    server.wait(lambda: server.children(successor), "its worker")
    server.signal(signal.SIGWINCH)
    server.wait(lambda: server.children() == [successor], "the old worker drained")
    server.signal(signal.SIGHUP)
    server.wait(lambda: len(server.children()) == 2, "the old master's worker again")
    server.signal(signal.SIGTERM, successor)
    server.wait(lambda: successor not in server.children(), "the end of the new master")
    assert int(server.wait_for_answer()) in server.children()


def test_without_the_option_winch_is_ignored(directory: pathlib.Path, start: Start) -> None:
    write(directory, conf=CONF.replace(", honour_winch=True", ""))
    server = start(gunicorn(directory))
    worker = int(server.wait_for_answer())
    server.signal(signal.SIGWINCH)
    server.wait_for_log("Handling signal: winch")
    assert stays_for(0.3, server, [worker])


TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_the_resizing_of_a_terminal_stops_nobody(directory: pathlib.Path, start: Start) -> None:
    terminal, stdin = pty.openpty()
    with contextlib.closing(os.fdopen(terminal, "rb", 0)), contextlib.closing(os.fdopen(stdin)):
        command = [sys.executable, "-c", TAKE_TERMINAL, *gunicorn(directory)]
        server = start(command, stdin=stdin)
        worker = int(server.wait_for_answer())
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        server.wait_for_log("SIGWINCH ignored: a terminal sends it")
        assert stays_for(0.3, server, [worker])
