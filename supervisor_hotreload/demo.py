"""``hotreload-demo``: a reload before a newcomer's eyes.

A real supervisord and a real gunicorn in a temporary directory, clients that
never pause, a ``current`` symlink that moves from v1 to v2, and the real
``supervisorctl hotreload``. The exit status is 0 when v2 serves and no
request was dropped.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import http.client
import os
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Callable, NoReturn, Optional

import psutil

IMPORT = 2.0
"""Seconds that v2 takes to import."""

BEFORE = 2.0
"""Seconds of load before the reload: what the waits during it are compared with."""

AFTER = 1.0
"""Seconds of load after it."""

PATIENCE = 60.0
"""Seconds after which a step is given up; each takes a few at most."""

LOOK = 0.02
"""Seconds between two looks at something that is waited for."""

FAST, SLOW = 4, 2
"""How many clients send fast requests, and how many have one of 1 s in flight."""

PAUSE = 0.005
"""Seconds between two requests of one fast client: newcomers have one core, too."""

BAR = 40
"""Columns of the longest bar."""

PR_SET_PDEATHSIG = 1

APP = """\
import os, time
{start}
def app(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        time.sleep(1)
    body = b"{release}"
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""

BROKEN = "import a_module_that_is_not_installed"

CONFIG = """\
[unix_http_server]
file = %(here)s/supervisor.sock

[supervisord]
logfile = %(here)s/supervisord.log
pidfile = %(here)s/supervisord.pid
childlogdir = %(here)s

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl = unix://%(here)s/supervisor.sock

[rpcinterface:hotreload]
supervisor.rpcinterface_factory = \
supervisor_hotreload.rpcinterface:make_hotreload_rpcinterface

[ctlplugin:hotreload]
supervisor.ctl_factory = \
supervisor_hotreload.controllerplugin:make_hotreload_controllerplugin

[program:myapp]
command = gunicorn --workers 4 --bind 127.0.0.1:{port} app:app
directory = %(here)s/current
redirect_stderr = true
stdout_logfile = %(here)s/myapp.log
"""


class Trouble(Exception):
    """The demo cannot go on; the text is for a person."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


class Interrupts:
    """Ctrl-C and its like, noticed only where the demo waits: nothing is left half done."""

    def __init__(self) -> None:
        self._by = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                signal.signal(number, self._note)

    def _note(self, number: int, _frame: object) -> None:
        self._by = number

    def check(self) -> None:
        """:raises Trouble: once one of the signals has come."""
        if self._by:
            name = signal.Signals(self._by).name
            raise Trouble(f"\ninterrupted ({name}): everything is ended", 128 + self._by)

    def wait(self, condition: Callable[[], Any], timeout: float, what: Callable[[], str]) -> Any:
        """Poll *condition* until it is truthy and return that.

        :raises Trouble: when it is not after *timeout* seconds; *what* tells it.
        """
        deadline = time.monotonic() + timeout
        while True:
            self.check()
            result = condition()
            if result:
                return result
            if time.monotonic() >= deadline:
                raise Trouble(f"not within {timeout:g} s: {what()}")
            time.sleep(LOOK)

    def pause(self, seconds: float) -> None:
        """Let *seconds* pass."""
        over = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() >= over, seconds + PATIENCE, lambda: "time goes by")


@dataclass(frozen=True)
class Answer:
    """One complete answer.

    :param began: when it was asked for, in monotonic seconds.
    :param waited: seconds until it was complete.
    """

    began: float
    waited: float
    release: str
    slow: bool


def get(port: int, path: str = "/", timeout: float = 20.0) -> str:
    """Return the body of a complete 200 answer.

    :raises OSError, http.client.HTTPException: when it is not one.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Connection": "close"})
        answer = connection.getresponse()
        body = answer.read().decode(errors="replace")
        if answer.status != 200:
            raise http.client.HTTPException(f"{answer.status} {answer.reason}")
        return body


@dataclass(frozen=True)
class Generation:
    """The pids of what serves.

    :param parent: the master's.
    """

    master: int
    parent: int
    workers: str


class Clients:
    """Requests without a pause. Each one is answered, or dropped.

    :param port: of 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        self.answers: list[Answer] = []
        self.dropped: list[str] = []
        self._port = port
        self._over = threading.Event()
        paths = ["/"] * FAST + ["/slow"] * SLOW
        self._threads = [threading.Thread(target=self._ask, args=(p,), daemon=True) for p in paths]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let what is in flight be answered, and send no more."""
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def longest(self, since: float, until: float) -> float:
        """Return the longest wait, in seconds, of a fast request asked for in that time."""
        waits = [a.waited for a in self.answers if not a.slow and since <= a.began < until]
        return max(waits, default=0.0)

    def _ask(self, path: str) -> None:
        slow = path == "/slow"
        while not self._over.is_set():
            began = time.monotonic()
            try:
                release = get(self._port, path)
            except (OSError, http.client.HTTPException) as error:
                self.dropped.append(f"{path}: {type(error).__name__}: {error}")
                self._over.wait(0.1)
            else:
                self.answers.append(Answer(began, time.monotonic() - began, release, slow))
            if not slow:
                self._over.wait(PAUSE)


class Stage:
    """A temporary directory with a supervisord, and all that it starts.

    :param tools: where the commands are.
    """

    def __init__(self, tools: str) -> None:
        self.port = _free_port()
        self.root = _directory()
        self._tools = tools
        self._supervisord: Optional[subprocess.Popen[bytes]] = None

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        """End everything and leave nothing."""
        try:
            if self._supervisord is not None:
                _end(self._supervisord)
        finally:
            shutil.rmtree(self.root, ignore_errors=True)

    def release(self, name: str, start: str = "") -> None:
        """Write release *name*, an app that does *start* when it is imported."""
        folder = self.root / "releases" / name
        folder.mkdir(parents=True)
        (folder / "app.py").write_text(APP.format(start=start, release=name))

    def deploy(self, name: str) -> None:
        """Let ``current`` point to release *name*, at once (``ln -sfn`` is two steps)."""
        link = self.root / "next"
        link.symlink_to(pathlib.Path("releases") / name)
        link.replace(self.root / "current")

    def start(self) -> subprocess.Popen[bytes]:
        """Start supervisord. Its session holds all that it ever starts."""
        (self.root / "supervisord.conf").write_text(CONFIG.format(port=self.port))
        with open(self.root / "console.log", "wb") as console:
            self._supervisord = subprocess.Popen(
                [self._tool("supervisord"), "--nodaemon", "-c", "supervisord.conf"],
                cwd=self.root,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
                preexec_fn=_end_with_parent() if sys.platform.startswith("linux") else None,
            )
        return self._supervisord

    def ctl(self, interrupts: Interrupts, show: Callable[[str], None], *words: str) -> int:
        """Run supervisorctl, *show* its output while it comes, return its exit status.

        :raises Trouble: when it does not end, or is interrupted.
        """
        process = subprocess.Popen(
            [self._tool("supervisorctl"), "-c", "supervisord.conf", *words],
            cwd=self.root,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal is for the demo alone
        )
        assert process.stdout is not None
        output = process.stdout

        def ended() -> bool:
            while select.select([output], [], [], LOOK)[0]:
                text = os.read(output.fileno(), 65536).decode(errors="replace")
                show(text)
                if not text:
                    return True
            return False

        try:
            interrupts.wait(ended, PATIENCE, lambda: f"supervisorctl {' '.join(words)} ends")
            return process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()
            output.close()

    def generation(self, interrupts: Interrupts) -> Generation:
        """Return the master that supervisord tracks, with its workers."""
        text: list[str] = []
        self.ctl(interrupts, text.append, "pid", "myapp")
        try:
            master = psutil.Process(int("".join(text)))
            workers = " ".join(str(worker.pid) for worker in master.children())
            return Generation(master.pid, master.ppid(), workers)
        except (ValueError, psutil.NoSuchProcess):
            raise Trouble(f"supervisorctl pid myapp: {''.join(text)}{self.logs()}") from None

    @property
    def pid(self) -> int:
        """Return supervisord's."""
        assert self._supervisord is not None
        return self._supervisord.pid

    def serves(self) -> str:
        """Return the release that answers, '' when none does."""
        try:
            return get(self.port)
        except (OSError, http.client.HTTPException):
            return ""

    def log(self, name: str = "supervisord.log") -> str:
        """Return what is in a log, '' while there is none."""
        path = self.root / name
        return path.read_text(errors="replace") if path.exists() else ""

    def logs(self) -> str:
        """Return the last lines of each log, for an error message."""
        names = ("console.log", "supervisord.log", "myapp.log")
        lines = [f"{name}: {line}" for name in names for line in self.log(name).splitlines()[-15:]]
        return "\n" + "\n".join(lines)

    def _tool(self, name: str) -> str:
        return str(shutil.which(name, path=self._tools))

    def _environment(self) -> dict[str, str]:
        """Return the environment without what would change gunicorn or outlive the demo."""
        kept = {k: v for k, v in os.environ.items() if k != "GUNICORN_CMD_ARGS"}
        return {
            **kept,
            "PATH": self._tools,
            "HOME": str(self.root),  # gunicorn puts a control socket there
            "XDG_RUNTIME_DIR": str(self.root),
            "PYTHONUNBUFFERED": "1",
        }


def _directory() -> pathlib.Path:
    """Make a temporary directory in which a unix socket has a path that is short enough."""
    room = 100 - len("/hotreload-demo-12345678/supervisor.sock.1234567")
    where = os.path.realpath(tempfile.gettempdir())
    short = where if len(where) < room else os.path.realpath("/tmp")
    return pathlib.Path(tempfile.mkdtemp(prefix="hotreload-demo-", dir=short))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _end_with_parent() -> Callable[[], None]:
    """Return what makes a child of ours end when we are killed (prctl(2), Linux)."""
    libc = ctypes.CDLL(None)  # loaded before the fork

    def ask() -> None:
        libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)

    return ask


