"""``hotreload-demo`` reloads a gunicorn under load and shows what happens.

It starts a supervisord, a gunicorn and clients that never pause. It moves a ``current``
symlink from v1 to v2 and runs ``supervisorctl hotreload``. The exit status is 0 when v2
serves and no request was dropped. Everything lives in a temporary directory.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import http.client
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import urllib.request
import xmlrpc.client
from collections import Counter
from functools import partial
from importlib import metadata
from typing import Any, Callable, NamedTuple, NoReturn, Optional

import psutil
from supervisor.xmlrpc import SupervisorTransport

IMPORT_SECONDS = 2
BEFORE_SECONDS = 2.0  # the waits during the reload are compared with those before it
AFTER_SECONDS = 1.0
TIMEOUT_SECONDS = 60.0  # of one step, which takes a few seconds
PAUSE_SECONDS = 0.005  # between two requests of a client: the machine may have a single core
FAST_CLIENTS, SLOW_CLIENTS = 4, 2
BAR_COLUMNS = 40
LINUX = sys.platform.startswith("linux")
PR_SET_PDEATHSIG = 1
PIP = f"  {sys.executable} -m pip install 'supervisor_hotreload[demo]'"
DROPPED = (OSError, http.client.HTTPException)
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))

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
supervisor.rpcinterface_factory = supervisor_hotreload.rpcinterface:make_hotreload_rpcinterface
[ctlplugin:hotreload]
supervisor.ctl_factory = supervisor_hotreload.controllerplugin:make_hotreload_controllerplugin
[program:myapp]
command = gunicorn --workers 4 --bind 127.0.0.1:{port} app:app
directory = %(here)s/current
redirect_stderr = true
stdout_logfile = %(here)s/myapp.log
"""


def give_up(text: str, status: int = 1) -> NoReturn:
    """End the demo with a message for its user."""
    sys.stderr.write(f"{text}\n")
    sys.exit(status)


class Answer(NamedTuple):
    """One complete answer: *began* in monotonic seconds, *waited* in seconds."""

    began: float
    waited: float
    release: str
    path: str


class Clients:
    """Sends requests by threads without a pause, and notes what is answered and dropped."""

    def __init__(self, port: int) -> None:
        self.answers: list[Answer] = []
        self.dropped: list[str] = []
        self._port = port
        self._stopping = threading.Event()
        paths = ["/"] * FAST_CLIENTS + ["/slow"] * SLOW_CLIENTS
        self._threads = [threading.Thread(target=self._run, args=(p,), daemon=True) for p in paths]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Send no more requests and wait for the answers to those in flight."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(TIMEOUT_SECONDS)

    def longest_ms(self, since: float, until: float) -> float:
        """Return the longest wait of a fast request that was sent in that time."""
        waits = [a.waited for a in self.answers if a.path == "/" and since <= a.began < until]
        return max(waits, default=0.0) * 1000

    def _run(self, path: str) -> None:
        while not self._stopping.wait(PAUSE_SECONDS):
            began = time.monotonic()
            try:
                release = get(self._port, path)
            except DROPPED as error:
                self.dropped.append(f"{path}: {type(error).__name__}: {error}")
                self._stopping.wait(0.1)
            else:
                self.answers.append(Answer(began, time.monotonic() - began, release, path))


