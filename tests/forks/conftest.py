"""Fixtures: servers and notification sockets that are gone after the test, whatever happens."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any, Callable, Optional

import pytest

from tests.harness.forkservers import Notifications, Server

Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Iterator[Start]:
    """Start a server: `start(arguments, NAME="environment")`, in tmp_path or *directory*."""
    with contextlib.ExitStack() as stack:

        def start_server(
            arguments: list[str], directory: Optional[pathlib.Path] = None, **options: Any
        ) -> Server:
            server = Server(directory or tmp_path, arguments, **options)
            stack.callback(server.end)
            return server

        yield start_server


@pytest.fixture
def notifications(tmp_path: pathlib.Path) -> Iterator[Notifications]:
    """A NOTIFY_SOCKET in tmp_path."""
    receiver = Notifications(str(tmp_path / "notify"))
    with contextlib.closing(receiver):
        yield receiver
