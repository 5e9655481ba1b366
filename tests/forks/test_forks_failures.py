"""Subscribers that raise, under real servers."""

from __future__ import annotations

import pathlib
import signal
import threading

import pytest
from conftest import Start

from tests.harness.forkservers import CONFIG, Server, gunicorn, uwsgi, write, write_recorder

# Raises on the event FAIL, with on_error=CHOICE, as long as the file `broken` exists.
APP = """
import os, time
from supervisor_hotreload import forks

def refuse(event):
    if os.path.exists("broken"):
        raise ValueError("no database\\nfor " + type(event).__name__)

fail = os.environ.get("FAIL")
if fail:
    forks.subscribe(getattr(forks, fail), refuse, on_error=os.environ.get("CHOICE", "fail"))

def application(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        open("slow", "w").close()
        time.sleep(1)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""
CONF = """
from supervisor_hotreload.forks.gunicorn import install
install(globals())
"""
BOOT_EVENTS = ["PreFork", "PostFork", "PostWorkerInit"]
WORKER_BOOT_ERROR = 3  # gunicorn's exit status


@pytest.fixture
def directory(tmp_path: pathlib.Path) -> pathlib.Path:
    write(tmp_path, app=APP, conf=CONF)
    (tmp_path / "broken").touch()
    return tmp_path


@pytest.mark.parametrize("event", BOOT_EVENTS)
def test_gunicorn_does_not_boot_with_a_subscriber_that_raises(
    event: str, directory: pathlib.Path, start: Start
) -> None:
    server = start(gunicorn(directory, "--preload"), FAIL=event)
    assert server.wait_for_exit() == WORKER_BOOT_ERROR
    assert f"{event}: the subscriber app.refuse raised ValueError(" in server.log
    assert "the worker's boot fails" in server.log


@pytest.mark.parametrize("event", BOOT_EVENTS)
def test_gunicorn_goes_on_if_the_subscriber_chose_so(
    event: str, directory: pathlib.Path, start: Start
) -> None:
    server = start(gunicorn(directory, "--preload"), FAIL=event, CHOICE="continue")
    server.wait_for_answer()
    assert f"{event}: the subscriber app.refuse raised; going on" in server.log
    assert "ValueError: no database" in server.log


def test_a_late_post_fork_that_raises_fails_the_boot_too(
    directory: pathlib.Path, start: Start
) -> None:
    server = start(gunicorn(directory), FAIL="PostFork")
    assert server.wait_for_exit() == WORKER_BOOT_ERROR
    assert "PostFork: the subscriber app.refuse raised" in server.log


def ask_slowly(server: Server, directory: pathlib.Path) -> tuple[threading.Thread, list]:
    """Put a request of one second in flight; return its thread and the list for its answer."""
    answers: list = []
    thread = threading.Thread(target=lambda: answers.append(server.get("/slow")), daemon=True)
    thread.start()
    server.wait((directory / "slow").exists, "the request in flight")
    return thread, answers


def test_a_pre_fork_that_raises_does_not_cut_requests_in_flight(
    directory: pathlib.Path, start: Start
) -> None:
    (directory / "broken").unlink()
    server = start(gunicorn(directory, "--preload"), FAIL="PreFork")
    server.wait_for_answer()
    thread, answers = ask_slowly(server, directory)
    (directory / "broken").touch()
    server.signal(signal.SIGTTIN)
    assert server.wait_for_exit() == WORKER_BOOT_ERROR
    thread.join(5)
    assert [status for status, _ in answers] == [200]


def test_a_generation_that_raises_leaves_the_old_one_serving(
    directory: pathlib.Path, start: Start
) -> None:
    (directory / "broken").unlink()
    server = start(gunicorn(directory, "--preload"), FAIL="PostFork")
    worker = server.wait_for_answer()
    (directory / "broken").touch()
    server.signal(signal.SIGUSR2)
    server.wait_for_log("Reason: Worker failed to boot.")
    server.wait(lambda: server.children() == [int(worker)], "the end of the new master")
    assert server.wait_for_answer() == worker


@pytest.mark.parametrize("own_hook", ["", "def pre_exec(server): raise OSError('mine')\n"])
def test_a_pre_exec_that_raises_touches_nothing_of_the_old_generation(
    own_hook: str, directory: pathlib.Path, start: Start
) -> None:
    write(directory, conf=own_hook + CONF)
    server = start(gunicorn(directory, "--preload", "--pid", "pid"), FAIL="PreExec")
    worker = server.wait_for_answer()
    server.signal(signal.SIGUSR2)
    server.wait_for_log(f"pre_exec failed: no new master, {server.pid} serves on")
    server.wait(lambda: server.children() == [int(worker)], "the end of the child")
    assert (directory / "pid").read_text().strip() == str(server.pid)
    assert server.wait_for_answer() == worker
    if own_hook:
        return
    (directory / "broken").unlink()

    def has_new_master() -> bool:  # gunicorn ignores USR2 until it has reaped the fork that failed
        if server.log.count("USR2 signal ignored") == len(asked):
            asked.append(signal.SIGUSR2)
            server.signal(signal.SIGUSR2)
        return len(server.children()) == 2

    asked: list[int] = []
    server.wait(has_new_master, "a new master, now that it can be")


def test_a_worker_exit_that_raises_is_logged(directory: pathlib.Path, start: Start) -> None:
    server = start(gunicorn(directory, "--preload"), FAIL="WorkerExit")
    server.wait_for_answer()
    server.signal(signal.SIGTERM)
    assert server.wait_for_exit() == 0
    assert "WorkerExit: the subscriber app.refuse raised; going on" in server.log


@pytest.mark.parametrize("event", ["PostFork", "PostWorkerInit"])
def test_a_uwsgi_worker_does_not_serve_with_a_subscriber_that_raises(
    event: str, directory: pathlib.Path, start: Start
) -> None:
    server = start(uwsgi(directory, "--master", "--forkbomb-delay", "0"), FAIL=event)
    server.wait_for_log(f"{event}: the subscriber app.refuse raised ValueError(")
    server.wait_for_log("failed loading app in worker 1")
    (directory / "broken").unlink()
    server.wait_for_answer()


def test_a_lazy_uwsgi_worker_does_not_serve_with_a_subscriber_that_raises(
    directory: pathlib.Path, start: Start
) -> None:
    server = start(uwsgi(directory, "--master", "--lazy-apps", "--need-app"), FAIL="PostFork")
    server.wait_for_exit()  # status 22, and 0 in uWSGI 2.0.22
    assert "need-app requested, destroying the instance" in server.log
    assert "PostFork: the subscriber app.refuse raised ValueError(" in server.log


def test_a_uwsgi_worker_goes_on_if_the_subscriber_chose_so(
    directory: pathlib.Path, start: Start
) -> None:
    server = start(uwsgi(directory, "--master"), FAIL="PostFork", CHOICE="continue")
    server.wait_for_answer()
    assert "PostFork: the subscriber app.refuse raised; going on" in server.log


def test_uwsgi_workers_without_a_master_are_refused(directory: pathlib.Path, start: Start) -> None:
    server = start(uwsgi(directory, "--processes", "2", "--need-app"), FAIL="PostFork")
    assert server.wait_for_exit() == 22
    assert "MasterRequired: you have to enable the uWSGI master process" in server.log


def test_a_single_uwsgi_process_without_a_master_is_told(
    directory: pathlib.Path, start: Start
) -> None:
    server = start(uwsgi(directory), FAIL="PostFork")
    server.wait_for_answer()
    assert "no fork event will be sent: uWSGI does not fork here" in server.log


OWN_HOOKS = """
import recorder
pre_fork = "own.pre_fork"

def post_fork(server, worker):
    recorder.note("post_fork", "own")

def worker_exit(server, worker):
    recorder.note("worker_exit", "own")
"""
OWN_MODULE = """
import recorder

def pre_fork(server, worker):
    recorder.note("pre_fork", "own")
"""


def test_install_keeps_the_hooks_that_are_there(directory: pathlib.Path, start: Start) -> None:
    write_recorder(
        directory, CONFIG.replace("install(globals())", f"{OWN_HOOKS}install(globals())")
    )
    write(directory, own=OWN_MODULE)
    server = start(gunicorn(directory))
    server.wait_for_answer()
    server.signal(signal.SIGTERM)
    assert server.wait_for_exit() == 0
    order = [(e["who"], e["what"]) for e in server.events()]
    for own, event in (("pre_fork", "PreFork"), ("post_fork", "PostFork")):
        assert order.index(("own", own)) < order.index(("config", event))
    assert order.index(("own", "worker_exit")) < order.index(("app", "WorkerExit"))