def _end(supervisord: subprocess.Popen[bytes]) -> None:
    """End supervisord, which ends its programs; then whatever of its session still lives."""
    supervisord.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        supervisord.wait(20)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        left = list(_session(supervisord.pid))
        if not left:
            break
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=1)
    supervisord.wait(1)


def _session(leader: int) -> Iterator[psutil.Process]:
    """Yield what lives in the session of *leader*: supervisord's children never leave it."""
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def find_tools() -> str:
    """Return the PATH on which supervisord, supervisorctl and gunicorn are.

    :raises Trouble: with what to install.
    """
    folders = [str(pathlib.Path(sys.executable).parent), sysconfig.get_path("scripts")]
    path = os.pathsep.join([*dict.fromkeys(folders), os.environ.get("PATH", os.defpath)])
    for tool in ("supervisord", "supervisorctl", "gunicorn"):
        if shutil.which(tool, path=path) is None:
            raise Trouble(
                f"hotreload-demo needs {tool}, which is not installed. Install it with:\n"
                f"  {sys.executable} -m pip install 'supervisor_hotreload[demo]'",
                2,
            )
    return path


def say(text: str = "", end: str = "\n") -> None:
    """Show *text* at once, even where the output is not a terminal."""
    sys.stdout.write(text + end)
    sys.stdout.flush()


