"""A house with the event listener, for the tests of unattended reloads."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any, Callable

import psutil

from tests.harness.house import House
from tests.harness.load import Address, get
from tests.harness.waiting import wait_until

EVENTS = "PROCESS_STATE,PROCESS_COMMUNICATION,REMOTE_COMMUNICATION,TICK_5"

LISTENER = pathlib.Path(sys.executable).parent / "hotreload-listener"

QUICK = "min_interval = 0.1\nsettle = 0.2\n"


def answers(address: Address) -> bool:
    """Tell whether a server answers there; then it also knows its directory."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return bool(get(address))
    return False


class Listening:
    """One listener in a house.

    :param house: not started yet.
    """

    def __init__(self, house: House) -> None:
        self.house = house
        self._since = 0

    def section(self, events: str = EVENTS, more: str = "", options: str = "") -> str:
        return (
            f"[eventlistener:hotreload]\ncommand = {LISTENER} {options}\nevents = {events}\n"
            f"stderr_logfile = %(here)s/listener.log\n{more}\n"
        )

    def app(self, name: str, settings: str, program: str = "") -> str:
        """Return the sections of one more gunicorn, on a unix socket."""
        command = self.house.gunicorn("--workers 1", bind=f"unix:%(here)s/{name}.sock")
        return (
            f"[program:{name}]\ncommand = {command}\ndirectory = %(here)s/current\n"
            f"stdout_logfile = %(here)s/{name}.log\nredirect_stderr = true\n{program}\n"
            f"[hotreload:{name}]\n{QUICK}{settings}\n"
        )

    def start(self, running: str = "myapp") -> None:
        self.house.start(running)
        self.wait_for_listener()

    def wait_for_listener(self) -> None:
        """Wait until the listener has looked at everything once."""
        self.until(self._looked)

    def _looked(self) -> bool:
        with contextlib.suppress(OSError, ValueError, KeyError):
            saved = self.state()
            return self.house.info("hotreload:hotreload")["statename"] == "RUNNING" and all(
                program["seen"] is not None for program in saved["programs"].values()
            )
        return False

    @property
    def path(self) -> pathlib.Path:
        return self.house.root / "supervisord.hotreload.json"

    def state(self) -> Any:
        return json.loads(self.path.read_text())

    @property
    def pid(self) -> int:
        pid: int = self.house.info("hotreload:hotreload")["pid"]
        return pid

    def kill(self) -> None:
        """Kill the listener as the system would; supervisord starts another."""
        os.kill(self.pid, 9)

    def log(self) -> str:
        path = self.house.root / "listener.log"
        return path.read_text() if path.exists() else ""

    def until(self, condition: Callable[[], Any], timeout: float = 60.0) -> Any:
        """Wait until *condition* is truthy; show what happened when it does not get so."""
        try:
            return wait_until(condition, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.story()}\n{self.house.app_log()}") from None

    def story(self) -> str:
        return f"{self.house.log()}\n{self.log()}"

    def reloads(self, name: str = "myapp") -> int:
        """Return how many reloads of *name* have been begun."""
        return self.house.log()[self._since :].count(f"hotreload: {name}: spawning:")

    @contextlib.contextmanager
    def from_now_on(self) -> Iterator[None]:
        """Count only the reloads begun inside: a test may be tried a second time."""
        self._since = len(self.house.log())
        try:
            yield
        finally:
            self._since = 0

    def info(self, name: str = "myapp") -> Any:
        return self.house.rpc().hotreload.getReloadInfo(name)

    def wait_for_reload(self, name: str = "myapp", count: int = 1, timeout: float = 60.0) -> None:
        """Wait until *name* has been reloaded *count* times, and is not any more."""
        self.until(lambda: self.reloads(name) >= count, timeout)
        self.until(lambda: not self.info(name)["active"], timeout)

    def succeeded(self, name: str = "myapp", count: int = 1) -> None:
        """Require that *name* has been reloaded *count* times, the last time well."""
        self.wait_for_reload(name, count)
        assert self.info(name)["outcome"] == "succeeded", self.story()
        assert self.reloads(name) == count, self.story()

    def wait_for_log(self, text: str, timeout: float = 60.0) -> None:
        self.until(lambda: text in self.log(), timeout)

    def process(self) -> psutil.Process:
        return psutil.Process(self.pid)
