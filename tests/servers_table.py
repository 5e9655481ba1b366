"""``make servers``: every family by every strategy under load, and with a broken release.

    python -m tests.servers_table [--only TEXT] [--write docs/servers.rst]

The exit status is 0 when every row holds what it is to hold.
"""

from __future__ import annotations

import argparse
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Callable

from tests.harness import tables
from tests.harness.house import House
from tests.harness.load import Load, get
from tests.harness.otherservers import (
    ASGI,
    asgi,
    configure_haproxy,
    configure_nginx,
    haproxy,
    nginx,
    rack_release,
    start,
    unicorn,
    uwsgi,
)
from tests.harness.waiting import wait_until

BOOT = 1.0
"""Seconds that an import of the application takes."""

STALL = 0.05
"""Seconds by which a client may wait longer because of a reload that promises no stall."""

WORKERS = 4
"""Of servers whose worker has one request at a time: one is always busy with a slow one."""

HEADER = ("server", "strategy", "dropped", "longest wait", "without", "broken", "pid", "total")


@dataclass(frozen=True)
class Row:
    """One server with one strategy.

    :param configure: writes supervisord.conf.
    :param release: writes release *name*, which is broken when it is 'broken'.
    :param drops: it may drop requests, by what it does itself.
    :param stalls: clients may wait for the import.
    :param children: processes beside the supervised one.
    :param survives: a broken release leaves the old one serving.
    """

    server: str
    strategy: str
    configure: Callable[[House], None]
    release: Callable[[House, str], None]
    drops: bool = False
    stalls: bool = False
    survives: bool = True
    children: int = 2


def wsgi_release(house: House, name: str) -> None:
    code = "import no_such_module" if name == "broken" else None
    house.release(name, boot=BOOT, code=code)


def asgi_release(house: House, name: str) -> None:
    code = "import no_such_module" if name == "broken" else ASGI.format(release=name, boot=BOOT)
    house.release(name, code=code)


def nginx_release(house: House, name: str) -> None:
    configure_nginx(house, name, text="nonsense;" if name == "broken" else "")


def haproxy_release(house: House, name: str) -> None:
    configure_haproxy(house, name, text="nonsense" if name == "broken" else "")


def ruby_release(house: House, name: str) -> None:
    code = 'require "no_such_library"\n' if name == "broken" else ""
    rack_release(house, name, boot=BOOT, code=code)


def of_gunicorn(house: House) -> None:
    house.configure(f"--workers {WORKERS}")


def of_uwsgi(more: str, strategy: str) -> Callable[[House], None]:
    def configure(house: House) -> None:
        words = more.format(root=house.root)
        command = uwsgi(house, f"--stats {house.root}/stats.sock {words}", workers=WORKERS)
        if strategy == "chain":
            moved = f"--pythonpath {house.root}/current"
            command = command.replace(f"--chdir {house.root}/current", moved)
        house.configure(
            command=command, program="stopsignal = INT", settings=f"strategy = {strategy}"
        )

    return configure


def of_nginx(strategy: str) -> Callable[[House], None]:
    def configure(house: House) -> None:
        house.configure(
            command=nginx(house, orphan=strategy == "upgrade"),
            program="stopsignal = QUIT",
            settings=f"strategy = {strategy}",
        )

    return configure


def of_unicorn(house: House) -> None:
    house.configure(command=unicorn(house, workers=WORKERS), program="stopsignal = QUIT")


def of_haproxy(house: House) -> None:
    house.configure(
        command=haproxy(house, "-W", "-db"),
        program="directory = /",
        settings=f"strategy = signal\nsignal = USR2\ncheck_before = {haproxy(house, '-c')}",
    )


def of_asgi(name: str) -> Callable[[House], None]:
    def configure(house: House) -> None:
        command = asgi(house, name)
        trial = f"check_before = {house.python} -c 'import app'"
        paths = house.environment["PYTHONPATH"]
        house.configure(
            command=command,
            program=f'directory = /\nenvironment = PYTHONPATH="{paths}"',
            settings=f"strategy = signal\n{trial}",
        )

    return configure