def show(text: str) -> None:
    """Show what a command prints as it is."""
    say(text, end="")


def play(broken: bool) -> list[str]:
    """Show the whole thing; return what did not go as promised.

    :param broken: v2 cannot be imported.
    :raises Trouble: when the demo cannot go on.
    """
    tools = find_tools()
    interrupts = Interrupts()
    with Stage(tools) as stage:
        open_stage(stage, interrupts)
        with Clients(stage.port) as clients:
            return reload(stage, interrupts, clients, broken)


def open_stage(stage: Stage, interrupts: Interrupts) -> None:
    """Start v1 under supervisord and wait until it is RUNNING."""
    say(
        f"supervisor {metadata.version('supervisor')} and gunicorn on 127.0.0.1:{stage.port}, "
        f"in {stage.root} (removed at the end)"
    )
    stage.release("v1")
    stage.deploy("v1")
    supervisord = stage.start()

    def running() -> bool:
        if supervisord.poll() is not None:
            raise Trouble(f"supervisord exited with {supervisord.returncode}{stage.logs()}")
        log = stage.log()
        if "entered FATAL state" in log:
            raise Trouble(f"gunicorn does not start{stage.logs()}")
        return "entered RUNNING state" in log and stage.serves() == "v1"

    interrupts.wait(running, PATIENCE / 2, lambda: f"v1 answers{stage.logs()}")


