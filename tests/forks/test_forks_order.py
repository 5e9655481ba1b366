"""The table hook x server of docs/forks.rst, recorded anew on real servers."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal

import pytest
from conftest import Start

from tests.harness.forkservers import (
    REPOSITORY,
    Notifications,
    Server,
    gunicorn,
    uwsgi,
    write_recorder,
)

TABLE = REPOSITORY / "docs" / "forks.rst"
UVICORN = ("-k", "uvicorn.workers.UvicornWorker")
# The header of a column -> the options of its server.
COLUMNS = {
    "sync": (),
    "sync P": ("--preload",),
    "gthread": ("-k", "gthread"),
    "gthread P": ("-k", "gthread", "--preload"),
    "gevent": ("-k", "gevent"),
    "gevent P": ("-k", "gevent", "--preload"),
    "uvicorn": UVICORN,
    "uvicorn P": (*UVICORN, "--preload"),
    "uWSGI L": ("--master", "--lazy-apps"),
    "uWSGI": ("--master",),
}
ROWS = {
    "app is loaded": ("app", "load"),
    "PreFork, config file": ("config", "PreFork"),
    "PreFork, app": ("app", "PreFork"),
    "PostFork, config file": ("config", "PostFork"),
    "PostFork, app": ("app", "PostFork"),
    "PostWorkerInit": ("app", "PostWorkerInit"),
    "ASGI lifespan": ("app", "lifespan"),
    "ready is sent": ("test", "ready"),
    "first request": ("app", "request"),
    "PreExec, config file": ("config", "PreExec"),
    "PreExec, app": ("app", "PreExec"),
    "WorkerExit": ("app", "WorkerExit"),
}
NEVER = "."


def documented_column(name: str) -> dict[str, str]:
    """The cells of one column of the documented table, by row."""
    lines = TABLE.read_text().splitlines()
    header = (
        next(number for number, line in enumerate(lines) if line.startswith("app is loaded ")) - 2
    )
    ruler = lines[header - 1]
    starts = [n for n, mark in enumerate(ruler) if mark == "=" and (n == 0 or ruler[n - 1] == " ")]
    bounds = list(zip(starts, [*starts[1:], None]))

    def cells(line: str) -> list[str]:
        return [line[begin:end].strip() for begin, end in bounds]

    column = cells(lines[header]).index(name)
    rows = [cells(line) for line in lines[header + 2 : header + 2 + len(ROWS)]]
    return {row[0]: row[column] for row in rows}


def run(server: Server, notifications: Notifications, reexec: bool) -> None:
    """One life: boot, ready, a request, USR2, TERM."""
    if reexec:
        ready = notifications.next_worker()
        with server.record.open("a") as record:
            line = {"what": "ready", "who": "test", "pid": int(ready["X_HOTRELOAD_WORKER"])}
            record.write(json.dumps(line) + "\n")
    assert server.wait_for_answer() == b"served"
    if reexec:
        server.signal(signal.SIGUSR2)
        server.wait(lambda: "PreExec" in whats(server), "PreExec")
    else:
        server.wait_until_each_has_served(1)
    server.signal(signal.SIGTERM)
    server.wait_for_exit()


def whats(server: Server) -> list[str]:
    return [event["what"] for event in server.events()]


def recorded_column(server: Server) -> dict[str, str]:
    """What the first generation did: for each row the place in the order and the process."""
    events = server.events()
    worker = next(event["pid"] for event in events if event["what"] == "request")
    processes = {server.pid: "m", worker: "w"}
    processes.update({e["pid"]: "n" for e in events if e["what"] == "PreExec"})
    seen: dict[tuple[str, str], str] = {}
    for event in events:
        process = processes.get(event["pid"])
        key = (event["who"], event["what"])
        if process is None or key not in ROWS.values():
            continue
        if process == "n" and event["what"] != "PreExec":
            continue  # the next generation
        if key == ("app", "request") and key in seen:
            continue
        assert key not in seen, f"{key} twice: {events}"
        seen[key] = f"{len(seen) + 1} {process}" + (" late" if event.get("late") else "")
    return {row: seen.get(key, NEVER) for row, key in ROWS.items()}


@pytest.mark.parametrize("name", COLUMNS)
def test_the_events_come_in_the_documented_order(
    name: str, tmp_path: pathlib.Path, start: Start, notifications: Notifications
) -> None:
    write_recorder(tmp_path)
    on_uwsgi = name.startswith("uWSGI")
    app = "asgi" if name.startswith("uvicorn") else "app"
    command = (
        uwsgi(tmp_path, *COLUMNS[name]) if on_uwsgi else gunicorn(tmp_path, *COLUMNS[name], app=app)
    )
    server = start(command, NOTIFY_SOCKET="" if on_uwsgi else notifications.address)
    run(server, notifications, reexec=not on_uwsgi)
    recorded = recorded_column(server)
    print(name, json.dumps(recorded))
    assert recorded == documented_column(name)


def test_every_column_of_the_table_is_recorded_here() -> None:
    header = next(line for line in TABLE.read_text().splitlines() if line.startswith("Hook "))
    assert [name for name in re.split("  +", header)[1:] if name] == list(COLUMNS)


def test_the_events_name_the_processes(tmp_path: pathlib.Path, start: Start) -> None:
    write_recorder(tmp_path)
    server = start(gunicorn(tmp_path, "--preload", "--workers", "2"))
    server.wait_for_answer()
    server.wait(lambda: whats(server).count("PostWorkerInit") == 4, "two workers")
    forked = [event for event in server.events() if event["what"] == "PostFork"]
    assert {event["master"] for event in forked} == {server.pid}
    assert {event["pid"] for event in forked} == set(server.children())
    assert sorted(event["worker"] for event in forked) == [1, 1, 2, 2]
    assert {event["container"] for event in forked} == {"gunicorn"}
    assert {tuple(event["objects"]) for event in forked} == {("server", "worker")}
    assert os.getpid() not in {event["pid"] for event in server.events()}


def test_uwsgi_events_name_the_processes(tmp_path: pathlib.Path, start: Start) -> None:
    write_recorder(tmp_path)
    server = start(uwsgi(tmp_path, "--master", "--processes", "2", "--mule"))
    server.wait_for_answer()
    server.wait(lambda: whats(server).count("PostWorkerInit") == 2, "two workers")
    server.wait(lambda: whats(server).count("PostFork") == 3, "and a mule")
    server.wait_until_each_has_served(2)
    server.signal(signal.SIGTERM)
    server.wait_for_exit()
    workers: dict[str, list[int]] = {}
    for event in server.events():
        if "container" in event:
            assert event["container"] == "uWSGI"
            assert event["master"] == server.pid
            assert event["pid"] != server.pid
            assert event["objects"] == ["uwsgi"]
            workers.setdefault(event["what"], []).append(event["worker"])
    assert {event: sorted(numbers) for event, numbers in workers.items()} == {
        "PostFork": [0, 1, 2],
        "PostWorkerInit": [1, 2],
        "WorkerExit": [1, 2],
    }


EARLY = """
import recorder
recorder.record_all("early")
"""


def test_uwsgi_does_not_call_a_worker_initialized_before_its_lazy_app_is(
    tmp_path: pathlib.Path, start: Start
) -> None:
    write_recorder(tmp_path)
    (tmp_path / "early.py").write_text(EARLY)
    server = start(
        uwsgi(tmp_path, "--master", "--lazy-apps", "--pythonpath", ".", "--shared-import", "early")
    )
    server.wait_for_answer()
    received = [(e["who"], e["what"], e.get("late")) for e in server.events()]
    assert received == [
        ("early", "PostFork", False),
        ("app", "load", None),
        ("app", "PostFork", True),
        ("app", "request", None),
    ]


HUP_CONFIG = """
import sys
sys.path.insert(0, {directory!r})
import recorder
from supervisor_hotreload.forks import PostFork, subscribe
from supervisor_hotreload.forks.gunicorn import install

@subscribe(PostFork)
def in_the_config_file(event):
    recorder.note("PostFork", "config")

install(globals())
"""


def test_after_hup_every_subscriber_gets_each_event_once(
    tmp_path: pathlib.Path, start: Start
) -> None:
    write_recorder(tmp_path, HUP_CONFIG)
    server = start(gunicorn(tmp_path))
    server.wait_for_answer()
    for generation in (2, 3):
        server.signal(signal.SIGHUP)
        server.wait(
            lambda expected=generation: whats(server).count("PostWorkerInit") == expected,
            "the next worker",
        )
    workers = {e["pid"] for e in server.events() if e["what"] == "PostWorkerInit"}
    assert len(workers) == 3
    for worker in workers:
        received = [(e["who"], e["what"]) for e in server.events() if e["pid"] == worker]
        assert received.count(("config", "PostFork")) == 1, received
        assert received.count(("app", "PostFork")) == 1, received
