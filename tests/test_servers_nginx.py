"""nginx: its configuration and its binary are replaced without dropping a request."""

from __future__ import annotations

import os
import signal
from typing import Optional

import psutil
import pytest

from supervisor_hotreload.servers import Program
from supervisor_hotreload.servers.nginx import FAMILY, started
from tests.harness.house import House
from tests.harness.load import Address, Load, get, wait_for_answer
from tests.harness.otherservers import configure_nginx, nginx, start, titled
from tests.harness.waiting import wait_until

STOP = "stopsignal = QUIT"
UPGRADE = "strategy = upgrade"


def workers(house: House) -> set[int]:
    return titled(house, "nginx: worker process")


def nginx_masters(house: House) -> set[int]:
    return titled(house, "nginx: master process")


def begin(house: House, address: Address, children: int) -> None:
    """Start it and wait until its workers have their titles, a moment after the fork."""
    start(house, address, children)
    wait_until(lambda: len(workers(house)) == 2, what=lambda: house.story("workers lack titles"))


@pytest.mark.parametrize("socket", ["tcp", "unix"])
def test_its_configuration_is_read_again(house: House, socket: str) -> None:
    path = house.root / "nginx.sock"
    address: Address = house.port if socket == "tcp" else path
    listen = "" if socket == "tcp" else f"unix:{path}"
    configure_nginx(house, "v1", listen)
    house.configure(command=nginx(house), program=STOP)
    begin(house, address, 2)
    pid, before = house.info()["pid"], workers(house)
    with Load(address, slow_path="/slow1") as load:
        for release in ("v2", "v3"):
            configure_nginx(house, release, listen)
            load.wait_in_flight()
            house.reload()
            assert {get(address).split()[0].decode() for _ in range(4)} == {release}
    assert load.dropped == []
    assert load.patient < 0.5
    assert house.info()["pid"] == pid
    assert not before & workers(house)


BESIDE = """\
import select, socket
listener = socket.create_server(("127.0.0.1", 0))
poll = select.epoll()
poll.register(listener)
while True: poll.poll()
"""


def test_another_server_of_its_start_script_is_no_worker(house: House) -> None:
    """``server & exec nginx``: nginx has a child that accepts, and that no HUP replaces."""
    (house.root / "beside.py").write_text(BESIDE)
    configure_nginx(house)
    path = house.root / "start.sh"
    path.write_text(f"#!/bin/sh\n{house.python} {house.root}/beside.py &\nexec {nginx(house)}\n")
    path.chmod(0o755)
    house.configure(command=str(path), program=STOP + "\nstopasgroup = true")
    begin(house, house.port, 3)
    with Load(house.port, fast=2, slow=0) as load:
        configure_nginx(house, "v2")
        assert "2/2 workers ready" in house.reload().stdout
        load.wait_for("v2")
    assert load.dropped == []


def refused(house: House) -> str:
    """Require that nginx -t refuses a broken configuration and nothing changes."""
    before = workers(house)
    configure_nginx(house, text="events {} http { nonsense; }")
    done = house.ctl("hotreload", "myapp")
    assert done.returncode != 0
    assert 'unknown directive "nonsense"' in done.stdout
    assert "check_before (nginx -t)" in done.stdout
    assert workers(house) == before
    return done.stdout


def test_a_broken_configuration_changes_nothing(house: House) -> None:
    configure_nginx(house)
    house.configure(command=nginx(house), program=STOP)
    begin(house, house.port, 2)
    assert "2 workers) serves" in refused(house)
    assert get(house.port).startswith(b"v1 ")


