"""hotreload-demo, run for real: what it shows, what it answers, and that it leaves nothing."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import signal
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import psutil
import pytest

from tests.harness.house import BIN
from tests.harness.waiting import wait_until


class Demo:
    """A hotreload-demo in a temporary directory and a session of its own.

    :param tmp: what is its TMPDIR, so that whatever it leaves is seen.
    """

    def __init__(self, tmp: pathlib.Path, *arguments: str, **environment: str) -> None:
        self.tmp = tmp
        self.output = tmp.parent / "output"
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(
                [str(BIN / "hotreload-demo"), *arguments],
                env={**os.environ, "TMPDIR": str(tmp), **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=tmp.parent,
            )

    @property
    def text(self) -> str:
        return self.output.read_text()

    def shows(self, text: str) -> None:
        """Wait until it shows *text*."""

        def shown() -> bool:
            assert text in self.text or self.process.poll() is None, self.text
            return text in self.text

        wait_until(shown, 60, f"{text!r} in {self.text}")

    def left(self) -> list[psutil.Process]:
        """Return the processes that work in its directories."""
        return [process for process in psutil.process_iter() if self._owns(process)]

    def _owns(self, process: psutil.Process) -> bool:
        try:
            return process.cwd().startswith(str(self.tmp)) or str(self.tmp) in " ".join(
                process.cmdline()
            )
        except (psutil.Error, OSError):
            return False

    def leaves_nothing(self) -> None:
        assert self.left() == []
        assert list(self.tmp.iterdir()) == []


@pytest.fixture
def tmp() -> Iterator[pathlib.Path]:
    """An empty directory; whatever still works in it at the end is killed."""
    root = pathlib.Path(tempfile.mkdtemp(prefix="hrd-"))
    inside = root / "t"
    inside.mkdir()
    try:
        yield inside
    finally:
        for process in psutil.process_iter(["cwd"]):
            if (process.info["cwd"] or "").startswith(str(inside)):
                process.kill()
        shutil.rmtree(root)


@pytest.fixture
def started(tmp: pathlib.Path) -> Iterator[list[Demo]]:
    """A list to put demos in, which end with the test."""
    demos: list[Demo] = []
    yield demos
    for demo in demos:
        if demo.process.poll() is None:
            demo.process.terminate()
        demo.process.wait(60)


def numbers(pattern: str, text: str) -> list[int]:
    found = re.search(pattern, text)
    assert found is not None, f"{pattern!r} not in {text}"
    return [int(number.replace(",", "")) for number in found.groups()]


@pytest.mark.long
def test_it_shows_a_reload_that_drops_nothing(tmp: pathlib.Path, started: list[Demo]) -> None:
    demo = Demo(tmp, GUNICORN_CMD_ARGS="--workers=0")  # what is set outside does not matter
    started.append(demo)
    assert demo.process.wait(180) == 0, demo.text
    dropped, total = numbers(r"dropped +(\d+) of ([\d,]+) requests", demo.text)
    assert dropped == 0
    assert total > 100
    old, new, parent = numbers(
        r"master +pid (\d+) -> (\d+), its parent is supervisord \((\d+)\)", demo.text
    )
    assert len({old, new, parent}) == 3
    for phase in ("spawning", "booting", "adopted", "draining", "promoting", "succeeded"):
        assert f"  {phase}" in demo.text
    rows = re.findall(r"^ +[+-]\d+ +(\d+) +(\d+)  [12]+$", demo.text, re.MULTILINE)
    assert int(rows[0][0]) > 0
    assert int(rows[0][1]) == 0
    assert int(rows[-1][0]) == 0
    assert int(rows[-1][1]) > 0
    assert all(int(one) + int(two) > 0 for one, two in rows)
    statuses = re.findall(r"^myapp +RUNNING +pid (\d+), uptime", demo.text, re.MULTILINE)
    assert statuses == [str(old), str(new)]
    demo.leaves_nothing()


def test_a_release_that_cannot_be_imported_changes_nothing(
    tmp: pathlib.Path, started: list[Demo]
) -> None:
    demo = Demo(tmp, "--broken")
    started.append(demo)
    assert demo.process.wait(180) == 1, demo.text
    assert "myapp: ERROR" in demo.text
    assert "ModuleNotFoundError: No module named 'a_module_that_is_not_installed'" in demo.text
    assert "the reload failed; v1 serves" in demo.text
    assert numbers(r"dropped +(\d+) of", demo.text) == [0]
    old, new = numbers(r"master +pid (\d+) -> (\d+)", demo.text)
    assert old == new
    demo.leaves_nothing()


@pytest.mark.parametrize("moment", ["(removed at the end)", "fast requests", "0/4 workers ready"])
def test_ctrl_c_leaves_nothing(tmp: pathlib.Path, started: list[Demo], moment: str) -> None:
    demo = Demo(tmp)
    started.append(demo)
    demo.shows(moment)
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(30) == 128 + signal.SIGINT, demo.text
    assert "interrupted (SIGINT)" in demo.text
    assert "Traceback" not in demo.text
    demo.leaves_nothing()


def test_ctrl_c_again_and_again_leaves_nothing(tmp: pathlib.Path, started: list[Demo]) -> None:
    demo = Demo(tmp)
    started.append(demo)
    demo.shows("fast requests")

    def ended() -> bool:
        demo.process.send_signal(signal.SIGINT)
        return demo.process.poll() is not None

    wait_until(ended, 60, "it ends")
    # one that comes when the interpreter has given its handlers up ends it as a signal does
    assert demo.process.returncode in (128 + signal.SIGINT, -signal.SIGINT), demo.text
    demo.leaves_nothing()


def test_processes_end_when_it_is_killed(tmp: pathlib.Path, started: list[Demo]) -> None:
    demo = Demo(tmp)
    started.append(demo)
    demo.shows("0/4 workers ready")
    assert len(demo.left()) > 5
    demo.process.kill()
    demo.process.wait(10)
    wait_until(lambda: not demo.left(), 60, "supervisord and both generations end")


def test_a_request_that_is_dropped_fails_it(tmp: pathlib.Path, started: list[Demo]) -> None:
    demo = Demo(tmp)
    started.append(demo)
    demo.shows("fast requests")
    masters = [p for p in demo.left() if "gunicorn" in " ".join(p.cmdline()) and p.children()]
    (master,) = masters
    for worker in master.children():
        worker.kill()
    assert demo.process.wait(180) == 1, demo.text
    (dropped,) = numbers(r"dropped +([\d,]+) of", demo.text)
    assert dropped > 0
    assert f"{dropped} requests were dropped" in demo.text
    demo.leaves_nothing()


def test_without_gunicorn_it_says_what_to_install(tmp: pathlib.Path) -> None:
    python = tmp / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp / "venv"], check=True)
    packages = next((tmp / "venv").glob("lib/python*/site-packages"))
    source = pathlib.Path(__file__).resolve().parent.parent
    paths = [str(source), *site.getsitepackages()]
    (packages / "here.pth").write_text("\n".join(paths))
    for tool in ("supervisord", "supervisorctl"):
        (python.parent / tool).symlink_to(BIN / tool)
    done = subprocess.run(
        [python, "-m", "supervisor_hotreload.demo"],
        env={"PATH": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert "needs gunicorn" in done.stderr
    assert "pip install 'supervisor_hotreload[demo]'" in done.stderr
    assert "Traceback" not in done.stderr
