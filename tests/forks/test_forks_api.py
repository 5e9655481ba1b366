"""What `subscribe` accepts, and what the package imports."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from supervisor_hotreload import forks
from supervisor_hotreload.forks import events
from supervisor_hotreload.forks.gunicorn import install, worker_exit
from tests.harness.forkservers import REPOSITORY


@pytest.fixture(autouse=True)
def own_subscriptions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave nothing subscribed in the process of the tests."""
    monkeypatch.setattr(events, "_subscriptions", {event: [] for event in events.EVENTS})
    monkeypatch.setattr(events, "_state", events._State())


def post_fork(pid: int = 0) -> forks.PostFork:
    return forks.PostFork("gunicorn", pid or os.getpid(), os.getppid(), 1, {})


def test_a_call_and_a_decorator_subscribe_and_return_the_function() -> None:
    received = []

    def called(event: forks.PostFork) -> None:
        received.append(("called", event))

    assert forks.subscribe(forks.PostFork, called) is called

    @forks.subscribe(forks.PostFork)
    def decorated(event: forks.PostFork) -> None:
        received.append(("decorated", event))

    assert callable(decorated)
    event = post_fork()
    events.emit(event)
    assert received == [("called", event), ("decorated", event)]


def test_a_function_that_subscribes_twice_is_called_once() -> None:
    received: list[forks.ForkEvent] = []
    receive = received.append
    forks.subscribe(forks.PostFork, receive)
    forks.subscribe(forks.PostFork, receive)
    events.emit(post_fork())
    assert len(received) == 1


def test_functions_made_in_a_loop_are_all_called() -> None:
    received = []
    for number in range(3):
        forks.subscribe(forks.PostFork, lambda _, number=number: received.append(number))
    events.emit(post_fork())
    assert received == [0, 1, 2]


def test_a_module_executed_anew_replaces_its_subscribers() -> None:
    source = "subscribe(PostFork, lambda event: received.append(generation))"
    received: list[int] = []
    for generation in (1, 2):
        namespace = {"__name__": "__config__", "received": received, "generation": generation}
        exec(source, {**vars(forks), **namespace})
    events.emit(post_fork())
    assert received == [2]


def test_a_late_subscriber_gets_post_fork_once_the_app_is_loaded() -> None:
    received: list[forks.PostFork] = []
    events.emit(post_fork())
    forks.subscribe(forks.PostFork, received.append)
    assert received == []
    events.catch_up()
    events.catch_up()
    assert [event.late for event in received] == [True]


def test_a_subscriber_that_comes_after_loading_hears_post_fork_at_once() -> None:
    received: list[forks.PostFork] = []
    events.emit(post_fork())
    events.app_is_loaded()
    forks.subscribe(forks.PostFork, received.append)
    assert [event.late for event in received] == [True]


def test_the_post_fork_of_another_process_is_not_passed_on() -> None:
    received: list[forks.PostFork] = []
    events.emit(post_fork(pid=os.getppid()))
    forks.subscribe(forks.PostFork, received.append)
    events.catch_up()
    assert received == []


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((int, print), {}, TypeError, "PreFork, PostFork"),
        ((forks.ForkEvent, print), {}, TypeError, "no fork event"),
        ((forks.PostFork, "print"), {}, TypeError, "cannot be called"),
        ((forks.PostFork, print), {"on_error": "ignore"}, ValueError, "'ignore'"),
    ],
)
def test_arguments_of_the_wrong_kind_are_named(
    arguments: tuple, options: dict, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        forks.subscribe(*arguments, **options)


@pytest.mark.parametrize("hook", ["no_such_module.hook", "os.no_such_hook", "nodots", 7])
def test_install_names_a_hook_that_it_cannot_keep(hook: object) -> None:
    with pytest.raises(TypeError, match="the hook pre_fork = "):
        install({"pre_fork": hook})


def test_install_twice_sends_each_event_once() -> None:
    namespace: dict = {}
    install(namespace)
    once = dict(namespace)
    install(namespace)
    assert namespace == once


@pytest.mark.parametrize(("who", "times"), [("worker", 1), ("master", 0)])
def test_worker_exit_is_sent_in_the_worker_only(who: str, times: int) -> None:
    pid = os.getpid() if who == "worker" else os.getppid()
    # arbiter.kill_worker calls the hook in the master, for a worker that is gone
    received: list[forks.WorkerExit] = []
    forks.subscribe(forks.WorkerExit, received.append)
    server = SimpleNamespace(pid=os.getppid(), log=events.logger)
    worker_exit(server, SimpleNamespace(pid=pid, age=1))
    assert len(received) == times


IMPORTS = """
import sys
sys.path.insert(0, sys.argv[1])
before = set(sys.modules)
import supervisor_hotreload.forks, supervisor_hotreload.forks.gunicorn
import supervisor_hotreload.forks.readiness
print("\\n".join(sorted(set(sys.modules) - before)))
"""


def test_only_the_standard_library_is_imported() -> None:
    # -S: no site-packages, so that an import of anything else fails even if it is guarded late
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", IMPORTS, str(REPOSITORY)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ours = [name for name in done.stdout.split() if name.startswith("supervisor_hotreload")]
    allowed = ("supervisor_hotreload", "supervisor_hotreload.forks")
    assert "supervisor_hotreload.forks.gunicorn" in ours
    assert [n for n in ours if n not in allowed and not n.startswith(allowed[1] + ".")] == []
    foreign = ("gunicorn", "uwsgi", "pyramid", "zope", "supervisor", "psutil")
    assert [n for n in done.stdout.split() if n.split(".")[0] in foreign] == []
