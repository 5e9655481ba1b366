"""``make matrix``: reloads under load over versions of everything, every pair at least once.

    python -m tests.matrix [--only TEXT] [--list] [--write FILE]

``--only`` runs the cells whose name contains TEXT, ``--list`` tells the cells,
``--write`` puts the table into a file as well. The exit status is 0 when no
cell that can be drop-free has dropped a request.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.client
import itertools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Optional

from tests.harness import tables
from tests.harness.house import House
from tests.harness.load import Load, get
from tests.harness.waiting import wait_until

PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13")
SUPERVISORS = ("4.2.5", "4.3.0")
GUNICORNS = ("20.1.0", "21.2.0", "22.0.0", "23.0.0", "25.3.0", "newest")
WORKERS = ("sync", "gthread", "gevent", "uvicorn", "asgi")
PRELOAD = ("", "preload")

ARGUMENTS = {
    "sync": "--worker-class sync",
    "gthread": "--worker-class gthread --threads 4",
    "gevent": "--worker-class gevent",
    "uvicorn": "--worker-class uvicorn_worker.UvicornWorker",
    "asgi": "--worker-class asgi",
}
PACKAGES = {"gevent": ["gevent"], "uvicorn": ["uvicorn-worker"]}

QUIET = 3.0
"""Seconds of load without a reload, which tell the longest wait to compare with."""

SETTLE = 1.5
"""Seconds of load before that: the last workers still boot."""

MARGIN = 0.050
"""Seconds by which a fast client may wait longer during a reload."""

GRACE = 10
"""--graceful-timeout: an asgi master stays that long although its requests are done."""

APP = """\
import asyncio, os, time
time.sleep({boot})
def _seconds(path):
    return float(path[5:] or 1) if path.startswith("/slow") else 0
BODY = f"{release} {{os.getpid()}}".encode()
def wsgi(environ, start_response):
    time.sleep(_seconds(environ["PATH_INFO"]))
    start_response("200 OK", [("Content-Length", str(len(BODY)))])
    return [BODY]
async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    await asyncio.sleep(_seconds(scope["path"]))
    headers = [(b"content-length", str(len(BODY)).encode())]
    await send({{"type": "http.response.start", "status": 200, "headers": headers}})
    await send({{"type": "http.response.body", "body": BODY}})
app = {kind}
"""


@dataclass(frozen=True, order=True)
class Cell:
    """One combination of everything."""

    python: str
    supervisor: str
    gunicorn: str
    worker: str
    preload: str

    def __str__(self) -> str:
        preload = f"-{self.preload}" if self.preload else ""
        return f"py{self.python}-sup{self.supervisor}-gun{self.gunicorn}-{self.worker}{preload}"

    @property
    def venv(self) -> str:
        return f"py{self.python}-sup{self.supervisor}-gun{self.gunicorn}"


@dataclass(frozen=True)
class Result:
    """What a cell has shown.

    :param quiet: the longest wait of a fast client without a reload, in seconds.
    :param longest: that during the reloads.
    :param seconds: how long the slower reload took.
    """

    dropped: int
    answered: int
    quiet: float
    longest: float
    seconds: float
    complaint: str = ""


def impossible(cell: Cell) -> Optional[str]:
    """Return why *cell* cannot exist."""
    if cell.worker == "asgi" and cell.gunicorn in GUNICORNS[:4]:
        return "the asgi worker came with gunicorn 25"
    if cell.python == "3.9" and cell.gunicorn in GUNICORNS[4:]:
        return "gunicorn newer than 23.0.0 needs Python 3.10"
    return None


def leaky(cell: Cell) -> Optional[str]:
    """Return why *cell* cannot be drop-free, whoever reloads it."""
    if cell.worker == "uvicorn":
        return "uvicorn closes what it has accepted but not read yet when it is told to end"
    if cell.worker == "gthread" and cell.gunicorn in ("21.2.0", "22.0.0", "23.0.0"):
        return "gthread of gunicorn 21.2 to 23 resets connections after TERM"
    return None


def pairwise(pythons: list[str]) -> list[Cell]:
    """Return cells so that every possible pair of two values is in one of them."""
    product = itertools.product(pythons, SUPERVISORS, GUNICORNS, WORKERS, PRELOAD)
    possible = [cell for cell in itertools.starmap(Cell, product) if not impossible(cell)]
    missing = set().union(*map(_pairs, possible))
    chosen: list[Cell] = []
    used: Counter[tuple[str, str]] = Counter()

    def worth(cell: Cell) -> tuple[int, int]:
        """Most new pairs first; of those the values that are rarest so far."""
        return len(_pairs(cell) & missing), -sum(used[item] for item in vars(cell).items())

    while missing:
        best = max(possible, key=worth)
        chosen.append(best)
        used.update(vars(best).items())
        missing -= _pairs(best)
    return sorted(chosen, key=_position)


def _pairs(cell: Cell) -> set[tuple[tuple[str, str], ...]]:
    return set(itertools.combinations(vars(cell).items(), 2))


def _position(cell: Cell) -> tuple[int, ...]:
    axes = (PYTHONS, SUPERVISORS, GUNICORNS, WORKERS, PRELOAD)
    return tuple(axis.index(value) for axis, value in zip(axes, vars(cell).values()))


def interpreters() -> dict[str, pathlib.Path]:
    """Return the Pythons of this machine: pyenv's first, then those of PATH."""
    found: dict[str, pathlib.Path] = {}
    pyenv = pathlib.Path(os.environ.get("PYENV_ROOT", pathlib.Path.home() / ".pyenv"))
    for version in PYTHONS:
        homes = sorted(pyenv.glob(f"versions/{version}.*/bin/python"))
        on_path = shutil.which(f"python{version}")
        candidates = [*homes, *([pathlib.Path(on_path)] if on_path else [])]
        with contextlib.suppress(StopIteration):
            found[version] = next(path for path in candidates if _runs(path, version))
    return found