def test_its_binary_is_upgraded_again_and_again(house: House) -> None:
    configure_nginx(house)
    house.configure(command=nginx(house, orphan=True), program=STOP, settings=UPGRADE)
    begin(house, house.port, 3)
    stub = house.info()["pid"]
    seen = {stub}
    with Load(house.port, slow_path="/slow1") as load:
        for number, release in enumerate(("v2", "v3", "v4"), start=2):
            configure_nginx(house, release)
            load.wait_in_flight()
            house.reload()
            assert {get(house.port).split()[0].decode() for _ in range(4)} == {release}
            pid = house.info()["pid"]
            assert pid not in seen
            seen.add(pid)
            assert nginx_masters(house) == {pid}
            assert psutil.Process(pid).ppid() == house.pid
            assert house.reload_info()["generation"] == number
    assert load.dropped == []
    assert load.patient < 0.5
    assert not psutil.pid_exists(stub)
    assert (house.root / "nginx.pid").read_text().strip() == str(house.info()["pid"])
    assert not (house.root / "nginx.pid.oldbin").exists()
    assert "spawned:" not in house.log().split("entered RUNNING", 1)[1]
    house.ctl("restart", "myapp")
    wait_until(lambda: len(workers(house)) == 2)
    house.reload()
    assert house.ctl("stop", "myapp").stdout == "myapp: stopped\n"
    assert house.family() == []


def test_without_workers_a_hup_is_its_own_affair(house: House) -> None:
    configure_nginx(house)
    path = house.root / "nginx.conf"
    path.write_text(f"master_process off;\n{path.read_text()}")
    house.configure(command=nginx(house), program=STOP)
    house.start()
    wait_for_answer(house.port)
    done = house.ctl("hotreload", "myapp")
    assert done.returncode != 0
    assert "'master_process off'" in done.stdout
    assert house.ctl("signal", "HUP", "myapp").returncode == 0
    wait_until(lambda: "reconfiguring" in (house.root / "error.log").read_text())
    assert house.info()["statename"] == "RUNNING"


def test_started_directly_an_upgrade_is_refused_with_the_cure(house: House) -> None:
    configure_nginx(house)
    house.configure(command=nginx(house), program=STOP, settings=UPGRADE)
    begin(house, house.port, 2)
    masters, before = nginx_masters(house), workers(house)
    with Load(house.port, slow=0) as load:
        done = house.ctl("hotreload", "myapp")
    assert done.returncode != 0
    assert "hotreload-orphan " in done.stdout
    assert "nothing was sent" in done.stdout
    assert load.dropped == []
    assert nginx_masters(house) == masters
    assert workers(house) == before
    assert "signal" not in (house.root / "error.log").read_text()


def test_a_shell_that_is_not_the_stub_is_refused(house: House) -> None:
    script = house.root / "serve.sh"
    script.write_text(f"#!/bin/sh\n{nginx(house)}\necho gone\n")
    script.chmod(0o755)
    configure_nginx(house)
    house.configure(command=f"{script} nginx", program=STOP, settings=UPGRADE)
    begin(house, house.port, 3)
    done = house.ctl("hotreload", "myapp")
    assert "hotreload-orphan " in done.stdout
    assert get(house.port).startswith(b"v1 ")


@pytest.mark.parametrize(
    "wrapped",
    [
        "sh -c 'exec {nginx}'",
        "/bin/sh -c 'X=y; exec {nginx}'",
        "env X=y {nginx}",
        "bash -c 'cd {root} && exec env X=y {nginx} -p . -c nginx.conf'",
    ],
)
def test_it_is_tried_behind_plain_wrappers(house: House, wrapped: str) -> None:
    configure_nginx(house)
    command = wrapped.format(nginx=nginx(house), root=house.root)
    house.configure(command=command, program=f"{STOP}\ndirectory = /")
    begin(house, house.port, 2)
    refused(house)
    configure_nginx(house, "v2")
    assert "not tried" not in house.reload().stdout
    assert get(house.port).startswith(b"v2 ")


