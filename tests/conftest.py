from __future__ import annotations

import compileall
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from gunicorn.config import KNOWN_SETTINGS

from tests.harness.house import House
from tests.harness.missing import PREFIX, Missing
from tests.harness.slow import mark_slow
from tests.harness.wrapped import Wrapped

ROOT = pathlib.Path(__file__).parent.parent

CI = os.environ.get("CI", "") not in ("", "false")

failed = pytest.StashKey[bool]()


COLLECTED = ROOT / ".pytest_cache" / "collected"
"""When pytest has last compiled the tests, which takes a worker as long as fifty tests."""

FRUGAL = (
    {"GUNICORN_CMD_ARGS": "--no-control-socket"}
    if any(setting.name == "control_socket_disable" for setting in KNOWN_SETTINGS)
    else {}
)
"""A third of the start of a gunicorn is its control socket; tests/test_reload.py has it."""


def pytest_configure(config: pytest.Config) -> None:
    """Compile everything once: hundreds of processes import it, and none of them writes."""
    sys.dont_write_bytecode = False  # of this process alone: what pytest makes of the tests
    if hasattr(config, "workerinput"):  # a worker of xdist
        return
    compileall.compile_dir(ROOT / "supervisor_hotreload", quiet=2)
    changed = max(path.stat().st_mtime for path in ROOT.glob("tests/**/*.py"))
    if config.getoption("numprocesses", None) and not _is_newer(COLLECTED, changed):
        command = [sys.executable, "-m", "pytest", "--collect-only", "-qq", str(ROOT / "tests")]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=False, cwd=ROOT)
        COLLECTED.parent.mkdir(exist_ok=True)
        COLLECTED.touch()


def _is_newer(path: pathlib.Path, than: float) -> bool:
    return path.exists() and path.stat().st_mtime > than


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_slow(items)
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Any:
    report = yield
    if call.excinfo is not None and call.excinfo.errisinstance(Missing) and not CI:
        report.outcome = "skipped"  # under CI it is a failure
        report.longrepr = (str(item.path), item.location[1], str(call.excinfo.value))
    item.stash[failed] = item.stash.get(failed, False) or report.failed
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Name the programs that were missing, and how many tests have needed each."""
    reasons = (report.longrepr[2] for report in terminalreporter.stats.get("skipped", ()))
    missing = Counter(reason[len(PREFIX) :] for reason in reasons if reason.startswith(PREFIX))
    for program, tests in sorted(missing.items()):
        terminalreporter.write_line(f"{tests} tests were skipped without {program}", yellow=True)


@pytest.fixture
def house(request: Any) -> Iterator[House]:
    """A house whose supervisord is ended, with all it started, whatever happens."""
    root = pathlib.Path(tempfile.mkdtemp(prefix="hr-"))  # unix sockets need short paths
    root.chmod(0o755)
    made = House(root)
    made.environment.update(FRUGAL)
    try:
        yield made
    finally:
        if request.node.stash.get(failed, False):
            print(made.story("what supervisord and the program logged:"))
        made.end()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def wrapped() -> Iterator[Wrapped]:
    """A hotreload-run that is ended, with all it started, whatever happens."""
    root = pathlib.Path(tempfile.mkdtemp(prefix="hr-"))
    root.chmod(0o755)
    made = Wrapped(root)
    made.environment.update(FRUGAL)
    try:
        yield made
    finally:
        made.end()
        shutil.rmtree(root, ignore_errors=True)
