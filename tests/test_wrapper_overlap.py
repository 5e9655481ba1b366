"""What hupwatch's users rely on: any server, by a second copy of it."""

from __future__ import annotations

import os
import signal
import time

import psutil
import pytest

from tests.harness.load import Load, get
from tests.harness.otherservers import uwsgi
from tests.harness.processes import lives
from tests.harness.waiting import wait_until
from tests.harness.wrapped import PREFORK, RUN, Wrapped, python

SERVERS = {
    "uvicorn": ("uvicorn", "--uds", "{socket}"),
    "hypercorn": ("hypercorn", "--workers", "2", "--bind", "unix:{socket}"),
    "waitress": ("waitress-serve", "--unix-socket", "{socket}"),
}


def command(wrapped: Wrapped, server: str) -> list[str]:
    name, *arguments = (word.format(socket=wrapped.socket) for word in SERVERS[server])
    if name != "waitress-serve":
        wrapped.asgi("v1")
    return [str(wrapped.bin / name), *arguments, "app:app"]


def release(wrapped: Wrapped, server: str, name: str) -> None:
    (wrapped.release if server == "waitress" else wrapped.asgi)(name)


@pytest.mark.parametrize("server", SERVERS)
def test_a_symlink_switch_and_back(wrapped: Wrapped, server: str) -> None:
    """The path of the socket is bound anew by each copy, and unlinked by each at its end."""
    wrapped.run("-w", "1", "--", *command(wrapped, server), at=wrapped.socket)
    for name in ("v2", "v1") if server != "hypercorn" else ("v2",):
        release(wrapped, server, name)
        wrapped.hup()
        wrapped.wait_for_release(name, wrapped.socket)
        wait_until(lambda: len(wrapped.servers()) == 1, what="the first copy's helpers end")
    assert list(wrapped.root.glob("app.sock*")) == [wrapped.socket]
    wrapped.send("TERM")
    assert wrapped.wait() in (0, -signal.SIGTERM)
    wait_until(lambda: wrapped.alone, what="its helpers end too")


def prefork(wrapped: Wrapped) -> list[str]:
    return [*python(PREFORK), str(wrapped.socket)]


def test_a_master_that_unlinks_the_path_gets_no_time_to(wrapped: Wrapped) -> None:
    """A plain TERM lets it take away what the second copy has bound."""
    wrapped.run(*prefork(wrapped), at=wrapped.socket)
    with Load(wrapped.socket, fast=0, slow=3) as load:
        load.wait_in_flight()
        wrapped.release("v2")
        wrapped.hup()
        wrapped.wait_for_release("v2", wrapped.socket)
        seen = load.releases["v2"]
        wait_until(lambda: load.releases["v2"] > seen)
    assert load.dropped == []
    assert len(wrapped.servers()) == 1
    assert list(wrapped.root.glob("app.sock*")) == [wrapped.socket]


def test_a_socket_that_is_passed_on_is_never_closed(wrapped: Wrapped) -> None:
    """uvicorn itself closes a connection or two whose request it has not read when it stops."""
    wrapped.asgi("v1")
    wrapped.run("--listen", f"127.0.0.1:{wrapped.port}", "-w0.1", "--", *wrapped.uvicorn("--fd", 3))
    with Load(wrapped.port, fast=2, slow=2) as load:
        for name in ("v2", "v3"):
            load.wait_in_flight()
            wrapped.asgi(name, boot=0.5)
            wrapped.hup()
            wrapped.wait_for_release(name)
    assert [line for line in load.dropped if "ConnectionResetError" not in line] == []
    assert [line for line in load.dropped if line.startswith("/slow")] == []
    assert len(load.dropped) <= 4
    assert load.patient < 1.5


def test_gunicorn_takes_the_socket_that_is_passed_on(wrapped: Wrapped) -> None:
    """Its own re-exec would not find the descriptor any more: a second copy is started."""
    wrapped.run("--listen", f"unix:{wrapped.socket}", *wrapped.inheriting("-w2"), at=wrapped.socket)
    with Load(wrapped.socket, fast=1, slow=1) as load:
        for name in ("v2", "v3"):
            load.wait_in_flight()
            wrapped.release(name, boot=0.5)
            wrapped.hup()
            wrapped.wait_for_release(name, wrapped.socket)
    assert load.dropped == []
    wrapped.release("broken", code="raise RuntimeError")
    wrapped.hup("failed")
    wrapped.wait_for_release("v3", wrapped.socket)
    wrapped.send("TERM")
    assert wrapped.wait() == 0
    assert not wrapped.socket.exists()