@pytest.mark.parametrize(
    ("wrapped", "why"),
    [
        ("sh -c 'exec {nginx} $OPTIONS'", "is more than one plain command"),
        ("{script}", "no nginx is found in its command"),
        ("sh -c 'true && exec {nginx}'", "is more than one plain command"),
    ],
)
def test_what_cannot_be_tried_is_said(house: House, wrapped: str, why: str) -> None:
    configure_nginx(house)
    script = house.root / "serve.sh"
    script.write_text(f"#!/bin/sh\nexec {nginx(house)}\n")
    script.chmod(0o755)
    command = wrapped.format(nginx=nginx(house), root=house.root, script=script)
    house.configure(command=command, program=STOP)
    begin(house, house.port, 2)
    configure_nginx(house, "v2")
    done = house.reload()
    said = [line for line in done.stdout.splitlines() if "the release is not tried before" in line]
    assert len(said) == 1
    assert why in said[0]
    assert "set check_before = COMMAND" in said[0]
    assert get(house.port).startswith(b"v2 ")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("nginx -g 'daemon off;'", ("nginx", "-g", "daemon off;")),
        ("hotreload-orphan /usr/sbin/nginx -q", ("/usr/sbin/nginx", "-q")),
        ("python3 -m supervisor_hotreload.wrapper.orphan nginx -q", ("nginx", "-q")),
        ("setpriv --reuid app nginx -q", ("nginx", "-q")),
        ("sh -c \"exec nginx -g 'daemon off;'\"", ("nginx", "-g", "daemon off;")),
        ("env A=b nice -n 5 nginx", ("nginx",)),
        ("sh -c 'exec tail -f /var/log/nginx'", None),
        ("tail -f /var/log/nginx.log", None),
    ],
)
def test_the_nginx_in_a_command_is_found(command: str, words: Optional[tuple[str, ...]]) -> None:
    program = Program("myapp", command, "/")
    found = started(program)
    assert (found and (found.binary, *found.words)) == words
    assert FAMILY.is_named_in(program) == (words is not None)


def test_an_upgrade_is_tried_before(house: House) -> None:
    configure_nginx(house)
    house.configure(command=nginx(house, orphan=True), program=STOP, settings=UPGRADE)
    begin(house, house.port, 3)
    stub = house.info()["pid"]
    configure_nginx(house, text="nonsense;")
    assert 'unknown directive "nonsense"' in house.ctl("hotreload", "myapp").stdout
    assert house.info()["pid"] == stub


def test_a_successor_that_cannot_start_is_survived(house: House) -> None:
    configure_nginx(house)
    house.configure(
        command=nginx(house, orphan=True),
        program=STOP,
        settings=f"{UPGRADE}\ncheck_before = none\nready_timeout = 3",
    )
    begin(house, house.port, 3)
    configure_nginx(house, text="nonsense;")
    with Load(house.port, slow=0) as load:
        done = house.ctl("hotreload", "myapp")
        assert done.returncode != 0
        assert get(house.port).startswith(b"v1 ")
    assert load.dropped == []
    assert "generation 1" in done.stdout.splitlines()[-1]
    configure_nginx(house, "v2")
    house.reload()
    assert get(house.port).startswith(b"v2 ")


@pytest.mark.parametrize("how", ["cancel", "check"])
def test_an_upgrade_is_rolled_back(house: House, how: str) -> None:
    configure_nginx(house)
    settings = f"{UPGRADE}\nbake = 60" if how == "cancel" else f"{UPGRADE}\ncheck = /bin/false"
    house.configure(command=nginx(house, orphan=True), program=STOP, settings=settings)
    begin(house, house.port, 3)
    configure_nginx(house, "v2")
    with Load(house.port, slow=1, slow_path="/slow1") as load:
        client = house.client("hotreload", "myapp")
        if how == "cancel":
            house.wait_for_phase("baking")
            house.ctl("hotreload", "--cancel", "myapp")
        assert client.wait(60) != 0
        assert house.wait_for_outcome()["outcome"] == "rolled back"
        assert {get(house.port).split()[0] for _ in range(4)} == {b"v1"}
    assert load.dropped == []
    assert nginx_masters(house) == {house.info()["pid"]}
    wait_until(lambda: (house.root / "nginx.pid").exists())


