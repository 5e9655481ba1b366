"""``make bench``: one app, one load, and four ways to bring a new release up.

    python -m tests.bench [--rounds N] [--only TEXT] [--write FILE]

Every round runs every way once. The exit status is 0 when this product has
dropped nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

from tests.harness import tables
from tests.harness.house import House
from tests.harness.load import Load
from tests.harness.processes import lives
from tests.harness.waiting import free_port, wait_until
from tests.matrix import house

BOOT = 2.0
"""Seconds that the import of every release takes."""

LOOK = 0.02
"""Seconds between two looks for the end of what is timed."""

QUIET = 3.0
"""Seconds of load without a reload."""

WORKERS = 4

APP = f"""\
import os, time
time.sleep({BOOT})
def app(environ, start_response):
    if environ["PATH_INFO"].startswith("/slow"):
        time.sleep(1)
    body = b"%s"
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""

CONFIG = """\
# Tells when a worker has imported the app, and when a master or worker is told to end.
import os, signal, time

def note(event):
    line = f"{event} {os.getpid()} {time.monotonic()}\\n"
    with open(%r, "a") as events:
        events.write(line)

def when_ready(master):
    handle_term = master.handle_term
    def term(*number):
        note("term")
        handle_term(*number)
    master.handle_term = term

def post_worker_init(worker):
    note("ready")
    def term(number, frame):
        note("term")
        worker.handle_exit(number, frame)
    signal.signal(signal.SIGTERM, term)
"""


class Patient(Load):
    """A load whose slow clients pause, too: a refused connection is no reason to spin."""

    def _client(self, path: str, pause: float) -> None:
        super()._client(path, pause or 0.02)


@dataclass(frozen=True)
class Event:
    """What a master or worker has noted, at a monotonic time."""

    what: str
    pid: int
    at: float


@dataclass(frozen=True)
class Way:
    """A way to bring a new release up.

    :param trigger: what supervisorctl is asked.
    :param wrapped: under rainbow-saddle.
    :param keeps_master: the master is not replaced.
    :param plugin: supervisord has this product loaded.
    """

    name: str
    trigger: tuple[str, ...]
    wrapped: bool = False
    keeps_master: bool = False
    plugin: bool = False


WAYS = (
    Way("supervisor_hotreload", ("hotreload", "myapp"), plugin=True),
    Way("gunicorn HUP", ("signal", "HUP", "myapp"), keeps_master=True),
    Way("supervisorctl restart", ("restart", "myapp")),
    Way("rainbow-saddle", ("signal", "HUP", "myapp"), wrapped=True),
)


@dataclass(frozen=True)
class Round:
    """What one way has shown once; all times in seconds.

    :param fast: dropped requests of fast clients.
    :param slow: those of slow ones.
    :param quiet: the longest wait of a fast client without a reload.
    :param longest: that during it.
    :param total: from the command's start until v2 answers and v1's processes are gone.
    :param drain: from the first TERM to an old process until they are gone.
    """

    fast: int
    slow: int
    quiet: float
    longest: float
    total: float
    drain: float


def events(made: House) -> list[Event]:
    """Return what the workers of *made* have noted so far."""
    path = made.root / "events"
    rows = map(str.split, path.read_text().splitlines()) if path.exists() else iter(())
    return [Event(what, int(pid), float(at)) for what, pid, at in rows]


def ready(made: House) -> set[int]:
    """Return the pids of all workers that have imported the app."""
    return {event.pid for event in events(made) if event.what == "ready"}


def command(made: House, port: int) -> str:
    return (
        f"{made.bin}/gunicorn --workers {WORKERS} --bind 127.0.0.1:{port} "
        f"-c {made.root}/hooks.py --chdir {made.root}/current app:app"  # HUP follows that alone
    )


def prepare(made: House, way: Way) -> None:
    """Start v1 in the way's own setting."""
    (made.root / "hooks.py").write_text(CONFIG % str(made.root / "events"))
    made.release("v1", code=APP % "v1")
    wrapper = f"{made.bin}/rainbow-saddle --gunicorn-pidfile {made.root}/g.pid "
    made.configure(command=(wrapper if way.wrapped else "") + command(made, made.port))
    if not way.plugin:
        without_plugin(made.root / "supervisord.conf")
    made.start()
    wait_until(lambda: len(ready(made)) == WORKERS, what="v1 is ready")


def without_plugin(path: pathlib.Path) -> None:
    """Take this product out of a supervisord.conf: its peers run without it."""
    sections = path.read_text().split("\n[")
    path.write_text("\n[".join(text for text in sections if ":hotreload]" not in text))


def run(way: Way, python: pathlib.Path) -> Round:
    """Bring v2 up once, under load."""
    with house(python) as made:
        prepare(made, way)
        workers = ready(made)
        old = [process for process in made.family() if process.pid in workers]
        if not way.keeps_master:
            old.append(old[0].parent())
        with Patient(made.port, fast=4, slow=2, pause=0.01) as load:
            load.wait_in_flight()
            load.forget_longest()
            time.sleep(QUIET)
            quiet = load.forget_longest()
            made.release("v2", code=APP % "v2")
            began = time.monotonic()
            asking = subprocess.Popen(
                made.ctl_command(*way.trigger),
                env=made.environment,
                stdout=subprocess.DEVNULL,
            )
            try:
                ended = wait_until(lambda: gone(old), 60, "v1 is gone", LOOK)
                wait_until(lambda: load.releases["v2"], 60, "v2 answers", LOOK)
                total = time.monotonic() - began
                assert asking.wait(60) == 0, f"supervisorctl {' '.join(way.trigger)} fails"
            finally:
                asking.kill()
                asking.wait()
            time.sleep(1)  # what still went wrong would show now
        pids = {process.pid for process in old}
        told = [e.at for e in events(made) if e.what == "term" and e.pid in pids]
        fast = sum(text.startswith("/:") for text in load.dropped)
        return Round(
            fast,
            len(load.dropped) - fast,
            quiet,
            load.longest,
            total,
            ended - min(told),
        )


