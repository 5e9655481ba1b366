"""A real supervisord in a temporary directory, for tests, demo tables and benchmarks."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Sequence
from typing import IO, Any, Optional, Union, cast

import psutil
from supervisor.xmlrpc import SupervisorTransport

from supervisor_hotreload.system.process import lookup
from supervisor_hotreload.system.world import World
from tests.harness.preloaded import preloaded
from tests.harness.processes import killed, lives, with_children, working_below
from tests.harness.waiting import free_port, wait_until

BIN = pathlib.Path(sys.executable).parent

APP = """\
import os, time
time.sleep({boot})
RELEASE = {release!r}
def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path.startswith("/slow"):
        time.sleep(float(path[5:] or 1))
    body = f"{{RELEASE}} {{os.getpid()}} {{os.getppid()}}".encode()
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
{supervisord}
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[rpcinterface:hotreload]
supervisor.rpcinterface_factory = \
supervisor_hotreload.rpcinterface:make_hotreload_rpcinterface
{defaults}
[ctlplugin:hotreload]
supervisor.ctl_factory = \
supervisor_hotreload.controllerplugin:make_hotreload_controllerplugin
[supervisorctl]
serverurl = unix://%(here)s/supervisor.sock
{sections}
"""


class House:
    """One supervisord with its programs.

    :param root: an empty directory.
    :param python: the interpreter of the environment that everything is installed in;
        None: this one, with the package as it lies here.
    """

    def __init__(self, root: pathlib.Path, python: Optional[pathlib.Path] = None) -> None:
        self.root = root
        self.bin = BIN if python is None else python.parent
        self.python = sys.executable if python is None else str(python)
        self._gunicorn = self.bin / "gunicorn"
        self.port = free_port()
        self.environment = dict(os.environ, PYTHONDONTWRITEBYTECODE="1", HOME=str(root))
        self.wrapper: list[str] = []
        if python is None:
            self.environment["PYTHONPATH"] = str(pathlib.Path(__file__).parents[2])
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._pids: set[psutil.Process] = set()
        self._sections = ""
        self._settings = ""
        self._defaults = ""
        self._supervisord = ""
        self.release("v1")

    # -- the application

    def release(self, name: str, boot: float = 0.0, code: Optional[str] = None) -> None:
        """Write release *name* and let ``current`` point to it.

        :param boot: seconds that the import takes.
        :param code: what the module is instead.
        """
        folder = self.root / "releases" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "app.py").write_text(
            APP.format(boot=boot, release=name) if code is None else code
        )
        link = self.root / "next"
        link.symlink_to(folder)
        link.replace(self.root / "current")

    def gunicorn(self, *arguments: str, bind: Optional[str] = None) -> str:
        """Return the command of a gunicorn that serves ``current``."""
        bind = f"127.0.0.1:{self.port}" if bind is None else bind
        chosen = " ".join(arguments) or "--workers 2"
        return f"{self.python} {self._gunicorn} --bind {bind} {chosen} app:app"

    # -- supervisord

    def configure(
        self,
        *arguments: str,
        name: str = "myapp",
        command: Optional[str] = None,
        program: str = "",
        settings: str = "",
        defaults: str = "",
        supervisord: str = "",
        more: str = "",
    ) -> None:
        """Write supervisord.conf with one gunicorn program.

        :param arguments: gunicorn's.
        :param command: instead of gunicorn.
        :param program: more lines of [program:myapp].
        :param settings: lines of [hotreload:myapp].
        :param defaults: lines of [rpcinterface:hotreload].
        :param more: more sections.
        """
        self._defaults, self._supervisord = defaults, supervisord
        command = command or self.gunicorn(*arguments)
        # of a gunicorn start() sees when it is complete, others get the time to be looked at
        startsecs = "startsecs = 0" if "gunicorn" in command else "startsecs = 1"
        self._sections = (
            f"[program:{name}]\n"
            f"command = {command}\n"
            f"directory = %(here)s/current\n"
            f"{'' if 'startsecs' in program else startsecs}\n"
            f"redirect_stderr = true\n"
            f"stdout_logfile = %(here)s/{name}.log\n"
            f"{program}\n{more}\n"
        )
        self._settings = f"[hotreload:{name}]\n{settings}\n" if settings else ""
        self.write()

    def settings(self, text: str, name: str = "myapp") -> None:
        """Replace the lines of [hotreload:myapp] in supervisord.conf."""
        self._settings = f"[hotreload:{name}]\n{text}\n"
        self.write()

    def write(self) -> None:
        text = CONFIG.format(
            sections=self._sections + self._settings,
            defaults=self._defaults,
            supervisord=self._supervisord,
        )
        (self.root / "supervisord.conf").write_text(text)

    def start(self, running: str = "myapp") -> None:
        """Start supervisord and wait until *running* is RUNNING and gunicorn has workers."""
        words = ["-n", "-c", str(self.root / "supervisord.conf")]
        with open(self.root / "console.log", "ab") as console:
            self._process = self._run("supervisor.supervisord", words, console, console)
        wait_until(lambda: self.alive and self.nudge(), what=self.log)
        if running:
            self.wait_until_complete(running)

    def wait_until_complete(self, running: str = "myapp") -> None:
        """Wait until *running* is RUNNING and gunicorn has workers."""
        self.wait_for("RUNNING", running)
        if "gunicorn" in self._commands():
            wait_until(self._is_complete, what=lambda: self.story("gunicorn lacks workers"))

    def _commands(self) -> str:
        """Return the sections, or the scripts that their commands are."""
        if "gunicorn" in self._sections:
            return self._sections
        scripts = [*self.root.glob("*.sh"), self.root / "launcher.py", self.root / "Procfile"]
        return "\n".join(map(_read, scripts))

    def _is_complete(self) -> bool:
        """Tell whether every worker of every gunicorn here has loaded the application.

        One that has not would load the next release, as soon as ``current`` points to it.
        """
        wanted = sum(int(number) for number in re.findall(r"--workers (\d+)", self._commands()))
        family = {*self.family(), *self.application()}
        masters = [lookup(process.pid) for process in with_children([*family])]
        world = World()
        beats = [beat for m in masters if m for beat in world.heartbeats(m).values()]
        return len(beats) >= max(wanted, 1) and all(beat.flipped for beat in beats)

    @property
    def alive(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"supervisord exited: {self.log()}{self.console()}"
        return True

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def rpc(self) -> Any:
        """Return a new proxy of supervisord's XML-RPC."""
        transport = SupervisorTransport(serverurl=f"unix://{self.root}/supervisor.sock")
        return xmlrpc.client.ServerProxy("http://127.0.0.1", transport)

    def info(self, name: str = "myapp") -> Any:
        return self.rpc().supervisor.getProcessInfo(name)

    def wait_for(self, state: str, name: str = "myapp", timeout: float = 60.0) -> Any:
        """Wait until supervisord reports *name* as *state*; return its info."""

        def reported() -> Any:
            assert self.alive
            with contextlib.suppress(OSError, xmlrpc.client.Fault):  # it reloads itself
                info = self.info(name)
                return info if info["statename"] == state else None

        title = f"{name} is to be {state}"
        return wait_until(reported, timeout, lambda: self.story(title))

    def wait_until_recorded(self, pid: int) -> None:
        """Wait until hotreload has looked at *pid* and recorded its listening sockets."""
        path = self.root / "supervisord.hotreload.record"

        def recorded() -> bool:
            self.nudge()
            programs = json.loads(_read(path) or '{"programs": {}}')["programs"]
            rows = [row for proofs in programs.values() for row in proofs]
            return any(row[0] == pid and row[2] for row in rows)

        wait_until(recorded, what=lambda: self.story(f"{pid} is recorded"))

    def ctl(self, *words: str, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run supervisorctl with *words*."""
        words = ("-c", str(self.root / "supervisord.conf"), *words)
        deadline = time.monotonic() + timeout
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
            client = self._run("supervisor.supervisorctl", words, out, errors)
            while True:
                try:
                    status = client.wait(0.1)
                    break
                except subprocess.TimeoutExpired:
                    if time.monotonic() > deadline:
                        client.kill()
                        client.wait()
                        raise
                    if words[2] != "hotreload":  # a reload turns the loop by itself
                        self.nudge()
            out.seek(0)
            errors.seek(0)
            printed, said = out.read().decode(), errors.read().decode()
        return subprocess.CompletedProcess(words, status, printed, said)

    def _run(
        self, module: str, words: Sequence[str], out: IO[bytes], errors: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """Start a module of supervisor, as a fork of one that is loaded where that is the same."""
        folder = str(self.root)
        if not self.wrapper and self.python == sys.executable:
            files = (out.fileno(), errors.fileno())
            started = preloaded().start(module, words, self.environment, *files, folder)
            return cast("subprocess.Popen[bytes]", started)
        wrapper = self.wrapper if module == "supervisor.supervisord" else []
        return subprocess.Popen(
            [*wrapper, self.python, "-m", module, *words],
            cwd=folder,
            env=self.environment,
            stdout=out,
            stderr=errors,
        )

    def nudge(self) -> bool:
        """Let supervisord's loop turn: left alone it looks at its programs once a second.

        :returns: whether it listens; the path is there a moment before that.
        """
        try:
            with socket.socket(socket.AF_UNIX) as visitor:
                visitor.settimeout(1)
                visitor.connect(str(self.root / "supervisor.sock"))
        except OSError:
            return False
        return True

    def turn(self, times: int) -> None:
        """Let supervisord look at its programs so often: for what is not to happen meanwhile."""
        for _ in range(times):
            assert self.nudge()
            time.sleep(0.3)

    def client(self, *words: str) -> subprocess.Popen[str]:
        """Start supervisorctl with *words* and do not wait for it.

        It hears Ctrl-C even if the tests run in the background, where a shell has it ignored.
        """
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return subprocess.Popen(
                self.ctl_command(*words),
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        finally:
            signal.signal(signal.SIGINT, before)

    def ctl_command(self, *words: str) -> list[str]:
        configuration = str(self.root / "supervisord.conf")
        return [self.python, "-m", "supervisor.supervisorctl", "-c", configuration, *words]

    def reload(self, name: str = "myapp") -> Any:
        """Run ``supervisorctl hotreload`` and require that it succeeds."""
        done = self.ctl("hotreload", name)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.log()}"
        return done

    def story(self, title: str) -> str:
        return "\n".join((title, self.log(), self.console(), self.app_log()))

    def reload_info(self, name: str = "myapp") -> Any:
        return self.rpc().hotreload.getReloadInfo(name)

    def wait_for_phase(self, phase: str, name: str = "myapp") -> Any:
        """Wait until the active reload of *name* is in *phase*; return its info."""
        active: list[bool] = []

        def reached() -> Any:
            info = self.reload_info(name)
            active.append(info["active"])
            assert info["active"] or not any(active), self.story(f"{title}, and has ended: {info}")
            return info if info["phase"] == phase else None

        title = f"{name} is to be {phase}"  # which may be over soon
        return wait_until(reached, what=lambda: self.story(title), longest=0.02)

    def wait_for_outcome(self, name: str = "myapp") -> Any:
        """Wait until the reload of *name* has ended; return its info."""

        def ended() -> Any:
            info = self.reload_info(name)
            return info if info["outcome"] not in ("", "pending") else None

        title = f"the reload of {name} is to end"
        return wait_until(ended, 60, lambda: self.story(title))

    def log(self) -> str:
        return _read(self.root / "supervisord.log")

    def console(self) -> str:
        return _read(self.root / "console.log")

    def app_log(self, name: str = "myapp") -> str:
        return _read(self.root / f"{name}.log")

    # -- processes

    def family(self) -> list[psutil.Process]:
        """Return every living process under supervisord."""
        try:
            found = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            found = []
        self._pids.update(found)
        return [process for process in found if lives(process)]

    def masters(self, port: Optional[int] = None) -> list[psutil.Process]:
        """Return the gunicorn masters under supervisord: those with gunicorn children."""
        return with_children(self.family())

    def application(self) -> list[psutil.Process]:
        """Return every living process that runs the application, whoever its parent is."""
        found = [p for p in working_below(str(self.root / "releases")) if lives(p)]
        self._pids.update(found)
        return found

    def impostor(self, group: str, name: str, user: Union[int, str] = "nobody") -> psutil.Process:
        """Start an orphan of *user* that says it is a program of supervisord's."""
        environment = {
            "SUPERVISOR_ENABLED": "1",
            "SUPERVISOR_GROUP_NAME": group,
            "SUPERVISOR_PROCESS_NAME": name,
            "SUPERVISOR_SERVER_URL": f"unix://{self.root}/supervisor.sock",
        }
        script = "sleep 1000 >/dev/null 2>&1 & echo $!"
        started = subprocess.run(
            ["/bin/sh", "-c", script],
            env=environment,
            user=user,
            stdout=subprocess.PIPE,
            check=True,
        )
        process = psutil.Process(int(started.stdout))
        self._pids.add(process)
        return process

    def memory(self) -> int:
        """Return the resident memory of supervisord, in bytes."""
        resident: int = psutil.Process(self.pid).memory_info().rss
        return resident

    def zombies(self) -> list[int]:
        children = psutil.Process(self.pid).children(recursive=True)
        return [child.pid for child in children if not lives(child)]

    def open_to_all(self) -> None:
        """Let user nobody run everything here: this interpreter may lie where it cannot look."""
        site = self.root / "site"
        for package in ("gunicorn", "packaging", "psutil", "supervisor", "supervisor_hotreload"):
            found = importlib.util.find_spec(package)
            assert found is not None and found.origin is not None
            shutil.copytree(pathlib.Path(found.origin).parent, site / package)
        self._gunicorn = site / "bin" / "gunicorn"
        self._gunicorn.parent.mkdir()
        self._gunicorn.write_text("from gunicorn.app.wsgiapp import run\nrun()\n")
        self.python = "/usr/bin/python3"
        self.environment["PYTHONPATH"] = str(site)
        for path in (self.root, *self.root.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o777 if path.is_dir() else 0o666)

    def wait_for_exit(self) -> None:
        """Wait until supervisord has ended by itself."""
        process = self._process
        assert process is not None

        def ended() -> bool:
            self.nudge()
            return process.poll() is not None

        wait_until(ended, 60, lambda: self.story("supervisord is to end"))

    def stop(self) -> None:
        """End supervisord and everything it ever had, by pid."""
        if self._process is None:
            return
        self.family()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(AssertionError):
                self.wait_for_exit()
        self.kill_leftovers()

    def end(self) -> None:
        """Kill supervisord and everything it ever had, by pid: a test is over, none has to drain.

        supervisord is stopped first: so it starts nothing, and is the parent of every orphan.
        """
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGSTOP)
            wait_until(lambda: not killed(self.family()), what="every process here is gone")
            self._process.kill()
        wait_until(lambda: not self.kill_leftovers(), what="nothing is left here")

    def kill_leftovers(self) -> list[int]:
        """Kill what still lives of all that was seen; return the pids."""
        assert self._process is not None
        left = [process for process in self._pids if lives(process)]
        left += [process for process in working_below(str(self.root)) if process not in left]
        killed(left)
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(10)
        return [process.pid for process in left]


def _read(path: pathlib.Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
