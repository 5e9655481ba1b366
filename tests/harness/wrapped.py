"""A real hotreload-run in a temporary directory."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
from typing import Any, Optional, Union

import psutil

from tests.harness.house import BIN, House
from tests.harness.load import Address, get
from tests.harness.processes import lives
from tests.harness.waiting import wait_until

RUN = BIN / "hotreload-run"

OWN_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (hotreload(?:-run)?: .*)")

ASGI = """\
import asyncio, os, time
time.sleep({boot})
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    path = scope["path"]
    if path.startswith("/slow"):
        await asyncio.sleep(float(path[5:] or 1))
    body = f"{release} {{os.getpid()}} {{os.getppid()}}".encode()
    length = str(len(body)).encode()
    await send({{"type": "http.response.start", "status": 200,
                "headers": [(b"content-length", length)]}})
    await send({{"type": "http.response.body", "body": body}})
"""


PREFORK = """\
import os, select, signal, socket, sys, time
path, stopping = sys.argv[1], []
sys.path.insert(0, "")
import app
if os.path.exists(path):
    os.unlink(path)
server = socket.socket(socket.AF_UNIX)
server.bind(path)
server.listen(100)
server.setblocking(False)
signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))

def serve():
    while not stopping:
        if not select.select([server], [], [], 0.05)[0]:
            continue
        try:
            client, _ = server.accept()
        except BlockingIOError:
            continue
        client.setblocking(True)
        target = client.recv(65536).split()[1].decode()
        body = b"".join(app.app({"PATH_INFO": target}, lambda *_: None))
        client.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n" + body)
        client.close()

workers = []
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        serve()
        os._exit(0)
    workers.append(pid)
while not stopping:
    time.sleep(0.05)
for pid in workers:
    os.kill(pid, signal.SIGTERM)
for pid in workers:
    os.waitpid(pid, 0)
os.unlink(path)
"""
"""A server that binds the path of its socket anew and whose master unlinks it at its end."""


class Wrapped(House):
    """One hotreload-run with its server; the application is the house's."""

    def asgi(self, name: str, boot: float = 0.0) -> None:
        """Write an ASGI release *name* and let ``current`` point to it."""
        self.release(name, code=ASGI.format(boot=boot, release=name))

    @property
    def folder(self) -> pathlib.Path:
        return self.root / "current"

    @property
    def socket(self) -> pathlib.Path:
        return self.root / "app.sock"

    def begin(
        self,
        *words: object,
        program: Optional[list[str]] = None,
        cwd: Optional[pathlib.Path] = None,
        **environment: str,
    ) -> None:
        """Start hotreload-run with *words*: its options and the server's command."""
        cwd = cwd or self.folder
        command = [*(program or [str(RUN)]), *map(str, words)]
        with open(self.root / "console.log", "ab") as console:
            self._process = subprocess.Popen(
                command,
                cwd=cwd,
                env={**self.environment, "PWD": str(cwd), **environment},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )

    def run(
        self, *words: object, answers: str = "v1", at: Optional[Address] = None, **more: Any
    ) -> None:
        """Start hotreload-run and wait until its server answers."""
        self.begin(*words, **more)
        self.wait_for_release(answers, at)

    def wait_for_release(
        self, name: str, at: Optional[Address] = None, timeout: float = 60.0
    ) -> None:
        """Wait until release *name* answers."""

        def answers() -> bool:
            assert self.running, self.console()
            try:
                body = get(self.port if at is None else at, timeout=5)
            except OSError:
                return False
            return body.startswith(f"{name} ".encode())

        wait_until(answers, timeout, f"{name} answers\n{self.console()}")

    def command(self, *arguments: str, bind: Optional[str] = None) -> list[str]:
        """Return the command of a gunicorn that serves the current directory."""
        bind = f"127.0.0.1:{self.port}" if bind is None else bind
        return [str(self.bin / "gunicorn"), "--bind", bind, *(arguments or ("-w1",)), "app:app"]

    def inheriting(self, *arguments: str) -> list[str]:
        """Return the command of a gunicorn that takes the sockets it is given (LISTEN_FDS)."""
        return [str(self.bin / "gunicorn"), *(arguments or ("-w1",)), "app:app"]

    def uvicorn(self, *arguments: object) -> list[str]:
        return [str(self.bin / "uvicorn"), *map(str, arguments), "app:app"]

    @property
    def running(self) -> bool:
        assert self._process is not None
        return self._process.poll() is None

    def send(self, *signals: Union[str, signal.Signals]) -> None:
        for name in signals:
            assert self._process is not None
            self._process.send_signal(getattr(signal, f"SIG{name}"))

    def wait(self, timeout: float = 60.0) -> int:
        """Return the exit status of hotreload-run, negative when killed by a signal."""
        assert self._process is not None
        self.family()
        return self._process.wait(timeout)

    def hup(self, outcome: str = "succeeded") -> None:
        """Ask for a reload and wait until it has ended so."""
        before = len(self.outcomes())
        self.send("HUP")

        def ended() -> bool:
            assert self.running, self.console()
            return len(self.outcomes()) > before

        wait_until(ended, 40, f"a reload has ended\n{self.console()}")
        assert self.outcomes()[-1] == outcome, self.console()

    def outcomes(self) -> list[str]:
        """Return how each reload so far has ended."""
        found = re.compile(r": (succeeded|failed|rolled back) (?:in|while) ")
        return [match[1] for line in self.lines() if (match := found.search(line))]

    @property
    def alone(self) -> bool:
        """Tell whether every process that was ever seen here has ended."""
        return not any(map(lives, self._pids))

    def successor(self) -> int:
        """Return the pid of the last successor that was reported."""
        found = re.findall(r"booting: the successor \(pid (\d+)\)", self.console())
        return int(found[-1])

    def lines(self) -> list[str]:
        """Return the lines that hotreload-run itself has written, without their timestamps."""
        return [match[1] for line in self.console().splitlines() if (match := OWN_LINE.match(line))]

    def said(self, text: str) -> int:
        return sum(text in line for line in self.lines())

    def servers(self) -> list[psutil.Process]:
        """Return the living children of hotreload-run."""
        self.family()
        return [child for child in psutil.Process(self.pid).children() if lives(child)]

    def status(self) -> Any:
        return json.loads((self.root / "status.json").read_text())

    def memory(self) -> float:
        """Return what is resident of hotreload-run, in MiB."""
        return psutil.Process(self.pid).memory_info().rss / (1 << 20)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def zombies(pid: int) -> list[int]:
    """Return the children of *pid* that have ended and are not reaped."""
    return [child.pid for child in psutil.Process(pid).children() if not lives(child)]


def descriptors(pid: int) -> list[tuple[str, str]]:
    """Return what the standard streams of *pid* are, and their flags."""
    found = []
    for number in range(3):
        info = pathlib.Path(f"/proc/{pid}/fdinfo/{number}").read_text()
        flags = next(line for line in info.splitlines() if line.startswith("flags:"))
        found.append((os.readlink(f"/proc/{pid}/fd/{number}"), flags))
    return found