class Stage:
    """Runs a supervisord in a temporary directory. Leaving the context ends and removes all.

    SIGINT, SIGTERM and SIGHUP take effect only in `wait`: nothing is left half done.
    """

    def __init__(self, tools: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        folder = os.path.realpath(tempfile.gettempdir())
        if len(folder) > 50:  # unix(7) allows 107 bytes for the path of supervisord's socket
            folder = os.path.realpath("/tmp")
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="hotreload-demo-", dir=folder))
        self._supervisord: Optional[subprocess.Popen[bytes]] = None
        self._tools = tools
        self._environment = {
            **{k: v for k, v in os.environ.items() if k != "GUNICORN_CMD_ARGS"},
            "PATH": tools,
            "HOME": str(self.root),  # gunicorn puts a control socket there
            "XDG_RUNTIME_DIR": str(self.root),
            "PYTHONUNBUFFERED": "1",
        }
        self._signal = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as SIGHUP is under nohup
                signal.signal(number, lambda number, _: setattr(self, "_signal", number))

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._supervisord is not None:
                end_session(self._supervisord)
        finally:
            shutil.rmtree(self.root, ignore_errors=True)

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Wait until *condition* is true.

        The demo ends after TIMEOUT_SECONDS, or when a signal has come.
        """
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while self._signal or not condition():
            if self._signal:
                name = signal.Signals(self._signal).name
                give_up(f"\ninterrupted ({name}): everything is ended", 128 + self._signal)
            if time.monotonic() > deadline:
                give_up(f"timed out after {TIMEOUT_SECONDS:g} s waiting for {what}\n{self._logs()}")
            time.sleep(0.02)

    def deploy(self, release: str, start: str = "") -> None:
        """Write *release*, whose import runs *start*, and let ``current`` point to it."""
        folder = self.root / "releases" / release
        folder.mkdir(parents=True)
        (folder / "app.py").write_text(APP.format(start=start, release=release))
        (self.root / "next").symlink_to(pathlib.Path("releases") / release)
        (self.root / "next").replace(self.root / "current")  # atomic, 'ln -sfn' is not

    def start(self) -> None:
        """Start supervisord and wait until v1 serves."""
        (self.root / "supervisord.conf").write_text(CONFIG.format(port=self.port))
        prctl = ctypes.CDLL(None).prctl if LINUX else None  # supervisord ends with the demo
        hook = partial(prctl, PR_SET_PDEATHSIG, int(signal.SIGTERM)) if prctl is not None else None
        with open(self.root / "console.log", "wb") as console:
            self._supervisord = self._popen(
                "supervisord", "--nodaemon", stdout=console, stderr=console, preexec_fn=hook
            )
        self.wait(lambda: self._is_running() and self.release() == "v1", "v1 to answer")

    def _is_running(self) -> bool:
        """Tell whether supervisord says that myapp is RUNNING."""
        assert self._supervisord is not None
        try:
            state = self._info()["statename"]
        except DROPPED:
            state = "FATAL" if self._supervisord.poll() is not None else "unknown"
        if state == "FATAL":
            give_up(f"gunicorn does not start\n{self._logs()}")
        return bool(state == "RUNNING")

    def _logs(self) -> str:
        logs = {path.name: path.read_text(errors="replace") for path in self.root.glob("*.log")}
        return "\n".join(f"{log}: {text}" for log in logs for text in logs[log].splitlines()[-15:])

    def _info(self) -> dict[str, Any]:
        transport = SupervisorTransport(None, None, f"unix://{self.root}/supervisor.sock")
        server = xmlrpc.client.ServerProxy("http://127.0.0.1/RPC2", transport)
        info: Any = server.supervisor.getProcessInfo("myapp")
        return dict(info)

    def ctl(self, *words: str) -> int:
        """Show and run a supervisorctl command; return its exit status."""
        say(f"$ supervisorctl {' '.join(words)}")
        process = self._popen("supervisorctl", *words, stderr=subprocess.STDOUT)
        try:
            self.wait(lambda: process.poll() is not None, f"supervisorctl {words[0]} to end")
        finally:
            process.kill()
            process.wait()
        return process.returncode

    def master(self) -> tuple[int, str, str]:
        """Return the pid that supervisord tracks, its parent and its workers."""
        assert self._supervisord is not None
        try:
            master = psutil.Process(self._info()["pid"])
            parent, workers = master.ppid(), " ".join(str(w.pid) for w in master.children())
        except (psutil.Error, xmlrpc.client.Fault, *DROPPED) as error:
            give_up(f"gunicorn has gone ({error})\n{self._logs()}")
        known = "supervisord" if parent == self._supervisord.pid else "not supervisord"
        return master.pid, f"{known} ({parent})", workers

    def release(self) -> str:
        """Return the release that answers, 'nothing' when none does."""
        try:
            return get(self.port, "/")
        except DROPPED:
            return "nothing"

    def _popen(self, tool: str, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command in a session of its own: Ctrl-C in the terminal is for the demo alone."""
        return subprocess.Popen(
            [str(shutil.which(tool, path=self._tools)), "-c", "supervisord.conf", *words],
            cwd=self.root,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            **options,
        )