def bake(house: House, seconds: int) -> set[int]:
    """Start an upgrade that bakes; return the old workers."""
    configure_nginx(house)
    settings = f"{UPGRADE}\nbake = {seconds}"
    house.configure(command=nginx(house, orphan=True), program=STOP, settings=settings)
    begin(house, house.port, 3)
    old = workers(house)
    configure_nginx(house, "v2")
    house.rpc().hotreload.reloadProcess("myapp", False)
    house.wait_for_phase("baking")
    return old


def test_no_worker_outlives_a_killed_successor(house: House) -> None:
    """It was refused: it must not go on answering."""
    old = bake(house, 60)
    os.kill(house.reload_info()["new_pid"], signal.SIGKILL)
    assert house.wait_for_outcome()["outcome"] == "failed"
    assert workers(house) == old
    assert {get(house.port).split()[0] for _ in range(6)} == {b"v1"}


def test_no_worker_outlives_a_killed_old_master(house: House) -> None:
    """It would go on answering with the configuration that it knows."""
    old = bake(house, 8)
    with Load(house.port, fast=1) as load:
        load.wait_in_flight()
        os.kill(house.reload_info()["old_pid"], signal.SIGKILL)
        wait_until(lambda: not old & workers(house), what=house.log)
        assert house.reload_info()["phase"] == "baking"  # it was not the end of the reload
    assert load.dropped == []
    assert {get(house.port).split()[0] for _ in range(6)} == {b"v2"}
    wait_until(lambda: house.wait_for_outcome(), what=house.log)
    assert house.ctl("stop", "myapp").stdout == "myapp: stopped\n"
    assert not workers(house)


def test_stop_in_the_middle_of_an_upgrade_ends_both(house: House) -> None:
    configure_nginx(house)
    house.configure(
        command=nginx(house, orphan=True), program=STOP, settings=f"{UPGRADE}\nbake = 60"
    )
    begin(house, house.port, 3)
    client = house.client("hotreload", "myapp")
    house.wait_for_phase("baking")
    assert house.ctl("stop", "myapp").stdout == "myapp: stopped\n"
    client.wait(30)
    wait_until(lambda: not house.family())


@pytest.mark.parametrize("name", ["TERM", "QUIT", "KILL"])
def test_the_stub_ends_as_nginx_does(house: House, name: str) -> None:
    configure_nginx(house)
    # what the stub has started is recorded once the program is RUNNING
    program = f"stopsignal = {name}\nautorestart = false\nstartsecs = 1"
    house.configure(command=nginx(house, orphan=True), program=program)
    begin(house, house.port, 3)
    assert house.ctl("stop", "myapp").stdout == "myapp: stopped\n"
    wait_until(lambda: not house.family(), what=lambda: house.story("nginx is to be gone"))


def test_the_stub_tells_the_exit_status(house: House) -> None:
    configure_nginx(house, text="nonsense;")
    house.configure(
        command=nginx(house, orphan=True), program="startretries = 0\nexitcodes = 1\nstartsecs = 0"
    )
    house.start(running="")
    wait_until(lambda: "exit status 1; expected" in house.log(), what=house.log)


def test_workers_of_a_killed_master_do_not_hold_the_port(house: House) -> None:
    configure_nginx(house)
    house.configure(command=nginx(house), program=STOP)
    begin(house, house.port, 2)
    before = workers(house)
    house.wait_until_recorded(house.info()["pid"])
    os.kill(house.info()["pid"], signal.SIGKILL)
    wait_until(lambda: len(workers(house) - before) == 2, what=house.log)
    assert not before & workers(house)
    assert get(house.port).startswith(b"v1 ")
