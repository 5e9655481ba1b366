"""Commands of servers other than gunicorn, for a House."""

from __future__ import annotations

import pathlib
import shutil
import sys

from tests.house import House, wait_until
from tests.load import Address, wait_for_answer

BIN = pathlib.Path(sys.executable).parent


def program(name: str, package: str) -> str:
    """Return the path of a server.

    :raises AssertionError: with what to install.
    """
    beside = BIN / name
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"{name} is missing, install it with: {package}"
    return found


def uwsgi(house: House, *arguments: str, workers: int = 2) -> str:
    """Return the command of a uWSGI that serves ``current``."""
    binary = program("uwsgi", "pip install uwsgi")
    words = " ".join(arguments)
    return (
        f"{binary} --master --http-socket 127.0.0.1:{house.port} --processes {workers} "
        f"--chdir {house.root}/current --module app:app {words}"
    ).strip()


def start(house: House, address: Address, children: int) -> None:
    """Start supervisord and wait until the program answers and is complete.

    :param children: how many processes it is to have beside its master.
    """
    house.start()
    wait_for_answer(address)
    wait_until(lambda: len(house.family()) > children, what=lambda: house.story("lacks workers"))