def test_sockets_given_by_systemd_are_passed_on(wrapped: Wrapped) -> None:
    code = (
        "import os, socket, sys\n"
        f"s = socket.create_server(('127.0.0.1', {wrapped.port}))\n"
        "fd = s.detach()\n"
        "os.set_inheritable(fd, True) if fd == 3 else os.dup2(fd, 3)\n"
        "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))\n"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    wrapped.run(*wrapped.inheriting(), program=[*python(code), str(RUN)])
    wrapped.release("v2")
    wrapped.hup()
    wrapped.wait_for_release("v2")
    wrapped.send("USR2")
    wait_until(lambda: wrapped.said("upgrades itself"))
    wrapped.release("v3")
    wrapped.hup()
    wrapped.wait_for_release("v3")


@pytest.mark.parametrize("taken", [False, True])
def test_an_address_that_cannot_be_listened_on(wrapped: Wrapped, taken: bool) -> None:
    wrapped.run(*wrapped.command())
    other = Wrapped(wrapped.root)
    other.begin("--listen", f"127.0.0.1:{wrapped.port}" if taken else "nonsense", "true")
    assert other.wait() == 2
    assert "Address already in use" in wrapped.console() or not taken
    assert "Traceback" not in wrapped.console()


def test_a_failed_warm_up_changes_nothing(wrapped: Wrapped) -> None:
    line = command(wrapped, "uvicorn")
    wrapped.run("--warmup-time=1", "--", *line, at=wrapped.socket)
    server = wrapped.servers()
    wrapped.release("broken", code="import time; time.sleep(0.2); raise RuntimeError")
    wrapped.hup("failed")
    assert wrapped.servers() == server
    wrapped.asgi("v1")
    wrapped.wait_for_release("v1", wrapped.socket)
    wrapped.asgi("v2")
    wrapped.hup()
    wrapped.wait_for_release("v2", wrapped.socket)


def test_a_copy_that_is_slow_to_listen_is_waited_for(wrapped: Wrapped) -> None:
    """It uses no epoll, and its warm-up time is over long before."""
    wrapped.run("-w0.1", *prefork(wrapped), at=wrapped.socket)
    wrapped.release("v2", boot=2)
    with Load(wrapped.socket, fast=1, slow=0) as load:
        wrapped.hup()
        wrapped.wait_for_release("v2", wrapped.socket)
    assert len(load.dropped) < 20  # its own unlink and bind lie apart; too early is 2 s, hundreds


def test_a_check_that_fails_gives_the_path_back(wrapped: Wrapped) -> None:
    """The second copy has bound the path by then; the old one has it again."""
    line = command(wrapped, "uvicorn")
    wrapped.run("--check", "false", "--", *line, at=wrapped.socket)
    server = wrapped.servers()
    wrapped.asgi("v2")
    wrapped.hup("rolled back")
    wrapped.wait_for_release("v1", wrapped.socket)
    assert wrapped.servers() == server
    assert list(wrapped.root.glob("app.sock*")) == [wrapped.socket]


def test_a_server_on_a_port_replaces_its_own_workers(wrapped: Wrapped) -> None:
    """No second copy can bind the port, but its family knows how it reloads in place."""
    words = uwsgi(wrapped, "--lazy-apps", "--die-on-term", "--need-app").split()
    wrapped.run("--status-file", wrapped.root / "status.json", *words)
    (server,) = wrapped.servers()
    wrapped.release("v2")
    wrapped.hup()
    wrapped.wait_for_release("v2")
    assert wrapped.servers() == [server]
    assert wrapped.status()["generation"] == 2
    wrapped.release("broken", code="raise RuntimeError")
    wrapped.hup("failed")
    assert wrapped.said("RuntimeError")
    assert get(wrapped.port).startswith(b"v2 ")
    wrapped.send("TERM")
    assert wrapped.wait() == 0


def test_a_copy_that_ends_says_how(wrapped: Wrapped) -> None:
    line = command(wrapped, "uvicorn")
    wrapped.run(*line, at=wrapped.socket)
    wrapped.release("broken", code="raise SystemExit(9)")
    wrapped.hup("failed")
    assert wrapped.said(") exited with status 9")
    assert wrapped.said("generation 1 (pid "), wrapped.console()


def test_a_port_cannot_be_bound_twice(wrapped: Wrapped) -> None:
    wrapped.asgi("v1")
    wrapped.run(*wrapped.uvicorn("--port", wrapped.port))
    wrapped.hup("failed")
    wrapped.wait_for_release("v1")


@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_the_child_is_left_serving(wrapped: Wrapped, name: str) -> None:
    """hupwatch's rule, without --kill-at-exit."""
    wrapped.run("--no-kill-at-exit", "-w1", "--", *command(wrapped, "uvicorn"), at=wrapped.socket)
    (server,) = wrapped.servers()
    wrapped.send(name)
    assert wrapped.wait() == 0
    assert get(wrapped.socket).startswith(b"v1 ")
    assert server.is_running()
    assert os.getpgid(server.pid) == server.pid


def test_the_child_is_taken_along(wrapped: Wrapped) -> None:
    wrapped.run("--kill-at-exit", "-w1", "--", *command(wrapped, "uvicorn"), at=wrapped.socket)
    (server,) = wrapped.servers()
    wrapped.send("TERM")
    assert wrapped.wait() in (0, -signal.SIGTERM)
    assert not lives(server)


def test_under_the_name_of_hupwatch(wrapped: Wrapped) -> None:
    alias = wrapped.root / "hupwatch"
    alias.symlink_to(RUN)
    line = command(wrapped, "uvicorn")
    wrapped.run("-v", "-w", "0.5", "--", *line, at=wrapped.socket, program=[str(alias)])
    wrapped.hup()
    wrapped.send("TERM")
    assert wrapped.wait() == 0
    assert get(wrapped.socket).startswith(b"v1 ")


def test_a_stop_while_the_old_master_is_frozen(wrapped: Wrapped) -> None:
    """It is stopped by a signal so that it cannot unlink the path, and must not stay so."""
    wrapped.run(*prefork(wrapped), at=wrapped.socket)
    with Load(wrapped.socket, fast=0, slow=3, slow_path="/slow6") as load:
        load.wait_in_flight()
        wrapped.send("HUP")
        wait_until(lambda: wrapped.said("draining:"), what=wrapped.console())
        stopped = psutil.STATUS_STOPPED
        wait_until(lambda: stopped in [s.status() for s in wrapped.servers()], 60, "it is frozen")
        load._over.set()
        wrapped.send("TERM")
        wrapped.wait()
    assert wrapped.kill_leftovers() == []


def test_a_server_that_hears_no_term_is_killed(wrapped: Wrapped) -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('up', flush=True); time.sleep(60)"
    )
    wrapped.begin("-w0.2", "--drain-timeout=0.5", *python(code))
    wait_until(lambda: "up" in wrapped.console())
    before = time.monotonic()
    wrapped.hup()
    assert time.monotonic() - before < 10
    (server,) = wrapped.servers()
    server.kill()
    assert wrapped.wait() == -signal.SIGKILL


