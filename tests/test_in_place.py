"""A server that replaces its own workers, and all that it may do instead of what it should."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Optional

import pytest

from supervisor_hotreload.core import protocol
from supervisor_hotreload.core.model import Fault, Outcome, Policy, Ready
from supervisor_hotreload.core.reload import Reload
from supervisor_hotreload.servers import signal as generic
from supervisor_hotreload.servers.generation import AcceptingGeneration
from supervisor_hotreload.servers.in_place import InPlaceReload
from supervisor_hotreload.servers.program import Program
from supervisor_hotreload.servers.settings import Settings
from supervisor_hotreload.system import endpoint as endpoints
from supervisor_hotreload.system.process import Process, lookup
from supervisor_hotreload.system.world import World
from tests.harness.choosing import mostly_slow
from tests.harness.waiting import wait_until

PREFORK = """\
import json, os, select, signal, socket, sys, time

def plan():
    with open(sys.argv[1]) as file:
        return json.load(file)

listener = socket.create_server(("127.0.0.1", int(sys.argv[2])))
listener.setblocking(False)
HEARD = (signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD)
signal.signal(signal.SIGCHLD, lambda *_: None)
signal.signal(signal.SIGHUP, lambda *_: None)
signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)

def work(told, number):
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)
    boot = told.get("boot", [0])
    time.sleep(boot[number % len(boot)])
    if told.get("doomed"):
        os._exit(3)
    end = time.monotonic() + told.get("life", 1000)
    poll = select.epoll()
    if number >= 0:
        poll.register(listener, select.EPOLLIN)
    while not asked and time.monotonic() < end:
        if not poll.poll(0.02):
            continue
        try:
            client, _ = listener.accept()
        except BlockingIOError:
            continue
        client.settimeout(5)
        try:
            request = more = client.recv(4096)
            while more and not request.endswith(b"\\r\\n\\r\\n"):
                more = client.recv(4096)
                request += more
            head = b"HTTP/1.0 %d X\\r\\n" % told.get("status", 200)
            if request.startswith(b"GET / ") and "moved" in told:
                head = b"HTTP/1.0 302 X\\r\\nLocation: %s\\r\\n" % told["moved"].encode()
            time.sleep(told.get("slow", 0))
            if more:
                client.sendall(head + b"\\r\\n")
        except OSError:
            pass
        client.close()
    listener.close()
    poll.close()
    time.sleep(told.get("finish", 0))
    os._exit(0)

def fork(told, number):
    pid = os.fork()
    if not pid:
        work(told, number)
    living[pid] = told, number

living, old = {}, {}
told = plan()
for number in range(-told.get("helpers", 0), told.get("workers", 2)):
    fork(told, number)
while True:
    number = signal.sigtimedwait(HEARD, 0.02)
    if number is not None and number.si_signo == signal.SIGTERM:
        for pid in [*living, *old]:
            os.kill(pid, signal.SIGKILL)
        sys.exit()
    if number is not None and number.si_signo == signal.SIGHUP:
        told = plan()
        busy = time.monotonic() + told.get("busy", 0)
        while time.monotonic() < busy:
            pass
        if told.get("aborts"):
            fork(told, 0)
            os.waitpid(living.popitem()[0], 0)
        elif not told.get("refuses"):
            before, living = living, {}
            for number in range(-told.get("helpers", 0), told.get("workers", 2)):
                fork(told, number)
                time.sleep(told.get("pause", 0))
            old.update((pid, time.monotonic() + told.get("overlap", 0)) for pid in before)
    for pid, at in old.items():
        if time.monotonic() > at:
            os.kill(pid, signal.SIGTERM)
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if not pid:
            break
        old.pop(pid, None)
        if pid in living:
            fork(*living.pop(pid))
"""

ALONE = """\
import http.server, signal, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"release %d" % len(releases))
    def log_message(self, *_):
        pass

