from __future__ import annotations

import compileall
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from gunicorn.config import KNOWN_SETTINGS

from tests.house import House
from tests.wrapped import Wrapped

ROOT = pathlib.Path(__file__).parent.parent

failed = pytest.StashKey[bool]()


FRUGAL = (
    {"GUNICORN_CMD_ARGS": "--no-control-socket"}
    if any(setting.name == "control_socket_disable" for setting in KNOWN_SETTINGS)
    else {}
)
"""A third of the start of a gunicorn is its control socket; tests/test_reload.py has it."""


def pytest_configure(config: pytest.Config) -> None:
    """Compile the package once: hundreds of processes import it, and none of them writes."""
    if not hasattr(config, "workerinput"):  # not in each worker of xdist
        compileall.compile_dir(ROOT / "supervisor_hotreload", quiet=2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: Any) -> Any:
    report = yield
    item.stash[failed] = item.stash.get(failed, False) or report.failed
    return report


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