def get(port: int, path: str) -> str:
    """Return the body of a complete 200 answer; for anything else raise one of DROPPED."""
    with OPENER.open(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
        return str(answer.read().decode(errors="replace"))


def end_session(leader: subprocess.Popen[bytes]) -> None:
    """End supervisord, which ends its programs; then kill what is left of its session."""
    leader.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        leader.wait(20)
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(process.pid) == leader.pid:
                process.kill()
                process.wait(5)
    leader.wait(1)


def find_tools() -> str:
    """Return the PATH of supervisord, supervisorctl and gunicorn."""
    folders = [str(pathlib.Path(sys.executable).parent), sysconfig.get_path("scripts")]
    path = os.pathsep.join([*dict.fromkeys(folders), os.environ.get("PATH", os.defpath)])
    if shutil.which("gunicorn", path=path) is None:
        give_up(
            f"hotreload-demo needs gunicorn, which is not installed. Install it with:\n{PIP}", 2
        )
    return path


def say(text: str) -> None:
    """Print *text* at once: commands write to the same output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def play(stage: Stage, broken: bool) -> list[str]:
    """Run the whole demo with a v2 that may be *broken*; return what did not go as promised."""
    version = metadata.version("supervisor")
    say(f"supervisor {version} and gunicorn, in {stage.root} (removed at the end)\n")
    stage.deploy("v1")
    stage.start()
    stage.ctl("status")
    old, _, old_workers = stage.master()
    clients = Clients(stage.port)
    say(f"\n{FAST_CLIENTS} clients send fast requests, {SLOW_CLIENTS} send slow ones (1 s)")
    began = time.monotonic()
    time.sleep(BEFORE_SECONDS)

    what = "cannot be imported" if broken else f"takes {IMPORT_SECONDS} s to import"
    say(f"\n$ ln -s releases/v2 next && mv -T next current    # v2 {what}")
    missing = "import a_module_that_is_not_installed"
    stage.deploy("v2", missing if broken else f"time.sleep({IMPORT_SECONDS})")
    asked = time.monotonic()
    status = stage.ctl("hotreload", "myapp")
    ended = time.monotonic()
    say(f"(exit status {status})\n")
    time.sleep(AFTER_SECONDS)
    clients.stop()

    stage.ctl("status")
    new, parent, workers = stage.master()
    count, total = len(clients.dropped), len(clients.dropped) + len(clients.answers)
    say("\nRequests answered in each second of the reload:")
    say(chart(clients.answers, asked))
    say(f"master    pid {old} -> {new}, its parent is {parent}")
    say(f"workers   pid {old_workers} -> {workers}")
    before, during = clients.longest_ms(began, asked), clients.longest_ms(asked, ended)
    say(
        f"longest   wait of a fast client: {before:.0f} ms before the reload, {during:.0f} ms in it"
    )
    say(f"dropped   {count} of {total:,} requests")
    for text, times in Counter(clients.dropped).most_common(5):
        say(f"          {times} times {text}")
    serves = stage.release()
    broken_promises = {
        f"the reload failed; {serves} serves": status != 0,
        f"the reload succeeded, but {serves} serves": status == 0 and serves != "v2",
        "the reload succeeded, but the master is the old one": status == 0 and new == old,
        f"the parent of the master is {parent}": LINUX and parent.startswith("not"),
        f"{count} requests were dropped": count > 0,
        "no request was answered": not clients.answers,
    }
    return [text for text, is_so in broken_promises.items() if is_so]


def chart(answers: list[Answer], asked: float) -> str:
    """Return how many requests each release answered in each second since *asked*.

    The first and the last second are incomplete and left out.
    """
    counts = Counter((int((a.began + a.waited - asked) // 1), a.release) for a in answers)
    shown = sorted({second for second, _ in counts})[1:-1]
    busiest = max((counts[second, "v1"] + counts[second, "v2"] for second in shown), default=1)
    lines = ["  second     v1     v2"]
    for second in shown:
        v1, v2 = counts[second, "v1"], counts[second, "v2"]
        bar = "1" * round(v1 * BAR_COLUMNS / busiest) + "2" * round(v2 * BAR_COLUMNS / busiest)
        lines.append(f"  {second:+6d} {v1:6d} {v2:6d}  {bar}")
    return "\n".join(lines)


def main() -> NoReturn:
    """Run the demo; exit with 0 when v2 serves and nothing was dropped."""
    parser = argparse.ArgumentParser(
        prog="hotreload-demo",
        description="Reload a gunicorn under load and show that no request is dropped. "
        "The demo has a supervisord of its own and leaves nothing behind.",
    )
    parser.add_argument("--broken", action="store_true", help="deploy a v2 that cannot be imported")
    broken = parser.parse_args().broken
    try:
        with Stage(find_tools()) as stage:
            wrong = play(stage, broken)
        say("\n" + ("\n".join(wrong) or "v2 serves, and no client noticed."))
        sys.exit(1 if wrong else 0)
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