def reload(stage: Stage, interrupts: Interrupts, clients: Clients, broken: bool) -> list[str]:
    """Deploy v2 and reload, under load; show it, and return what did not go as promised."""
    status(stage, interrupts)
    before = stage.generation(interrupts)
    say(f"\n{FAST} clients send fast requests without a pause, and {SLOW} send slow ones (1 s).")
    began = time.monotonic()
    interrupts.pause(BEFORE)

    stage.release("v2", BROKEN if broken else f"time.sleep({IMPORT:g})")
    what = "cannot be imported" if broken else f"takes {IMPORT:g} s to import"
    say(f"\n$ ln -s releases/v2 next && mv -T next current    # v2 {what}")
    stage.deploy("v2")
    say("$ supervisorctl hotreload myapp")
    asked = time.monotonic()
    exit_status = stage.ctl(interrupts, show, "hotreload", "myapp")
    ended = time.monotonic()
    say(f"(exit status {exit_status})")
    interrupts.pause(AFTER)
    clients.stop()
    interrupts.check()

    status(stage, interrupts)
    after = stage.generation(interrupts)
    say("\nRequests answered in each second of the reload:")
    say(chart(clients.answers, asked))
    parent = "supervisord" if after.parent == stage.pid else "not supervisord"
    say(f"master    pid {before.master} -> {after.master}, its parent is {parent} ({after.parent})")
    say(f"workers   pid {before.workers} -> {after.workers}")
    say(
        f"longest   wait of a fast client: {clients.longest(began, asked) * 1000:.0f} ms without "
        f"a reload, {clients.longest(asked, ended) * 1000:.0f} ms during it"
    )
    total = len(clients.answers) + len(clients.dropped)
    say(f"dropped   {len(clients.dropped)} of {total:,} requests")
    for text, count in Counter(clients.dropped).most_common(5):
        say(f"          {count} times {text}")
    wrong = []
    if sys.platform.startswith("linux") and after.parent != stage.pid:
        wrong.append(f"the parent of pid {after.master} is not supervisord")
    replaced = before.master != after.master
    return wrong + verdict(exit_status, clients, stage.serves(), replaced)


def verdict(exit_status: int, clients: Clients, serving: str, replaced: bool) -> list[str]:
    """Return what did not go as promised.

    :param exit_status: that of ``supervisorctl hotreload``.
    :param serving: the release that answers at the end.
    :param replaced: there is a new master.
    """
    wrong = []
    if exit_status != 0:
        wrong.append(f"the reload failed; {serving or 'nothing'} serves")
    elif serving != "v2":
        wrong.append(f"the reload succeeded, but {serving or 'nothing'} serves")
    elif not replaced:
        wrong.append("the reload succeeded, but the master is the old one")
    if clients.dropped:
        wrong.append(f"{len(clients.dropped)} requests were dropped")
    if not clients.answers:
        wrong.append("no request was answered")
    return wrong


def status(stage: Stage, interrupts: Interrupts) -> None:
    """Show ``supervisorctl status``."""
    say("\n$ supervisorctl status")
    stage.ctl(interrupts, show, "status")


def chart(answers: list[Answer], asked: float) -> str:
    """Return how many requests each release answered in each second since *asked*.

    The first and the last, cut short by where the load begins and ends, are left out.
    """
    counts: dict[int, Counter[str]] = {}
    for answer in answers:
        second = int((answer.began + answer.waited - asked) // 1)
        counts.setdefault(second, Counter())[answer.release] += 1
    shown = sorted(counts)[1:-1]
    most = max((sum(counts[second].values()) for second in shown), default=1)
    lines = ["  second     v1     v2"]
    for second in shown:
        one, two = counts[second]["v1"], counts[second]["v2"]
        bar = "1" * round(one * BAR / most) + "2" * round(two * BAR / most)
        lines.append(f"  {second:+6d} {one:6d} {two:6d}  {bar}")
    return "\n".join(lines)


def main() -> NoReturn:
    """Run the demo and exit with its truth: 0 when v2 serves and nothing was dropped."""
    parser = argparse.ArgumentParser(
        prog="hotreload-demo",
        description="Reload a gunicorn under a supervisord of its own, under load, "
        "and show that no request is dropped. It leaves nothing behind.",
    )
    parser.add_argument(
        "--broken", action="store_true", help="deploy a v2 that cannot be imported: v1 serves on"
    )
    broken = parser.parse_args().broken
    try:
        wrong = play(broken)
        say("\n" + ("\n".join(wrong) if wrong else "v2 serves, and nobody has noticed."))
        sys.exit(1 if wrong else 0)
    except Trouble as trouble:
        sys.stderr.write(f"{trouble}\n")
        sys.exit(trouble.status)
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