releases = []
signal.signal(signal.SIGHUP, lambda *_: releases.append(1))
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
"""

PROGRAM = Program("toy", "toy", "/")


class Toy:
    """One server with a plan: what it is to do at its next reload."""

    def __init__(self, folder: pathlib.Path, port: int, code: str, **told: Any) -> None:
        self.world = World()
        self.port = port
        self._plan = folder / "plan.json"
        self.plan(**told)
        script = folder / "toy.py"
        script.write_text(code)
        self._popen = subprocess.Popen([sys.executable, str(script), str(self._plan), str(port)])
        master = lookup(self._popen.pid)
        assert master is not None
        self.master = master

    def plan(self, **told: Any) -> None:
        self._plan.write_text(json.dumps(told))

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._popen.poll() is None:
                self._popen.terminate()
        try:
            self._popen.wait(5)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait(5)

    def survey(self) -> AcceptingGeneration:
        found = generic.FAMILY.survey(self.world, self.master, PROGRAM)
        assert found is not None
        return found

    def wait_for(self, workers: int = 2) -> AcceptingGeneration:
        wait_until(lambda: self.survey().workers == workers)
        wait_until(lambda: self.world.catches(self.master, "HUP"))
        return self.survey()

    def kill(self, process: Process) -> None:
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: not self.world.alive(process))

    def reload(
        self, settings: str = "", old: Optional[AcceptingGeneration] = None, timeout: float = 60
    ) -> Reload:
        """Reload it, and return how that went.

        :param settings: lines of its section.
        :param old: what there was at the survey.
        """
        lines = (line.split(" = ", 1) for line in settings.splitlines())
        policy = Settings({}, {"toy": dict(lines)}).policy("toy", "toy")
        reload = Reload("toy", self.world.now, lambda _: None)
        reload.old_pid = reload.new_pid = self.master.pid
        server = self.server(policy, old or self.survey())
        reload.begin(protocol.in_place(server, policy, reload.commit))
        deadline = time.monotonic() + timeout
        while not reload.done:
            assert time.monotonic() < deadline, story(reload)
            time.sleep(0.02)
            reload.step()
        return reload

    def server(self, policy: Policy, old: AcceptingGeneration) -> InPlaceReload:
        return generic.FAMILY.in_place(self.world, old, policy, PROGRAM)


def story(reload: Reload) -> str:
    return "\n".join(f"{line.seconds:.2f} {line.text}" for line in reload.lines)


def when(reload: Reload, text: str) -> float:
    """Return when a line with *text* was written."""
    found = [line.seconds for line in reload.lines if text in line.text]
    assert found, story(reload)
    return found[0]


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        chosen: int = probe.getsockname()[1]
        return chosen


@pytest.fixture
def toys(tmp_path: pathlib.Path, port: int) -> Iterator[Any]:
    made: list[Toy] = []

    def make(code: str = PREFORK, **told: Any) -> Toy:
        made.append(Toy(tmp_path, port, code, **told))
        return made[-1]

    yield make
    for toy in made:
        toy.close()


def test_a_worker_that_was_replaced_for_its_age_is_an_old_one(toys: Any) -> None:
    toy = toys()
    old = toy.wait_for()
    toy.kill(next(iter(old.accepting)))
    toy.wait_for()
    toy.plan(boot=[0, 1.5], overlap=1)
    reload = toy.reload(old=old)
    assert reload.outcome is Outcome.SUCCEEDED, story(reload)
    assert when(reload, "2/2 workers ready") > 1.4, story(reload)


def test_a_worker_that_is_missing_at_the_moment_is_waited_for(toys: Any) -> None:
    toy = toys()
    old = toy.wait_for()
    toy.plan(boot=[0, 1.5])
    os.kill(toy.master.pid, signal.SIGSTOP)
    toy.kill(next(iter(old.accepting)))
    os.kill(toy.master.pid, signal.SIGCONT)
    assert when(toy.reload(old=old), "2/2 workers ready") > 1.4


@pytest.mark.parametrize("ready", ["heartbeat", "http"])
def test_the_only_worker_may_be_missing_at_the_moment(toys: Any, port: int, ready: str) -> None:
    toy = toys(workers=1)
    old = toy.wait_for(1)
    toy.plan(workers=1, boot=[1.5])
    told = Ready("http", target=f"http://127.0.0.1:{port}/") if ready == "http" else Ready()
    server = toy.server(Policy(ready=told), old)
    os.kill(toy.master.pid, signal.SIGSTOP)
    toy.kill(next(iter(old.accepting)))
    server.renew()
    began = time.monotonic()
    os.kill(toy.master.pid, signal.SIGCONT)
    wait_until(server.renewed)
    assert time.monotonic() - began > 1.4


def test_all_of_more_workers_than_before_are_waited_for(toys: Any) -> None:
    toy = toys(workers=1)
    toy.wait_for(1)
    toy.plan(workers=2, boot=[0, 1.5])
    reload = toy.reload()
    assert when(reload, "2/2 workers ready") > 1.4, story(reload)


def test_a_helper_that_never_accepts_is_not_waited_for(toys: Any) -> None:
    toy = toys(helpers=1)
    toy.wait_for()
    toy.plan(helpers=1)
    reload = toy.reload()
    assert reload.outcome is Outcome.SUCCEEDED
    assert reload.seconds < 2, story(reload)


def test_another_helper_than_before_is_waited_for_only_for_a_while(toys: Any) -> None:
    toy = toys()
    toy.wait_for()
    toy.plan(helpers=1)
    reload = toy.reload()
    assert reload.outcome is Outcome.SUCCEEDED
    assert 4.5 < reload.seconds < 8, story(reload)


@pytest.mark.parametrize("ready", ["http", "settle:0.5", "tcp"])
def test_a_server_without_workers_is_asked_itself(toys: Any, port: int, ready: str) -> None:
    toy = toys(ALONE)
    wait_until(lambda: toy.world.catches(toy.master, "HUP"))
    wait_until(lambda: f"0100007F:{port:04X}" in toy.world.listening(toy.master).values())
    address = {"http": f"http://127.0.0.1:{port}/ release 1", "tcp": f"tcp://127.0.0.1:{port}"}
    reload = toy.reload(f"ready = {address.get(ready, ready)}\nready_timeout = 3")
    assert reload.outcome is Outcome.SUCCEEDED, story(reload)
    assert ready != "settle:0.5" or reload.seconds >= 0.5


def test_every_worker_has_the_whole_time(toys: Any) -> None:
    toy = toys(workers=4)
    toy.wait_for(4)
    toy.plan(workers=4, pause=0.7, overlap=0)
    reload = toy.reload("ready_timeout = 1.5")
    assert reload.outcome is Outcome.SUCCEEDED, story(reload)
    assert reload.seconds > 2


def test_a_worker_that_does_not_come_ends_the_patience(toys: Any) -> None:
    toy = toys()
    toy.wait_for()
    toy.plan(boot=[0.5, 30])
    reload = toy.reload("ready_timeout = 1")
    assert reload.fault is Fault.NOT_READY
    assert "timed out after 1 s waiting for the next worker (1 of 2 ready)" in reload.reason
    assert reload.seconds < 3


def test_a_master_that_could_not_be_asked_has_touched_nothing(toys: Any) -> None:
    toy = toys()
    old = toy.wait_for()
    toy.kill(toy.master)
    reload = toy.reload(old=old)
    assert reload.fault is Fault.SERVER_EXITED
    assert not reload.adopted
    for worker in old.accepting:
        toy.kill(worker)


def test_new_workers_are_baked(toys: Any) -> None:
    toy = toys()
    toy.wait_for()
    reload = toy.reload("bake = 1")
    assert reload.outcome is Outcome.SUCCEEDED
    assert reload.seconds >= 1
    assert when(reload, "baking: the new workers are watched") < 1


def test_a_worker_that_dies_while_it_is_baked_fails_the_reload(toys: Any) -> None:
    toy = toys()
    toy.wait_for()
    toy.plan(life=1)
    reload = toy.reload("bake = 5")
    assert reload.outcome is Outcome.FAILED, story(reload)
    assert reload.fault is Fault.BAKE_FAILED
    assert f"one of the 2 new workers of {toy.master}, died" in reload.reason
    assert reload.seconds < 3


def test_old_workers_that_take_long_are_left_to_finish(toys: Any) -> None:
    toy = toys(finish=3)
    toy.wait_for()
    reload = toy.reload("drain_timeout = 0.3")
    assert reload.outcome is Outcome.SUCCEEDED
    assert reload.seconds < 2
    assert when(reload, "draining: 2 old workers still finish their requests") > 0.3


def test_the_next_reload_does_not_wait_for_an_hour() -> None:
    assert protocol.DRAIN_SECONDS == 60


@pytest.mark.parametrize("how", [{"refuses": True}, {"aborts": True, "doomed": True, "boot": [1]}])
def test_a_master_that_keeps_its_old_workers_has_refused(toys: Any, how: dict[str, Any]) -> None:
    toy = toys()
    toy.wait_for()
    toy.plan(**how)
    reload = toy.reload()
    assert reload.fault is Fault.NOT_READY
    assert f"{toy.master} has refused the new configuration" in reload.reason
    assert 4.5 < reload.seconds < 7


@pytest.mark.parametrize(
    "plan",
    mostly_slow([{"busy": 6}, {"boot": [6]}, {"pause": 6, "workers": 1}], [{"busy": 6}]),
)
def test_a_master_that_takes_its_time_has_not_refused(toys: Any, plan: dict[str, Any]) -> None:
    toy = toys(workers=plan.get("workers", 2))
    toy.wait_for(plan.get("workers", 2))
    toy.plan(overlap=3, **plan)
    reload = toy.reload()
    assert reload.outcome is Outcome.SUCCEEDED, story(reload)


def test_workers_that_end_again_and_again_are_not_waited_for(toys: Any) -> None:
    toy = toys()
    toy.wait_for()
    toy.plan(doomed=True, boot=[0.1])
    reload = toy.reload()
    assert reload.fault is Fault.NOT_READY
    assert "end before they are ready" in reload.reason
    assert reload.seconds < 4


def test_an_answer_of_an_old_worker_proves_nothing(toys: Any, port: int) -> None:
    toy = toys()
    toy.wait_for()
    toy.plan(status=500, overlap=60)
    reload = toy.reload(f"ready = http://127.0.0.1:{port}/\nready_timeout = 3")
    assert reload.fault is Fault.NOT_READY, story(reload)
    assert "a new worker answers: status 500" in reload.reason


@pytest.mark.parametrize("kind", ["http", "tcp"])
def test_a_new_worker_is_asked_among_old_ones(toys: Any, port: int, kind: str) -> None:
    toy = toys(status=500)
    toy.wait_for()
    toy.plan(overlap=60)
    slash = "/" if kind == "http" else ""
    reload = toy.reload(f"ready = {kind}://127.0.0.1:{port}{slash}\ndrain_timeout = 0.1")
    assert reload.outcome is Outcome.SUCCEEDED, story(reload)
    assert not [line for line in reload.lines if "in a row" in line.text], story(reload)


def test_a_worker_that_answers_slowly_is_ready(
    toys: Any, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "ANSWER_SECONDS", 0.5)
    toy = toys(workers=1)
    toy.wait_for(1)
    toy.plan(workers=1, slow=0.8)
    reload = toy.reload(f"ready = http://127.0.0.1:{port}/\nready_timeout = 60")
    assert reload.outcome is Outcome.SUCCEEDED, story(reload)
    when(reload, "no answer in 0.5 s")


@pytest.mark.parametrize("status", [200, 500])
def test_where_a_redirect_leads_a_new_worker_has_to_answer(
    toys: Any, port: int, status: int
) -> None:
    toy = toys(moved="/there", status=700 - status)
    toy.wait_for()
    toy.plan(moved="/there", status=status, overlap=60)
    seconds = 60 if status == 200 else 8
    ready = f"ready = http://127.0.0.1:{port}/\nready_timeout = {seconds}\ndrain_timeout = 0.1"
    reload = toy.reload(ready)
    assert (reload.outcome is Outcome.SUCCEEDED) == (status == 200), story(reload)
    assert status == 200 or "a new worker answers: status 500" in reload.reason
    assert not [line for line in reload.lines if "in a row" in line.text], story(reload)


def test_a_redirect_to_another_server_says_nothing_of_the_new_workers(toys: Any, port: int) -> None:
    toy = toys()
    toy.wait_for()
    with proxy(port) as other:
        toy.plan(moved=f"http://127.0.0.1:{other}/there")
        reload = toy.reload(f"ready = http://127.0.0.1:{port}/\nready_timeout = 2")
    assert reload.fault is Fault.NOT_READY, story(reload)
    assert f"to 'http://127.0.0.1:{other}/there', which is elsewhere" in reload.reason


@pytest.mark.parametrize("status", [200, 500])
def test_behind_a_proxy_many_answers_have_to_be_good(toys: Any, port: int, status: int) -> None:
    toy = toys()
    toy.wait_for()
    toy.plan(status=status)
    with proxy(port) as before:
        seconds = 60 if status == 200 else 3
        ready = f"ready = http://127.0.0.1:{before}/\nready_timeout = {seconds}"
        reload = toy.reload(ready)
    assert (reload.outcome is Outcome.SUCCEEDED) == (status == 200), story(reload)
    if status == 200:
        when(reload, "5 of 6 good answers in a row")


@contextlib.contextmanager
def proxy(port: int) -> Iterator[int]:
    """Stand before *port*, in a thread."""

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client, socket.create_connection(("127.0.0.1", port)) as server:
                server.sendall(client.recv(4096))
                while chunk := server.recv(4096):
                    client.sendall(chunk)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)
