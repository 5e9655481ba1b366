"""Load on 127.0.0.1, bounded, that counts every request: complete 200 or dropped."""

from __future__ import annotations

import http.client
import pathlib
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Union

Address = Union[int, pathlib.Path]

LIMIT = 120.0
"""Seconds after which a client stops by itself."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, address: Address, timeout: float) -> None:
        super().__init__("127.0.0.1", address if isinstance(address, int) else 80, timeout=timeout)
        self._address = address

    def connect(self) -> None:
        if isinstance(self._address, int):
            super().connect()
        else:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            self.sock.connect(str(self._address))


def get(address: Address, path: str = "/", timeout: float = 60.0) -> bytes:
    """Return the body of a complete 200 answer.

    :raises OSError, http.client.HTTPException: when it is not one.
    """
    connection = _Connection(address, timeout)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise http.client.HTTPException(f"{answer.status} {body[:80]!r}")
        return body
    finally:
        connection.close()


def wait_for_answer(address: Address, timeout: float = 60.0) -> bytes:
    """Return the first complete answer; RUNNING comes before the program listens."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return get(address)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@dataclass
class Load:
    """Closed-loop clients: fast ones, and slow ones that are always in flight.

    :param address: a port of 127.0.0.1 or the path of a unix socket.
    :param slow_path: of the slow ones; the number is how many seconds an answer takes.
    :param pause: seconds between two requests of one fast client.
    :ivar longest: seconds that a fast client has waited at most.
    :ivar stalled: seconds that a sleep here was too long at most: so busy the machine was.
    """

    address: Address
    fast: int = 3
    slow: int = 2
    slow_path: str = "/slow0.5"
    pause: float = 0.005
    answered: int = 0
    in_flight: int = 0
    longest: float = 0.0
    stalled: float = 0.0
    releases: Counter[str] = field(default_factory=Counter)
    dropped: list[str] = field(default_factory=list)
    timeline: list[tuple[float, str]] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Load:
        wait_for_answer(self.address)
        jobs = [("/", self.pause)] * self.fast + [(self.slow_path, 0.0)] * self.slow
        for path, pause in jobs:
            thread = threading.Thread(target=self._client, args=(path, pause), daemon=True)
            thread.start()
            self._threads.append(thread)
        clock = threading.Thread(target=self._clock, daemon=True)
        clock.start()
        self._threads.append(clock)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(90)

    @property
    def patient(self) -> float:
        """The longest wait of a fast client, without what a busy machine may have added to it.

        The client, the master and a worker each may have had to wait for a core.
        """
        return self.longest - 5 * self.stalled

    def forget_longest(self) -> float:
        """Return the longest wait of a fast client so far and begin anew."""
        with self._lock:
            longest, self.longest = self.longest, 0.0
        return longest

    def wait_in_flight(self) -> None:
        """Wait until slow requests are in flight."""
        deadline = time.monotonic() + 60
        while self.in_flight < self.slow:
            assert time.monotonic() < deadline, "slow requests do not get through"
            time.sleep(0.01)

    def wait_for(self, release: str) -> None:
        """Wait until *release* answers a request sent from now on."""
        before = self.releases[release]
        deadline = time.monotonic() + 60
        while self.releases[release] <= before:
            assert time.monotonic() < deadline, f"{release} does not answer: {self.releases}"
            time.sleep(0.01)

    def _clock(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            self._over.wait(0.01)
            self.stalled = max(self.stalled, time.monotonic() - began - 0.01)

    def _client(self, path: str, pause: float) -> None:
        deadline = time.monotonic() + LIMIT
        while not self._over.is_set() and time.monotonic() < deadline:
            began = time.monotonic()
            slow = path != "/"
            with self._lock:
                self.in_flight += slow
            try:
                body = get(self.address, path)
            except (OSError, http.client.HTTPException) as error:
                with self._lock:
                    self.dropped.append(f"{path}: {type(error).__name__}: {error}")
            else:
                with self._lock:
                    self.answered += 1
                    release = body.split()[0].decode()
                    self.releases[release] += 1
                    self.timeline.append((time.monotonic(), release))
                    if not slow:
                        self.longest = max(self.longest, time.monotonic() - began)
            finally:
                with self._lock:
                    self.in_flight -= slow
            if pause:
                self._over.wait(pause)