def gone(processes: list[psutil.Process]) -> float:
    """Return the time when none of *processes* lives, 0 while one does."""
    return 0.0 if any(map(lives, processes)) else time.monotonic()


@contextlib.contextmanager
def alone(made: House) -> Iterator[subprocess.Popen[bytes]]:
    """Start the gunicorn of *made* once more, without a supervisord, beside it."""
    process = subprocess.Popen(
        command(made, free_port()).split(),
        cwd=made.root / "current",
        env=made.environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        family = psutil.Process(process.pid).children()
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        for each in [*filter(lives, family), *([process] if process.poll() is None else [])]:
            each.kill()
        process.wait(10)


def boot(python: pathlib.Path) -> tuple[float, float]:
    """Return how long v2 takes from its start until its last worker has imported the app,
    under the same load on v1, and how long a supervisorctl takes that asks for nothing much."""
    with house(python) as made:
        prepare(made, WAYS[0])
        before = len(ready(made))
        with Patient(made.port, fast=4, slow=2, pause=0.01) as load:
            load.wait_in_flight()
            began = time.monotonic()
            assert made.ctl("pid", "myapp").returncode == 0
            asked = time.monotonic() - began
            began = time.monotonic()
            with alone(made):
                wait_until(lambda: len(ready(made)) == before + WORKERS, what="it is ready")
        return max(event.at for event in events(made)) - began, asked


def median(values: list[float]) -> float:
    return statistics.median(values)


HEADER = ("", "dropped", "without", "during", "total", "drain", "overhead")


def row(way: Way, rounds: list[Round], booted: float) -> tuple[str, ...]:
    """Return the row of *way*: what was dropped in all rounds, and the medians of the rest."""
    fast, slow = sum(r.fast for r in rounds), sum(r.slow for r in rounds)
    return (
        way.name,
        f"{fast} + {slow}" if fast or slow else "0",
        f"{median([r.quiet for r in rounds]) * 1000:.0f} ms",
        f"{median([r.longest for r in rounds]) * 1000:,.0f} ms",
        f"{median([r.total for r in rounds]):.2f} s",
        f"{median([r.drain for r in rounds]):.2f} s",
        f"{median([r.total - r.drain - booted for r in rounds]):+.2f} s",
    )


def report(
    python: pathlib.Path, count: int, rows: list[tuple[str, ...]], booted: float, asked: float
) -> str:
    """Return the page as reStructuredText."""
    versions = ", ".join(
        f"{name} {tables.version(python, name)}"
        for name in ("gunicorn", "supervisor", "rainbow-saddle")
    )
    return f"""\
The bench
=========

*For engineers: how were the figures of the comparison measured?*

``make bench``: one gunicorn of {WORKERS} sync workers whose app imports for {BOOT:g} s, 4 fast
clients and 2 slow ones (1 s requests, always in flight), and a ``current`` symlink that moves
from v1 to v2. {count} rounds; each round runs every way once, one after the other.

*dropped*: requests without a complete 200 in all rounds, fast + slow ones. The rest are medians.
*without*, *during*: the longest wait of a fast client without and during the reload. *total*:
from the start of supervisorctl until v2 answers and every old process is gone. *drain*: from the
first TERM to an old process until every one of them is gone. *overhead* = total - (boot + drain),
with boot = {booted:.2f} s: the same gunicorn started alone beside the loaded one, until its last
worker has imported the app. Where boot and drain overlap, it is negative. A supervisorctl that
asks for nothing but a pid takes {asked:.2f} s of it.

{tables.machine()}; {versions}.

{tables.simple_table(HEADER, rows)}
"""


def environment() -> pathlib.Path:
    """Return the interpreter of the one environment for all: rainbow-saddle needs psutil alone."""
    wanted = ["gunicorn", "supervisor", "rainbow-saddle"]
    return tables.environment("bench", pathlib.Path(sys.executable), wanted, tables.wheel())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="the ways whose name contains this")
    parser.add_argument("--write", type=pathlib.Path, help="put the page into this file as well")
    chosen = parser.parse_args()
    python = environment()
    ways = [way for way in WAYS if chosen.only in way.name]
    rounds: dict[Way, list[Round]] = {way: [] for way in ways}
    boots: list[float] = []
    asks: list[float] = []
    for _ in range(chosen.rounds):
        for values, value in zip((boots, asks), boot(python)):
            values.append(value)
        print(f"boot {boots[-1]:.2f} s, supervisorctl {asks[-1]:.2f} s", flush=True)
        for way in ways:
            rounds[way].append(run(way, python))
            print(f"{way.name}: {rounds[way][-1]}", flush=True)
    booted = median(boots)
    rows = [row(way, rounds[way], booted) for way in ways]
    text = report(python, chosen.rounds, rows, booted, median(asks))
    print(text)
    if chosen.write:
        chosen.write.write_text(text)
    return int(any(r.fast or r.slow for way in ways if way.plugin for r in rounds[way]))


if __name__ == "__main__":
    sys.exit(main())
