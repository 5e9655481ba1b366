"""What workers tell supervisord or systemd when they are ready."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys

import pytest
from conftest import Start

from supervisor_hotreload.forks import readiness
from tests.harness.forkservers import (
    Notifications,
    Server,
    gunicorn,
    tool,
    wait_until,
    write,
    write_recorder,
)


def check_two_workers(server: Server, notifications: Notifications) -> None:
    reports = [notifications.next_worker() for _ in range(2)]
    assert {int(fields.pop("X_HOTRELOAD_WORKER")) for fields in reports} == set(server.children())
    for fields in reports:
        assert fields.pop("X_HOTRELOAD_MASTER") == str(server.pid)
        assert fields.pop("READY") == "1"
        assert "is ready" in fields.pop("STATUS")
        assert not fields, "nothing else, MAINPID above all"
    server.wait_for_answer()
    assert notifications.nothing_more()


def test_each_worker_says_once_that_it_is_ready(
    tmp_path: pathlib.Path, start: Start, notifications: Notifications
) -> None:
    write_recorder(tmp_path)
    server = start(gunicorn(tmp_path, "-w", "2"), NOTIFY_SOCKET=notifications.address)
    check_two_workers(server, notifications)


@pytest.mark.skipif(sys.platform != "linux", reason="abstract addresses exist on Linux only")
def test_the_address_may_be_abstract(tmp_path: pathlib.Path, start: Start) -> None:
    write_recorder(tmp_path)
    with contextlib.closing(Notifications(f"@hotreload-test-{os.getpid()}")) as notifications:
        server = start(gunicorn(tmp_path, "-w", "2"), NOTIFY_SOCKET=notifications.address)
        check_two_workers(server, notifications)


@pytest.mark.parametrize("address", ["/nonexistent/socket", "relative", "/" + "x" * 200])
def test_a_worker_that_cannot_say_so_serves(
    address: str, tmp_path: pathlib.Path, start: Start
) -> None:
    write_recorder(tmp_path)
    server = start(gunicorn(tmp_path), NOTIFY_SOCKET=address)
    server.wait_for_log("is ready and serves, but could not report it to ")
    server.wait_for_answer()


def test_a_full_receiver_does_not_keep_a_worker_from_serving(
    tmp_path: pathlib.Path, notifications: Notifications
) -> None:
    sent = 0

    class Log:
        said = ""

        def warning(self, message: str, *arguments: object) -> None:
            self.said += message % arguments

    log = Log()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOTIFY_SOCKET", notifications.address)
        patch.setattr(readiness, "SEND_TIMEOUT", 0.05)
        while not log.said and sent < 10_000:
            readiness.announce(1, 2, log)
            sent += 1
    assert "Worker 1 is ready and serves, but could not report it to" in log.said


LISTENER = """
import sys

def main():
    while True:
        sys.stdout.write("READY\\n")
        sys.stdout.flush()
        header = dict(pair.split(":") for pair in sys.stdin.readline().split())
        payload = sys.stdin.read(int(header["len"]))
        with open("communications", "a") as record:
            record.write(payload.replace("\\n", " ") + "\\n")
        sys.stdout.write("RESULT 2\\nOK")
        sys.stdout.flush()

main()
"""
SUPERVISORD = """
[supervisord]
nodaemon = true
pidfile = {directory}/supervisord.pid
logfile = {directory}/supervisord.log
childlogdir = {directory}

[eventlistener:record]
command = {python} {directory}/listener.py
directory = {directory}
events = PROCESS_COMMUNICATION

[program:web]
command = {command}
directory = {directory}
environment = {environment}
stdout_capture_maxbytes = 1MB
redirect_stderr = true
"""


def supervise(directory: pathlib.Path, start: Start, environment: str) -> Server:
    """Start a supervisord with the recording app and a listener to its communication."""
    write_recorder(directory)
    write(directory, listener=LISTENER)
    text = SUPERVISORD.format(
        directory=directory,
        python=sys.executable,
        command=" ".join(gunicorn(directory, "-w", "2")),
        environment=environment,
    )
    (directory / "supervisord.conf").write_text(text)
    server = start([tool("supervisord"), "-n", "-c", str(directory / "supervisord.conf")])
    server.wait_for_answer()
    return server


def test_without_a_socket_the_workers_tell_supervisord(
    tmp_path: pathlib.Path, start: Start
) -> None:
    server = supervise(tmp_path, start, 'HOTRELOAD_NOTIFY="communication"')
    record = tmp_path / "communications"

    def reports() -> set[str]:
        return set(record.read_text().splitlines()) if record.exists() else set()

    wait_until(lambda: len(reports()) == 2, "two communications")
    ready = [e for e in server.events() if e["what"] == "PostWorkerInit" and e["who"] == "app"]
    expected = {f"hotreload:ready worker:{e['pid']} master:{e['master']}" for e in ready}
    assert len(expected) == 2
    assert {line.split(" ", 3)[3] for line in reports()} == expected, reports()


@pytest.mark.parametrize(
    ("environ", "tokens"),
    [
        ({"SUPERVISOR_ENABLED": "1"}, 0),
        ({"SUPERVISOR_ENABLED": "1", "HOTRELOAD_NOTIFY": "datagram"}, 0),
        ({"HOTRELOAD_NOTIFY": "communication"}, 0),
        ({"SUPERVISOR_ENABLED": "1", "HOTRELOAD_NOTIFY": "communication"}, 1),
    ],
)
def test_the_token_is_written_only_when_asked_for(
    environ: dict[str, str], tokens: int, tmp_path: pathlib.Path, start: Start
) -> None:
    write_recorder(tmp_path)
    server = start(gunicorn(tmp_path), **environ)
    server.wait_for_answer()  # a sync worker's first heartbeat comes before its first request
    assert server.log.count("<!--XSUPERVISOR:BEGIN-->hotreload:ready worker:") == tokens
