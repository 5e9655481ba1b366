"""The examples of docs/examples, run: what is shared without the hook, and that nothing is with it.

Every use of a connection is a row in the database; what is shared is asked of the database.
"""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import signal
import sqlite3
import threading

import pytest
from conftest import Start

from tests.harness.forkservers import (
    DEADLINE,
    REPOSITORY,
    Notifications,
    Server,
    alive,
    gunicorn,
    uwsgi,
)

EXAMPLES = REPOSITORY / "docs" / "examples"
PRELOAD = ("--preload", "--workers", "2")
SHARED = "SELECT name FROM uses GROUP BY name HAVING COUNT(DISTINCT process) > 1"


def copy_example(name: str, directory: pathlib.Path) -> None:
    """Copy the example's files (and the pool, which the examples share) to *directory*."""
    for source in (EXAMPLES / "flask_pool" / "pool.py", *(EXAMPLES / name).glob("*.py")):
        shutil.copy(source, directory / ("conf.py" if "conf" in source.name else source.name))


def database(directory: pathlib.Path) -> str:
    return f"sqlite:///{directory / 'example.db'}"


def ask(directory: pathlib.Path, query: str) -> list[str]:
    with contextlib.closing(sqlite3.connect(directory / "example.db", timeout=DEADLINE)) as db:
        return [row[0] for row in db.execute(query)]


def use_every_worker(server: Server, directory: pathlib.Path) -> None:
    """Send requests until two processes have served one."""

    def both_served() -> bool:
        assert server.wait_for_answer().startswith(b"connection ")
        return len(ask(directory, "SELECT DISTINCT process FROM uses")) >= 2

    server.wait(both_served, "requests served by two workers")


@pytest.mark.parametrize("example", ["flask_pool", "django_pool"])
@pytest.mark.parametrize("unsafe", [True, False], ids=["without hook", "with hook"])
def test_gunicorn_shares_a_connection_only_without_the_hook(
    example: str, unsafe: bool, tmp_path: pathlib.Path, start: Start
) -> None:
    copy_example(example, tmp_path)
    server = start(
        gunicorn(tmp_path, *PRELOAD),
        DATABASE_URL=database(tmp_path),
        **({"UNSAFE": "1"} if unsafe else {}),
    )
    use_every_worker(server, tmp_path)
    assert len(ask(tmp_path, SHARED)) == (1 if unsafe else 0), server.log
    assert (server.wait_for_answer("/shared").strip() != b"[]") == unsafe


@pytest.mark.parametrize("unsafe", [True, False], ids=["without hook", "with hook"])
def test_uwsgi_shares_a_connection_only_without_the_hook(
    unsafe: bool, tmp_path: pathlib.Path, start: Start
) -> None:
    copy_example("flask_pool", tmp_path)
    server = start(
        uwsgi(tmp_path, "--master", "--processes", "2"),
        DATABASE_URL=database(tmp_path),
        **({"UNSAFE": "1"} if unsafe else {}),
    )
    use_every_worker(server, tmp_path)
    assert len(ask(tmp_path, SHARED)) == (1 if unsafe else 0), server.log


class Load:
    """Clients that ask again as soon as they are answered, until the `with` ends."""

    def __init__(self, server: Server, clients: int = 3) -> None:
        self.server = server
        self.answered = 0
        self.dropped: list[str] = []
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.ask, daemon=True) for _ in range(clients)]

    def ask(self) -> None:
        while not self.over.is_set():
            try:
                status, body = self.server.get()
                error = "" if status == 200 else f"{status} {body!r}"
            except Exception as failure:  # noqa: BLE001 - whatever it is, it is a drop
                error = repr(failure)
            with self.lock:
                self.answered += 1
                if error:
                    self.dropped.append(error)

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join(DEADLINE)


def next_ready(notifications: Notifications, workers: int, other_than: int) -> int:
    """Wait for *workers* ready workers of one master that is not *other_than*; return its pid."""
    masters = []
    while len(masters) < workers:
        master = int(notifications.next_worker()["X_HOTRELOAD_MASTER"])
        if master != other_than:
            masters.append(master)
    assert len(set(masters)) == 1, masters
    return masters[0]


def test_a_hot_reload_under_preload_and_load_drops_nothing_and_shares_nothing(
    tmp_path: pathlib.Path, start: Start, notifications: Notifications
) -> None:
    copy_example("flask_pool", tmp_path)
    server = start(
        gunicorn(tmp_path, *PRELOAD),
        DATABASE_URL=database(tmp_path),
        NOTIFY_SOCKET=notifications.address,
    )
    assert next_ready(notifications, 2, other_than=0) == server.pid
    old_workers = set(server.children())
    with Load(server) as load:
        server.wait(lambda: load.answered > 30, "load on the old generation")
        server.signal(signal.SIGUSR2)
        successor = next_ready(notifications, 2, other_than=server.pid)
        server.signal(signal.SIGWINCH)
        server.wait(
            lambda: set(server.children()) == {successor}, "the old workers drained by WINCH"
        )
        server.signal(signal.SIGQUIT)
        assert server.wait_for_exit() == 0
        answered = load.answered
        server.wait(lambda: load.answered > answered + 30, "load on the new generation")
    assert alive(successor)
    assert load.dropped == []
    served = {int(pid) for pid in ask(tmp_path, "SELECT DISTINCT process FROM uses")}
    new_workers = set(server.children(successor))
    assert served & old_workers
    assert served & new_workers
    assert ask(tmp_path, SHARED) == []
    print(f"{load.answered} requests, {len(load.dropped)} dropped, {len(served)} processes")
