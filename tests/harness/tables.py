"""Virtual environments and tables, for ``make matrix`` and ``make bench``."""

from __future__ import annotations

import os
import pathlib
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata

REPO = pathlib.Path(__file__).resolve().parents[2]
VENVS = REPO / ".venvs"
WHEELS = VENVS / "wheels"


class CannotInstall(Exception):
    """pip found no set of versions; the text is its reason."""


def wheel() -> pathlib.Path:
    """Build the product once and return its wheel: what users install is what is measured."""
    for stale in (WHEELS, REPO / "build"):
        shutil.rmtree(stale, ignore_errors=True)
    _pip(pathlib.Path(sys.executable), "wheel", "--no-deps", "--wheel-dir", str(WHEELS), str(REPO))
    return next(WHEELS.glob("supervisor_hotreload-*.whl"))


def environment(
    name: str, python: pathlib.Path, requirements: Sequence[str], product: pathlib.Path
) -> pathlib.Path:
    """Make the virtual environment *name*, or bring it up to date; return its interpreter.

    :param python: the interpreter that it is made from.
    :param product: the wheel of the product, installed anew every time.
    :raises CannotInstall: when pip cannot.
    """
    folder = VENVS / name
    stamp = folder / "requirements.txt"
    inside = folder / "bin" / "python"
    wanted = "\n".join(sorted(requirements))
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([python, "-m", "venv", folder], check=True, env=_outside())
        _pip(inside, "install", "--only-binary=gevent,greenlet", *requirements, "psutil>=5.9")
        stamp.write_text(wanted)
    _pip(inside, "install", "--no-deps", "--force-reinstall", str(product))
    return inside


def version(python: pathlib.Path, package: str) -> str:
    """Return the version of *package* that *python* has."""
    code = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"
    command = [str(python), "-c", code, package]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def machine() -> str:
    """Return one line that tells where a table comes from."""
    return (
        f"{platform.system()} {platform.release()}, {os.cpu_count()} cores, "
        f"supervisor_hotreload {metadata.version('supervisor_hotreload')}"
    )


def widths(rows: Iterable[Sequence[str]]) -> list[int]:
    """Return how wide each column has to be."""
    return [max(map(len, column)) for column in zip(*rows)]


def line(row: Sequence[str], wide: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, wide)).rstrip()


def put(path: pathlib.Path, name: str, text: str) -> None:
    """Replace what stands between the comments '.. NAME' and '.. end of NAME' in *path*."""
    before, begin, rest = path.read_text().partition(f".. {name}\n")
    _, end, after = rest.partition(f".. end of {name}\n")
    assert begin and end, f"{path} has no marks for {name}"
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def simple_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a simple table of reStructuredText, which reads well on a terminal too."""
    wide = widths([header, *rows])
    rule = "  ".join("=" * width for width in wide)
    return "\n".join([rule, line(header, wide), rule, *(line(row, wide) for row in rows), rule])


def _pip(python: pathlib.Path, *words: str) -> None:
    command = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=_outside(), check=False)
    if done.returncode != 0:
        errors = [text for text in done.stderr.splitlines() if text.startswith("ERROR")]
        raise CannotInstall("; ".join(errors[-2:]) or done.stderr[-500:])


def _outside() -> dict[str, str]:
    """Return the environment without what would tie a new interpreter to this one."""
    tied = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
    return {name: value for name, value in os.environ.items() if name not in tied}