ROWS = (
    Row("gunicorn", "reexec", of_gunicorn, wsgi_release),
    Row("uWSGI", "graceful", of_uwsgi("", "graceful"), wsgi_release, stalls=True, children=WORKERS),
    Row(
        "uWSGI lazy-apps",
        "graceful",
        of_uwsgi("--lazy-apps", "graceful"),
        wsgi_release,
        stalls=True,
        children=WORKERS,
    ),
    Row(
        "uWSGI lazy-apps",
        "chain (fifo)",
        of_uwsgi("--lazy-apps --master-fifo {root}/fifo", "chain"),
        wsgi_release,
        children=WORKERS,
    ),
    Row(
        "uWSGI lazy-apps",
        "chain (touch)",
        of_uwsgi("--lazy-apps --touch-chain-reload {root}/supervisord.conf", "chain"),
        wsgi_release,
        children=WORKERS,
    ),
    Row("uWSGI", "brutal", of_uwsgi("", "brutal"), wsgi_release, True, True, children=WORKERS),
    Row("nginx", "graceful", of_nginx("graceful"), nginx_release),
    Row("nginx", "upgrade", of_nginx("upgrade"), nginx_release, children=3),
    Row("unicorn", "reexec", of_unicorn, ruby_release, children=WORKERS),
    Row("HAProxy", "signal", of_haproxy, haproxy_release, children=1),
    Row("granian", "signal", of_asgi("granian"), asgi_release, stalls=True),
    Row("uvicorn", "signal", of_asgi("uvicorn"), asgi_release, drops=True),
    Row("hypercorn", "signal", of_asgi("hypercorn"), asgi_release, drops=True, stalls=True),
)


@contextmanager
def house_of(row: Row) -> Iterator[House]:
    root = pathlib.Path(tempfile.mkdtemp(prefix="hr-"))
    root.chmod(0o755)
    house = House(root)
    try:
        row.release(house, "v1")
        row.configure(house)
        start(house, house.port, row.children)
        wait_until(lambda: house.ctl("status").returncode == 0)
        yield house
    finally:
        house.stop()
        shutil.rmtree(root, ignore_errors=True)


def measure(row: Row) -> tuple[list[str], bool]:
    """Return the cells of a row, and whether it holds what it is to hold."""
    with house_of(row) as house:
        master = house.info()["pid"]
        with Load(house.port, fast=3, slow=1, slow_path="/slow1", pause=0.002) as load:
            load.wait_in_flight()
            load.forget_longest()
            wait_until(lambda: load.answered > 1000, 30)
            without = load.forget_longest()
            row.release(house, "v2")
            house.reload()
            longest = load.longest
            seconds = house.reload_info()["seconds"]
        new = all(get(house.port).startswith(b"v2") for _ in range(4))
        pid = house.info()["pid"]
        tracked = pid in {process.pid for process in house.family()}
        with Load(house.port, fast=2, slow=0) as after:
            row.release(house, "broken")
            failed = house.ctl("hotreload", "myapp").returncode != 0
            old = all(get(house.port).startswith(b"v2") for _ in range(4))
        survived = failed and old and not after.dropped
    cells = [
        row.server,
        row.strategy,
        f"{len(load.dropped)} of {load.answered + len(load.dropped)}",
        f"{longest * 1000:.0f} ms",
        f"{without * 1000:.0f} ms",
        "survived" if survived else "not survived",
        ("the same" if pid == master else "the new one's") if tracked else "lost",
        f"{seconds:.1f} s",
    ]
    good = new and tracked and survived == row.survives and (row.drops or not load.dropped)
    return cells, good and (row.stalls or longest - without < STALL)


TEXT = """\
{table}

{machine}. An import takes {boot:g} s; 2 workers, of
gunicorn, unicorn and uWSGI {workers}, of HAProxy 1; 3 closed-loop clients and a slow one (1 s
requests, always in flight). *longest wait*: of a fast client during the reload, *without*:
before it.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument(
        "--write", type=pathlib.Path, help="put the table between its marks in this file"
    )
    told = parser.parse_args()
    rows, bad = [], []
    for row in ROWS:
        name = f"{row.server} {row.strategy}"
        if told.only not in name:
            continue
        try:
            cells, good = measure(row)
        except AssertionError as error:
            cells, good = [row.server, row.strategy, *["failed"] * (len(HEADER) - 2)], False
            print(f"{name}: {error}", file=sys.stderr)
        print("  ".join(cells), "" if good else "<- not as promised", flush=True)
        rows.append(cells)
        if not good:
            bad.append(name)
    text = TEXT.format(
        machine=tables.machine(),
        boot=BOOT,
        workers=WORKERS,
        table=tables.simple_table(HEADER, rows),
    )
    print(text)
    if told.write is not None:
        tables.put(told.write, "servers", text)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