def _runs(python: pathlib.Path, version: str) -> bool:
    """Tell whether *python* is what its name says; pyenv's shims may not be."""
    command = [str(python), "-c", "import sys, venv, ensurepip; print(sys.version)"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode == 0 and re.match(rf"{re.escape(version)}\D", done.stdout) is not None


def requirements(cells: list[Cell]) -> list[str]:
    """Return what the one environment of *cells* holds."""
    cell = cells[0]
    workers = {each.worker for each in cells}
    extra = "[gevent]" if "gevent" in workers else ""  # the newest needs more than gevent for it
    pinned = f"gunicorn=={cell.gunicorn}"
    wanted = {
        f"supervisor=={cell.supervisor}",
        f"gunicorn{extra}" if cell.gunicorn == "newest" else pinned,
    }
    for worker in workers:
        wanted.update(PACKAGES.get(worker, []))
    if "uvicorn" in workers and cell.gunicorn == "20.1.0":
        wanted.add("uvicorn<0.36")  # its worker class for gunicorn 20.1 calls what went away then
    if cell.supervisor == "4.2.5" or cell.gunicorn == "20.1.0":
        wanted.add("setuptools<81")  # both import pkg_resources
    return sorted(wanted)


@contextlib.contextmanager
def house(python: pathlib.Path) -> Iterator[House]:
    """A house in a directory of its own, ended and removed whatever happens."""
    root = pathlib.Path(tempfile.mkdtemp(prefix="hr-"))
    made = House(root, python)
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(root, ignore_errors=True)


def answers(port: int) -> bool:
    """Tell whether the program answers: RUNNING is it a second after its start, bound or not."""
    try:
        return bool(get(port))
    except (OSError, http.client.HTTPException):
        return False


def run(cell: Cell, python: pathlib.Path) -> Result:
    """Reload twice under load."""

    def app(release: str) -> str:
        kind = "asgi" if cell.worker in ("uvicorn", "asgi") else "wsgi"
        return APP.format(boot=0.5, release=release, kind=kind)

    preload = f"--{cell.preload}" if cell.preload else ""
    arguments = f"--workers 4 --graceful-timeout {GRACE} {ARGUMENTS[cell.worker]} {preload}"
    with house(python) as made:
        made.release("v1", code=app("v1"))
        made.configure(arguments)
        made.start()
        wait_until(lambda: answers(made.port), 30, f"v1 answers {made.app_log()}")
        complaint, seconds = "", 0.0
        with Load(made.port, slow_path="/slow1", pause=0.002) as load:
            load.wait_in_flight()
            time.sleep(SETTLE)
            load.forget_longest()
            time.sleep(QUIET)
            quiet = load.forget_longest()
            for release in ("v2", "v3"):
                made.release(release, code=app(release))
                began = time.monotonic()
                done = made.ctl("hotreload", "myapp")
                seconds = max(seconds, time.monotonic() - began)
                if done.returncode != 0:
                    print(f"{cell}: {done.stdout}{done.stderr}{made.log()}", file=sys.stderr)
                    complaint = (done.stdout.strip() or "no answer").splitlines()[-1][:60]
                    break
                wait_until(functools.partial(load.releases.get, release), what=f"{release} answers")
            longest = load.longest
        for text, count in Counter(load.dropped).items():
            print(f"{cell}: dropped {count} times {text}", file=sys.stderr)
        return Result(len(load.dropped), load.answered, quiet, longest, seconds, complaint)


def prepare(cells: list[Cell], pythons: dict[str, pathlib.Path]) -> dict[str, object]:
    """Make every environment; return its interpreter or why there is none."""
    product = tables.wheel()
    made: dict[str, object] = {}
    for name, members in itertools.groupby(cells, key=lambda cell: cell.venv):
        group = list(members)
        try:
            made[name] = tables.environment(
                name, pythons[group[0].python], requirements(group), product
            )
        except tables.CannotInstall as error:
            made[name] = str(error)
        print(f"{name}: {made[name]}", file=sys.stderr)
    return made


HEADER = (
    "Python", "supervisor", "gunicorn", "worker", "preload",
    "dropped", "without", "during", "seconds", "remark",
)  # fmt: skip


def row(cell: Cell, gunicorn: str, result: Result) -> tuple[str, ...]:
    remark = result.complaint or (leaky(cell) or "" if result.dropped else "")
    over = result.longest - result.quiet
    if not remark and over > MARGIN:
        remark = f"{over * 1000:.0f} ms above"
    return (
        cell.python, cell.supervisor, gunicorn, cell.worker, "yes" if cell.preload else "no",
        f"{result.dropped} of {result.answered + result.dropped:,}",
        f"{result.quiet * 1000:.0f} ms", f"{result.longest * 1000:.0f} ms",
        f"{result.seconds:.1f}", remark or "-",
    )  # fmt: skip


def measure(
    cells: list[Cell], venvs: dict[str, object]
) -> tuple[list[tuple[str, ...]], list[str], bool]:
    """Run *cells*; return the rows, the cells left out, and whether all is as promised."""
    rows: list[tuple[str, ...]] = []
    left_out: list[str] = []
    good = True
    for cell in cells:
        python = venvs[cell.venv]
        if not isinstance(python, pathlib.Path):
            left_out.append(f"{cell}: {python}")
            continue
        gunicorn = tables.version(python, "gunicorn")
        try:
            result = run(cell, python)
        except AssertionError as error:
            print(f"{cell}: {error}", file=sys.stderr)
            result = Result(0, 0, 0, 0, 0, str(error).strip().splitlines()[0][:60])
        rows.append(row(cell, gunicorn, result))
        good = good and not result.complaint and (not result.dropped or bool(leaky(cell)))
        print("  ".join(rows[-1]), flush=True)
    return rows, left_out, good


def report(rows: list[tuple[str, ...]], left_out: list[str]) -> str:
    """Return the table as reStructuredText."""
    notes = "\n".join(f"* {text}" for text in left_out)
    return f"""\
The matrix
==========

*For engineers: with which versions and worker classes was no request dropped?*

``make matrix`` reloads a program twice in each cell, 4 workers whose app imports for 0.5 s,
while 3 fast clients and 2 slow ones (1 s) send requests without a pause. Every pair of two
values is in at least one cell. *dropped*: requests that were not answered with a complete 200.
*without*, *during*: the longest wait of a fast client without and during a reload.
*seconds*: the slower of the two reloads.

{tables.machine()}.

{tables.simple_table(HEADER, rows)}

Left out
--------

{notes}
"""


def absent(pythons: dict[str, pathlib.Path]) -> list[str]:
    """Return what cannot be in the matrix, one reason each."""
    product = itertools.product(PYTHONS, SUPERVISORS, GUNICORNS, WORKERS, PRELOAD)
    reasons = {impossible(Cell(*values)) for values in product} - {None}
    missing = [f"Python {v} is not on this machine" for v in PYTHONS if v not in pythons]
    return sorted(map(str, reasons)) + missing


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", default="", help="the cells whose name contains this")
    parser.add_argument("--list", action="store_true", help="tell the cells and end")
    parser.add_argument("--prepare", action="store_true", help="make the environments and end")
    parser.add_argument("--write", type=pathlib.Path, help="put the table into this file as well")
    chosen = parser.parse_args()
    pythons = interpreters()
    cells = [cell for cell in pairwise(list(pythons)) if chosen.only in str(cell)]
    if chosen.list:
        print("\n".join(map(str, cells)))
        return 0
    venvs = prepare(cells, pythons)
    if chosen.prepare:
        return 0
    rows, left_out, good = measure(cells, venvs)
    text = report(rows, absent(pythons) + left_out)
    print(text)
    if chosen.write:
        chosen.write.write_text(text)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
