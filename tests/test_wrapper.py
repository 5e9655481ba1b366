"""hotreload-run: one pid, every signal, the exit status, and what it costs."""

from __future__ import annotations

import ast
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

import supervisor_hotreload.wrapper
from supervisor_hotreload import __version__
from supervisor_hotreload.system.process import count_of_sleeps, lookup
from supervisor_hotreload.system.world import World
from supervisor_hotreload.wrapper import copy_survey, handover
from supervisor_hotreload.wrapper.options import Usage, parse
from tests.harness.load import get
from tests.harness.processes import lives
from tests.harness.waiting import wait_until
from tests.harness.wrapped import RUN, Wrapped, descriptors, python, zombies

SLEEPER = python("import time; print('up', flush=True); time.sleep(60)")
"""The smallest server there is: it does not even listen."""


def up(wrapped: Wrapped) -> None:
    wait_until(lambda: "up" in wrapped.console(), what=wrapped.console())


# -- the command line


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("gunicorn app:app --bind :80", "gunicorn app:app --bind :80"),
        (
            "--pid=x gunicorn_paster dev.ini --log-level debug",
            "gunicorn_paster dev.ini --log-level debug",
        ),
        ("--pid x -- gunicorn -w 2 app", "gunicorn -w 2 app"),
        ("-vvv -w2 -k -- uvicorn -- app", "uvicorn -- app"),
        ("--verbose --warmup-time=2.5 --kill-at-exit -- cmd -w 3", "cmd -w 3"),
    ],
)
def test_command_lines_of_its_predecessors(line: str, command: str) -> None:
    assert " ".join(parse("hotreload-run", line.split()).command) == command


def test_gunicorn_pidfile_is_passed_on() -> None:
    options = parse("rainbow-saddle", ["--gunicorn-pidfile=/run/g.pid", "gunicorn", "app"])
    assert options.command == ("gunicorn", "app", "--pid", "/run/g.pid")
    assert options.policy.pidfile == "/run/g.pid"


def test_settings_mean_what_they_mean_to_the_plugin() -> None:
    line = "--ready settle:3 --ready-timeout 9 --bake 2 --check true --drain-timeout 7 gunicorn a"
    policy = parse("hotreload-run", line.split()).policy
    assert (str(policy.ready), policy.ready_timeout, policy.bake) == ("settle:3", 9, 2)
    assert (policy.check, policy.drain_timeout) == ("true", 7)