def test_another_signal_ends_it_gracefully(wrapped: Wrapped) -> None:
    code = (
        "import signal, sys, time; signal.signal(signal.SIGWINCH, lambda *_: sys.exit(0))\n"
        "print('up', flush=True)\n"
        "while True: time.sleep(1)"
    )
    wrapped.begin("-w0.2", "--stop-signal=WINCH", *python(code))
    wait_until(lambda: "up" in wrapped.console())
    wrapped.hup()
    assert len(wrapped.servers()) == 1


def test_a_pidfile_that_the_old_copy_removes_is_put_back(wrapped: Wrapped) -> None:
    code = (
        "import os, signal, sys, time\n"
        "path = sys.argv[2]\n"
        "with open(path + '.new', 'w') as f: f.write(str(os.getpid()))\n"
        "os.replace(path + '.new', path)\n"
        "signal.signal(signal.SIGTERM, lambda *_: (os.unlink(path), sys.exit(0)))\n"
        "print('up', flush=True)\n"
        "while True: time.sleep(1)"
    )
    pidfile = wrapped.root / "server.pid"
    wrapped.begin("-w0.5", *python(code), "--pidfile", pidfile)
    wait_until(lambda: "up" in wrapped.console())
    wrapped.hup()
    assert int(pidfile.read_text()) == wrapped.servers()[0].pid
    assert list(wrapped.root.glob("server.pid*")) == [pidfile]
