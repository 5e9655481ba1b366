"""Real servers for the tests of the fork events: started, observed and ended here."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import Any, Callable, Optional

import psutil

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
DEADLINE = 60.0  # seconds, for anything that a server has to do

RECORDER = """
import json, os
from supervisor_hotreload import forks

EVENTS = (forks.PreFork, forks.PostFork, forks.PostWorkerInit, forks.WorkerExit, forks.PreExec)

def note(what, who="app", **more):
    line = json.dumps(dict(what=what, who=who, pid=os.getpid(), **more)) + "\\n"
    record = os.open(os.environ["RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(record, line.encode())
    os.close(record)

def record_all(who):
    for event_type in EVENTS:
        def received(event, who=who):
            assert event.pid == os.getpid()
            note(type(event).__name__, who, master=event.master_pid, worker=event.worker,
                 container=event.container, late=event.late, objects=sorted(event.objects))
        received.__qualname__ = who + "." + event_type.__name__
        forks.subscribe(event_type, received)
"""

WSGI = """
import recorder
recorder.note("load")
recorder.record_all("app")

def application(environ, start_response):
    recorder.note("request")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"served"]
"""

ASGI = """
import recorder
recorder.note("load")
recorder.record_all("app")

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        recorder.note("lifespan")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    recorder.note("request")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"served"})
"""

CONFIG = """
import sys
sys.path.insert(0, {directory!r})
import recorder
from supervisor_hotreload.forks.gunicorn import install
recorder.record_all("config")
install(globals())
"""


def tool(name: str) -> str:
    """Return the path of the console script *name* of this environment, or say what to install."""
    path = shutil.which(name, path=os.path.dirname(sys.executable))
    assert path, f"{name} is missing: pip install 'supervisor_hotreload[test]'"
    return path


def wait_until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE) -> Any:
    """Poll *condition* until it is true and return its value; fail with *what* at the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=DEADLINE)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Server:
    """One running server: a session of processes, a unix socket, a log, a record of events."""

    def __init__(
        self,
        directory: pathlib.Path,
        arguments: list[str],
        stdin: int = subprocess.DEVNULL,
        **environ: str,
    ) -> None:
        self.directory = directory
        self.socket = str(directory / "web.sock")
        self.record = directory / "record"
        self.logfile = directory / "log"
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SUPERVISOR_", "NOTIFY_", "HOTRELOAD_", "GUNICORN_"))
        }
        with self.logfile.open("ab") as log:
            self.process = subprocess.Popen(
                arguments,
                cwd=directory,
                env={
                    **clean,
                    "HOME": str(directory),  # gunicorn >= 25.1 puts its control socket there
                    "PYTHONPATH": str(REPOSITORY),
                    "RECORD": str(self.record),
                    **environ,
                },
                stdin=stdin,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.pid = self.process.pid

    @property
    def log(self) -> str:
        return self.logfile.read_text(errors="replace")

    def events(self) -> list[dict[str, Any]]:
        """What the recorder wrote, in the order in which it was written."""
        with contextlib.suppress(FileNotFoundError):
            return [json.loads(line) for line in self.record.read_text().splitlines()]
        return []

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """As wait_until, with the server's log in the failure."""
        try:
            return wait_until(condition, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log[-6000:]}") from None

    def wait_for_log(self, text: str) -> None:
        self.wait(lambda: text in self.log, f"{text!r} in the log")

    def get(self, path: str = "/") -> tuple[int, bytes]:
        connection = _UnixConnection(self.socket)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()

    def answers(self, path: str = "/") -> Optional[tuple[int, bytes]]:
        """The answer, or None while the server does not listen yet."""
        try:
            return self.get(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return None

    def wait_for_answer(self, path: str = "/") -> bytes:
        status, body = self.wait(lambda: self.answers(path), f"an answer to {path}")
        assert status == 200, (body, self.log)
        return body  # type: ignore[no-any-return]

    def wait_until_each_has_served(self, workers: int) -> None:
        """Send requests until *workers* processes have recorded one, and sleep again.

        Before its first request a uWSGI worker may not have its signal handlers, and for a moment
        after a request it counts as busy; either way it leaves out uwsgi.atexit.
        """

        def served() -> set[int]:
            return {event["pid"] for event in self.events() if event["what"] == "request"}

        self.wait(
            lambda: self.wait_for_answer() and len(served()) >= workers,
            f"a request served by each of {workers} workers",
        )
        self.wait(
            lambda: {psutil.Process(pid).status() for pid in served()} == {psutil.STATUS_SLEEPING},
            "idle workers",
        )

    def signal(self, number: int, pid: int = 0) -> None:
        os.kill(pid or self.pid, number)

    def children(self, pid: int = 0) -> list[int]:
        """The living children of *pid* (the first master if 0), zombies left out."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return sorted(
                child.pid
                for child in psutil.Process(pid or self.pid).children()
                if alive(child.pid)
            )
        return []

    def wait_for_exit(self) -> int:
        try:
            return self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.pid} does not exit\n{self.log[-6000:]}") from None

    def end(self) -> None:
        """End every process of the server's session, each by its pid."""
        deadline = time.monotonic() + DEADLINE
        while members := [pid for pid in psutil.pids() if _session(pid) == self.pid]:
            for pid in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.1)
            assert time.monotonic() < deadline, f"cannot end {members}"
        self.process.wait(DEADLINE)


def alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE  # type: ignore[no-any-return]
    return False


def _session(pid: int) -> Optional[int]:
    try:
        return os.getsid(pid) if alive(pid) else None
    except ProcessLookupError:
        return None


class Notifications:
    """The receiving end of NOTIFY_SOCKET: the datagrams of workers, as dictionaries."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def next_worker(self) -> dict[str, str]:
        """The next datagram of a worker (the arbiter sends one of its own)."""
        deadline = time.monotonic() + DEADLINE
        while True:
            self.socket.settimeout(max(0.01, deadline - time.monotonic()))
            text = self.socket.recv(4096).decode()
            fields = dict(line.split("=", 1) for line in text.splitlines())
            if "X_HOTRELOAD_WORKER" in fields:
                return fields

    def nothing_more(self) -> bool:
        self.socket.setblocking(False)
        try:
            return not self.socket.recv(4096)
        except BlockingIOError:
            return True

    def close(self) -> None:
        self.socket.close()


def write(directory: pathlib.Path, **files: str) -> None:
    """Write modules into *directory*, by name without '.py'."""
    for name, text in files.items():
        (directory / f"{name}.py").write_text(text)


def write_recorder(directory: pathlib.Path, config: str = CONFIG) -> None:
    """Write the recording apps `app` and `asgi`, and gunicorn's `conf.py`."""
    config = config.replace("{directory!r}", repr(str(directory)))
    write(directory, recorder=RECORDER, app=WSGI, asgi=ASGI, conf=config)


def gunicorn(directory: pathlib.Path, *options: str, app: str = "app") -> list[str]:
    """The command of a gunicorn on web.sock, with conf.py where there is one."""
    config = ["-c", "conf.py"] if (directory / "conf.py").exists() else []
    bind = ["--bind", f"unix:{directory / 'web.sock'}"]
    return [tool("gunicorn"), *config, *bind, *options, f"{app}:application"]


def uwsgi(directory: pathlib.Path, *options: str) -> list[str]:
    """The command of a uWSGI on web.sock, serving app.py."""
    return [
        tool("uwsgi"),
        "--http-socket",
        str(directory / "web.sock"),
        "--virtualenv",
        sys.prefix,
        "--die-on-term",
        "--enable-threads",
        *(["--module", "app"] if "--paste" not in options else []),
        *options,
    ]