def test_hupwatch_leaves_its_child_by_name_only() -> None:
    assert not parse("hotreload-run", ["cmd"]).leave
    assert parse("hotreload-run", ["--no-kill-at-exit", "cmd"]).leave
    assert parse("/usr/bin/hupwatch", ["--", "cmd"]).leave
    assert not parse("/usr/bin/hupwatch", ["-k", "--", "cmd"]).leave


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("", "no command"),
        ("--pid=x --", "no command"),
        ("--bogus cmd", "--bogus"),
        ("--bake much cmd", "--bake much: not a number"),
        ("--ready-timeout 0 cmd", "--ready-timeout 0: has to be more than 0"),
        ("--stop-signal WHAT cmd", "not a signal"),
        ("gunicorn --daemon app", "remove --daemon"),
    ],
)
def test_a_bad_command_line_is_told(line: str, complaint: str) -> None:
    done = subprocess.run(
        [RUN, *line.split()], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 2
    usage, complained = done.stderr.splitlines()
    assert usage.startswith("usage: hotreload-run [options]")
    assert complaint in complained
    assert "Traceback" not in done.stderr


def test_version_and_help() -> None:
    for option, text in (("--version", __version__), ("--help", "--gunicorn-pidfile")):
        done = subprocess.run([RUN, option], capture_output=True, text=True, timeout=20, check=True)
        assert text in done.stdout


def test_the_stub_of_nginx_says_what_it_is() -> None:
    stub = RUN.with_name("hotreload-orphan")
    for words, status in (("--help", 0), ("-h", 0), ("", 127), ("no-such-command", 127)):
        done = subprocess.run(
            [stub, *words.split()], capture_output=True, text=True, timeout=20, check=False
        )
        assert done.returncode == status
        assert ("supervisord adopts the server" in done.stdout) == (status == 0)
        assert len(done.stderr.splitlines()) == (1 if status else 0)


# -- the exit


def test_the_exit_status_is_the_servers(wrapped: Wrapped) -> None:
    wrapped.begin(*python("raise SystemExit(42)"))
    assert wrapped.wait() == 42


@pytest.mark.parametrize("name", ["KILL", "TERM", "ABRT", "USR1"])
def test_killed_by_the_same_signal(wrapped: Wrapped, name: str) -> None:
    wrapped.begin(*python(f"import os, signal; os.kill(os.getpid(), signal.SIG{name})"))
    assert wrapped.wait() == -getattr(signal, f"SIG{name}")


def test_a_command_that_is_not_there(wrapped: Wrapped) -> None:
    wrapped.begin("--pid", wrapped.root / "pid", "no-such-command")
    assert wrapped.wait() == 127
    assert "no-such-command: is not in PATH: give its full path" in wrapped.console()
    assert not (wrapped.root / "pid").exists()


LEASE = """\
import fcntl, os, signal, sys, time
signal.signal(signal.SIGIO, lambda *_: None)
fcntl.fcntl(os.open(sys.argv[1], os.O_RDWR), fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
time.sleep(60)
"""


def test_the_start_does_not_wait_for_an_exec(wrapped: Wrapped) -> None:
    """The owner of an executable can delay it for as long as he likes."""
    path = wrapped.root / "server"
    path.write_text("#!/bin/sh\nexit 0\n")
    path.chmod(0o755)
    holder = subprocess.Popen([*python(LEASE), path], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        wrapped.begin("--status-file", wrapped.root / "status.json", path)
        wait_until(lambda: (wrapped.root / "status.json").exists(), what=wrapped.console())
        assert wrapped.status()["state"] == "starting"
        wrapped.send("TERM")
        assert wrapped.wait(5) == -signal.SIGTERM
    finally:
        holder.kill()
        holder.communicate()


def test_a_gunicorn_that_cannot_boot_tells_its_own_status(wrapped: Wrapped) -> None:
    wrapped.release("broken", code="raise RuntimeError")
    wrapped.begin(*wrapped.command())
    assert wrapped.wait() == 3


@pytest.mark.parametrize("name", ["TERM", "INT", "QUIT"])
def test_it_takes_the_server_along(wrapped: Wrapped, name: str) -> None:
    wrapped.run("--pid", wrapped.root / "pid", *wrapped.command("-w2"))
    assert (wrapped.root / "pid").read_text() == f"{wrapped.pid}\n"
    family = wrapped.family()
    wrapped.send(name)
    assert wrapped.wait() == 0
    assert [process for process in family if lives(process)] == []
    assert not (wrapped.root / "pid").exists()


def test_it_waits_for_the_graceful_stop(wrapped: Wrapped) -> None:
    wrapped.run(*wrapped.command())
    with socket.create_connection(("127.0.0.1", wrapped.port)) as client:
        client.sendall(b"GET /slow1.5 HTTP/1.0\r\n\r\n")
        wait_until(lambda: select.select([client], [], [], 0.3) == ([], [], []))
        wrapped.send("TERM")
        answer = client.recv(65536)
        while b"v1 " not in answer:
            more = client.recv(65536)
            assert more, answer
            answer += more
    assert b"200 OK" in answer
    assert wrapped.wait() == 0


def test_a_killed_master_leaves_no_workers_behind(wrapped: Wrapped) -> None:
    wrapped.run(*wrapped.command("-w2"))
    family = wrapped.family()
    wrapped.servers()[0].kill()
    assert wrapped.wait() == -signal.SIGKILL
    wait_until(lambda: not any(map(lives, family)), 60, "they are gone")


HELPER = (
    "import subprocess, time\n"
    "helper = subprocess.Popen(['sleep', '{seconds}'])\n"
    "print('up', flush=True)\n"
    "time.sleep(60)"
)
"""A server with a helper that ends some seconds after it has begun; it is no worker."""


def test_what_ends_a_moment_after_its_server_is_waited_for(wrapped: Wrapped) -> None:
    """Else an orphan is handed to init, which may not even reap it in a container."""
    wrapped.begin(*python(HELPER.format(seconds=1.5)))
    up(wrapped)
    family = wrapped.family()
    assert len(family) == 2
    wrapped.send("TERM")
    assert wrapped.wait() == -signal.SIGTERM
    assert not any(map(lives, family))


def test_what_is_to_outlive_its_server_is_left_alone(wrapped: Wrapped) -> None:
    wrapped.begin(*python(HELPER.format(seconds=60)))
    up(wrapped)
    _, helper = wrapped.family()
    before = time.monotonic()
    wrapped.send("TERM")
    assert wrapped.wait() == -signal.SIGTERM
    assert time.monotonic() - before < 10
    assert helper.is_running()


# -- the signals


def test_the_rest_reaches_the_current_master(wrapped: Wrapped) -> None:
    wrapped.run(*wrapped.command())
    wrapped.hup()
    for name, workers in (("TTIN", 2), ("TTIN", 3), ("TTOU", 2)):
        wrapped.send(name)
        wait_until(lambda n=workers: len(wrapped.servers()[0].children()) == n, what=name)
    wrapped.send("USR1", "WINCH", "CONT")
    wait_until(lambda: "Handling signal: usr1" in wrapped.console(), what=wrapped.console())
    assert wrapped.running


def test_a_signal_reaches_the_master_behind_a_shell(wrapped: Wrapped) -> None:
    line = " ".join(wrapped.command())
    wrapped.run("sh", "-c", f"{line}; exit 7")
    wrapped.send("TERM")
    assert wrapped.wait() == 7


# -- its own upgrade


def test_usr2_upgrades_it_without_touching_the_server(wrapped: Wrapped) -> None:
    address = f"127.0.0.1:{wrapped.port}"
    wrapped.run(
        "--listen",
        address,
        "--status-file",
        wrapped.root / "status.json",
        *wrapped.inheriting(),
    )
    wrapped.hup()
    pid, server, answer = wrapped.pid, wrapped.servers(), get(wrapped.port)
    wrapped.send("USR2", "TTIN")
    wait_until(lambda: wrapped.said("upgrades itself"), what=wrapped.console())
    wait_until(lambda: wrapped.status()["reload"] is None, what="the new image has written")
    assert (wrapped.pid, wrapped.servers(), get(wrapped.port).split()[0]) == (
        pid,
        server,
        answer.split()[0],
    )
    assert wrapped.status()["generation"] == 2
    assert wrapped.status()["reloads"]["succeeded"] == 1
    wait_until(lambda: len(wrapped.servers()[0].children()) == 2, what="TTIN was not lost")
    assert "HOTRELOAD_RUN" not in wrapped.servers()[0].environ()
    wrapped.release("v2")
    wrapped.hup()
    wrapped.wait_for_release("v2")
    wrapped.send("TERM")
    assert wrapped.wait() == 0


def test_an_upgrade_that_cannot_start_changes_nothing(wrapped: Wrapped) -> None:
    script = wrapped.root / "hotreload-run"
    script.write_text(RUN.read_text())
    script.chmod(0o755)
    wrapped.begin(*SLEEPER, program=[str(script)])
    up(wrapped)
    server = wrapped.servers()
    script.write_text(f"#!{sys.executable}\nraise ImportError\n")
    wrapped.send("USR2")
    wait_until(lambda: wrapped.said("was not upgraded"), what=wrapped.console())
    assert wrapped.running
    assert wrapped.servers() == server


def test_a_state_of_another_process_is_not_believed() -> None:
    mine = lookup(os.getpid())
    assert mine is not None
    state = handover.Handover(mine, 3, "/", True, [], [], {}, [])
    environment: dict[str, str] = {}
    state.write(environment)
    code = (
        "import os; from supervisor_hotreload.wrapper import handover\n"
        "print(handover.take(os.environ), handover.VARIABLE in os.environ)"
    )
    done = subprocess.run(
        python(code),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert done.stdout == "None False\n"
    assert handover.take(environment) == state
    for hostile in ("", "[]", "{}", '{"wrapper": 1}', "\0"):
        assert handover.take({handover.VARIABLE: hostile}) is None


# -- what it reports


def test_the_status_file_is_always_whole(wrapped: Wrapped) -> None:
    wrapped.run("--status-file", wrapped.root / "status.json", *wrapped.command())
    wait_until(lambda: wrapped.status()["state"] == "serving")
    wrapped.send("HUP")
    seen = []
    wait_until(
        lambda: (
            seen.append(wrapped.status())
            or (seen[-1]["generation"] == 2 and seen[-1]["state"] == "serving")
        ),
        what=wrapped.console(),
    )
    assert {"serving", "reloading"} <= {state["state"] for state in seen}
    assert {"booting", "draining"} <= {s["reload"]["phase"] for s in seen if s["reload"]}
    assert seen[-1]["server_pid"] == wrapped.servers()[0].pid
    assert seen[-1]["reload"]["outcome"] == "succeeded"
    wrapped.send("TERM")
    wrapped.wait()
    assert wrapped.status()["state"] == "stopped"
    assert [path.name for path in wrapped.root.glob("status.json*")] == ["status.json"]


def test_systemd_is_told(wrapped: Wrapped) -> None:
    path = wrapped.root / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(20)
        wrapped.run("--notify", *wrapped.command(), NOTIFY_SOCKET=str(path))
        assert manager.recv(4096).startswith(b"READY=1\n")
        assert "NOTIFY_SOCKET" not in wrapped.servers()[0].environ()
        wrapped.send("HUP")
        reloading = dict(line.split("=", 1) for line in manager.recv(4096).decode().splitlines())
        assert reloading["RELOADING"] == "1"
        assert int(reloading["MONOTONIC_USEC"]) > 0
        assert manager.recv(4096).startswith(b"READY=1\nSTATUS=generation 2 (pid ")
        wrapped.release("broken", code="raise RuntimeError")
        wrapped.send("HUP")
        assert manager.recv(4096).startswith(b"RELOADING=1\n")
        assert b"STATUS=generation 2 (pid " in (said := manager.recv(4096))
        assert b"the reload failed" in said
        wrapped.send("TERM")
        assert manager.recv(4096) == b"STOPPING=1"
        assert wrapped.wait() == 0


def test_one_line_per_phase_and_the_streams_untouched(wrapped: Wrapped) -> None:
    wrapped.run(*wrapped.command())
    assert wrapped.lines() == []
    before = descriptors(wrapped.pid)
    wrapped.hup()
    phases = [line.split(": ")[2].split(":")[0] for line in wrapped.lines()]
    assert phases[:4] == ["spawning", "booting", "draining", "promoting"]
    assert len(phases) == 5
    assert phases[4].startswith("succeeded in")
    assert descriptors(wrapped.pid) == descriptors(wrapped.servers()[0].pid) == before


def test_nobody_reads_its_stderr(wrapped: Wrapped) -> None:
    reader, writer = os.pipe()
    wrapped._process = subprocess.Popen(
        [RUN, *wrapped.command("--log-file", str(wrapped.root / "g.log"))],
        cwd=wrapped.folder,
        env=wrapped.environment,
        stderr=writer,
    )
    os.close(writer)
    os.close(reader)
    wrapped.wait_for_release("v1")
    server = wrapped.servers()
    wrapped.send("HUP")
    wait_until(lambda: wrapped.servers() not in ([], server) and len(wrapped.servers()) == 1)
    assert wrapped.running


# -- what it costs


def test_it_imports_neither_supervisor_nor_adoption_nor_psutil() -> None:
    code = (
        "import sys; import supervisor_hotreload.wrapper.entry\n"
        "import supervisor_hotreload.system.check, supervisor_hotreload.wrapper.service_manager\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('supervisor', 'psutil')"
        " or 'adoption' in m])"
    )
    done = subprocess.run(python(code), capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == "[]\n"
    for path in pathlib.Path(supervisor_hotreload.wrapper.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.module is not None
                assert "adoption" not in node.module, path
                assert node.module.split(".")[0] != "supervisor", path


def test_memory_and_idle_time(wrapped: Wrapped) -> None:
    """At most 20 MiB with everything in use, and not one wakeup while nothing happens."""
    path = wrapped.root / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        wrapped.run(
            "--notify",
            "--status-file",
            wrapped.root / "status.json",
            "--check",
            "true",
            "--listen",
            f"127.0.0.1:{wrapped.port}",
            *wrapped.inheriting(),
            NOTIFY_SOCKET=str(path),
        )
        wrapped.hup()
        wait_until(lambda: wrapped.status()["state"] == "serving")
        assert wrapped.memory() <= 20
        spent = []
        for seconds in (0.5, 2):
            assert not select.select([], [], [], seconds)[0]
            times = psutil.Process(wrapped.pid).cpu_times()[:2]
            spent.append((count_of_sleeps(wrapped.pid), times))
        assert spent[0] == spent[1]


# -- orphans


def test_it_reaps_orphans(wrapped: Wrapped) -> None:
    code = (
        "import os, time\n"
        "for _ in range(5):\n"
        "    if os.fork() == 0:\n"
        "        if os.fork() == 0: time.sleep(0.2)\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
        "print('up', flush=True)\n"
        "time.sleep(60)"
    )
    wrapped.begin(*python(code))
    up(wrapped)
    wait_until(lambda: len(wrapped.servers()) == 1, what="orphans end")
    wait_until(lambda: zombies(wrapped.pid) == [], 60, "they are reaped")


def test_pid_1_of_a_container(wrapped: Wrapped) -> None:
    """It reaps, handles signals, and ends with 128+N where it cannot be killed."""
    user = [] if os.getuid() == 0 else ["--user", "--map-root-user"]
    unshare = ["unshare", *user, "--pid", "--fork", "--mount-proc", str(RUN)]
    wrapped.run(*wrapped.command(), program=unshare)
    inner = psutil.Process(wrapped.pid).children()[0]
    inner.send_signal(signal.SIGHUP)
    wait_until(lambda: wrapped.said("succeeded in"), what=wrapped.console())
    wait_until(lambda: len(inner.children()) == 1)
    wrapped.family()
    inner.children()[0].kill()
    assert wrapped.wait() == 128 + signal.SIGKILL


def test_without_a_subreaper_it_watches(wrapped: Wrapped) -> None:
    """Where the system has none (the BSDs, macOS) the successor is no child of ours."""
    code = (
        "import supervisor_hotreload.wrapper.entry as m; m.become_subreaper = lambda: False; "
        "import sys; m.main()"
    )
    wrapped.run(*wrapped.command(), program=[sys.executable, "-c", code])
    wrapped.release("v2")
    wrapped.hup()
    wrapped.wait_for_release("v2")
    parent = int(get(wrapped.port).split()[2])
    assert parent not in [server.pid for server in wrapped.servers()]
    wrapped._pids.update([psutil.Process(parent), *psutil.Process(parent).children()])
    wrapped.hup()
    parent = int(get(wrapped.port).split()[2])
    wrapped._pids.update([psutil.Process(parent), *psutil.Process(parent).children()])
    psutil.Process(parent).terminate()
    assert wrapped.wait() == 1


# -- who accepts


def test_a_listener_accepts_once_it_is_in_an_epoll_set() -> None:
    me = lookup(os.getpid())
    assert me is not None
    before = copy_survey.survey(World(), me).accepting
    with socket.create_server(("127.0.0.1", 0)) as server, select.epoll() as poll:
        seen = copy_survey.survey(World(), me)
        assert (seen.master, seen.accepting) == (me, before)
        poll.register(server.fileno(), select.EPOLLIN)
        assert copy_survey.survey(World(), me).accepting == 1


def test_usage_is_an_exception() -> None:
    with pytest.raises(Usage, match="no command"):
        parse("hotreload-run", [])
