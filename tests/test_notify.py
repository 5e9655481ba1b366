"""``ready = notify``: the program says by itself when it is ready (sd_notify)."""

from __future__ import annotations

import os
import pathlib
import signal
import stat
import subprocess
import sys
import time
from typing import Optional

import pytest

from supervisor_hotreload.plugin.notify_socket import place
from supervisor_hotreload.system.process import Process, environment_of, lookup
from supervisor_hotreload.system.sd_notify import SENDERS, Notices
from tests.harness.house import APP, House
from tests.harness.load import Load, get
from tests.harness.otherservers import ASGI, asgi, start
from tests.harness.waiting import wait_until

NOTIFY = """\
import os, socket
def notify(*lines):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        address = os.environ["NOTIFY_SOCKET"]
        sender.connect(address)
        sender.send("\\n".join(lines).encode())
"""

WARM = """
import pathlib, threading, time
def warm():
    notify("STATUS=warming up\\x1b[2J")
    while not pathlib.Path({go!r}).exists():
        time.sleep(0.02)
    notify("READY=1", "STATUS=warm")
threading.Thread(target=warm, daemon=True).start()
"""


def release(house: House, name: str, go: Optional[str] = None, template: str = APP) -> None:
    """Write a release that says READY=1 at once, or once the file *go* is there."""
    said = "notify('READY=1')\n" if go is None else WARM.format(go=str(house.root / go))
    house.release(name, code=NOTIFY + said + template.format(release=name, boot=0))


def test_a_worker_has_the_last_word(house: House) -> None:
    release(house, "v1")
    house.configure(settings="ready = notify")
    house.start()
    release(house, "v2", go="go")
    with Load(house.port) as load:
        load.wait_in_flight()
        client = house.client("hotreload", "myapp")
        wait_until(
            lambda: "READY=1 is awaited; warming up" in str(house.reload_info()), what=house.log
        )
        assert house.reload_info()["phase"] == "booting"
        assert house.reload_info()["generation"] == 1
        (house.root / "go").touch()
        printed = client.communicate(timeout=60)[0]
        assert client.returncode == 0, printed
    assert "READY=1 is awaited; warming up\ufffd[2J" in printed
    assert "ready = notify, as it is set" in printed
    assert load.dropped == []
    assert get(house.port).startswith(b"v2 ")
    house.reload()  # the environment has passed to the successor


def test_one_that_never_says_so_is_rolled_back(house: House) -> None:
    release(house, "v1")
    house.configure(settings="ready = notify\nready_timeout = 8")
    house.start()
    pid = house.info()["pid"]
    house.release("v2")
    done = house.ctl("hotreload", "myapp")
    assert done.returncode != 0
    reason = "waiting for the new generation to be ready (READY=1 is awaited"
    assert f"timed out after 8 s {reason}" in done.stdout
    assert house.info()["pid"] == pid
    assert get(house.port).startswith(b"v1 ")


def test_gunicorns_own_word_is_enough_where_no_worker_speaks(house: House) -> None:
    house.configure(settings="ready = notify")
    house.start()
    house.release("v2")
    house.reload()
    assert get(house.port).startswith(b"v2 ")


@pytest.mark.parametrize("heard", [False, True], ids=["no socket", "another has it"])
def test_a_program_that_was_started_before_is_refused_with_the_cure(
    house: House, heard: bool
) -> None:
    other = f"[program:other]\ncommand = {house.python} -c 'input()'\n"
    house.configure(more=f"{other}[hotreload:other]\nready = notify\n" if heard else "")
    house.start()
    house.settings("ready = notify")
    done = house.ctl("hotreload", "myapp")
    assert done.returncode != 0
    assert "start it once more: supervisorctl restart myapp" in done.stdout
    house.ctl("restart", "myapp")
    house.wait_until_complete()
    house.reload()


@pytest.mark.parametrize("who", ["a stranger", "another program", "an old worker"])
def test_only_the_new_generation_is_heard(house: House, who: str) -> None:
    old = "threading.Thread(target=again, daemon=True).start()\n"
    again = "import threading, time\ndef again():\n while 1:\n  notify('READY=1'); time.sleep(.1)\n"
    code = NOTIFY + (again + old if who == "an old worker" else "notify('READY=1')\n")
    house.release("v1", code=code + APP.format(release="v1", boot=0))
    speak = NOTIFY + "import time\nwhile 1:\n notify('READY=1'); time.sleep(.1)\n"
    (house.root / "speak.py").write_text(speak)
    other = f"[program:other]\ncommand = {sys.executable} {house.root}/speak.py\n"
    other += "[hotreload:other]\nready = notify\n"
    house.configure(
        settings="ready = notify\nready_timeout = 8",
        more=other if who == "another program" else "",
    )
    house.start()
    house.release("v2")
    stranger = None
    if who == "a stranger":
        given = dict(os.environ, **environment_of(house.info()["pid"]))
        stranger = subprocess.Popen([sys.executable, str(house.root / "speak.py")], env=given)
    try:
        done = house.ctl("hotreload", "myapp")
    finally:
        if stranger is not None:
            stranger.kill()
            stranger.wait()
    assert done.returncode != 0, done.stdout
    assert "READY=1 is awaited" in done.stdout
    assert get(house.port).startswith(b"v1 ")


def test_a_server_that_reloads_itself(house: House) -> None:
    release(house, "v1", template=ASGI)
    command = asgi(house, "granian")
    house.configure(
        command=command,
        program=f'directory = /\nenvironment = PYTHONPATH="{house.environment["PYTHONPATH"]}"',
        settings="strategy = signal\nready = notify",
    )
    start(house, house.port, 2)
    release(house, "v2", go="go", template=ASGI)
    client = house.client("hotreload", "myapp")
    wait_until(lambda: "READY=1 is awaited; warming up" in str(house.reload_info()), what=house.log)
    assert house.reload_info()["phase"] == "replacing"
    (house.root / "go").touch()
    printed = client.communicate(timeout=60)[0]
    assert client.returncode == 0, printed
    assert get(house.port).startswith(b"v2 ")


def test_after_supervisords_own_reload(house: House) -> None:
    release(house, "v1")
    house.configure(settings="ready = notify")
    house.start()
    before = len(os.listdir(f"/proc/{house.pid}/fd"))
    house.ctl("reload")
    wait_until(lambda: house.log().count("spawned: 'myapp'") == 2)
    house.wait_until_complete()
    wait_until(lambda: len(os.listdir(f"/proc/{house.pid}/fd")) <= before)
    house.reload()


def test_what_a_killed_supervisord_has_left_is_heard_again(house: House) -> None:
    release(house, "v1")
    house.configure(settings="ready = notify")
    house.start()
    house.family()
    os.kill(house.pid, signal.SIGKILL)
    house.wait_for_exit()
    (house.root / "supervisor.sock").unlink()
    house.start()
    release(house, "v2")
    house.reload()
    assert get(house.port).startswith(b"v2 ")


@pytest.fixture(params=["by the kernel", "by a child"])
def received(request: pytest.FixtureRequest, house: House) -> str:
    """Who keeps descriptors from supervisord: the kernel, or a child where it cannot."""
    if request.param == "by a child":
        house.environment["HOTRELOAD_NOTIFY_CHILD"] = "1"
    return str(request.param)


def test_a_flood_is_slowed_and_holds_no_descriptor(house: House, received: str) -> None:
    house.release("v1", code=NOTIFY + FLOOD + APP.format(release="v1", boot=0))
    house.configure(settings="ready = notify")
    house.start()
    held = len(os.listdir(f"/proc/{house.pid}/fd"))
    for _ in range(20):
        assert house.info()["statename"] == "RUNNING"
    assert len(os.listdir(f"/proc/{house.pid}/fd")) <= held + 2
    house.reload()


FLOOD = """
import array, threading
def flood():
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.connect(os.environ["NOTIFY_SOCKET"])
    number = 0
    while True:
        number += 1
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
        try:
            sender.sendmsg([b"READY=1\\n" + b"STATUS=x\\xff" * 500], rights if number % 2 else [])
        except PermissionError:
            pass
threading.Thread(target=flood, daemon=True).start()
"""


def test_the_flood_of_one_program_leaves_another_its_budget(house: House, received: str) -> None:
    (house.root / "flood.py").write_text(NOTIFY + FLOOD + "threading.Event().wait()\n")
    other = f"[program:other]\ncommand = {house.python} {house.root}/flood.py\n"
    house.configure(settings="ready = notify", more=f"{other}[hotreload:other]\nready = notify\n")
    house.start()
    house.wait_for("RUNNING", "other")
    release(house, "v2")
    code = (house.root / "current/app.py").read_text()  # it does not wait for room
    impatient = code.replace("sender.connect", "sender.setblocking(False)\n        sender.connect")
    house.release("v2", code=impatient)
    house.reload()
    assert get(house.port).startswith(b"v2 ")


LINGER = """
import array, socket, struct, sys, time
listener = socket.create_server(("127.0.0.1", 0))
listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
client = socket.create_connection(listener.getsockname())
accepted = listener.accept()[0]
client.setblocking(False)
try:
    while True:
        client.send(b"x" * 65536)
except BlockingIOError:
    pass
client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 30))
sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
address = sys.argv[1]
sender.connect("\\0" + address[1:] if address[0] == "@" else address)
rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [client.fileno()]))]
for _ in range(100):  # all that is read in one second: the next one waits
    sender.send(b"STATUS=x")
try:
    sender.sendmsg([b"READY=1"], rights)
    client.close()  # the datagram holds the last reference
    print("sent", flush=True)
except PermissionError as error:  # the kernel refuses it
    print(error, flush=True)
time.sleep(1000)
"""


def test_a_descriptor_that_is_slow_to_close_holds_nobody_up(house: House, received: str) -> None:
    release(house, "v1")
    house.configure(settings="ready = notify")
    house.start()
    address = environment_of(house.info()["pid"])["NOTIFY_SOCKET"]
    attacker = subprocess.Popen(
        [sys.executable, "-c", LINGER, address], stdout=subprocess.PIPE, text=True
    )
    assert attacker.stdout is not None
    printed = attacker.stdout.readline()
    try:
        answers, end = 0, time.monotonic() + 3
        while time.monotonic() < end:
            assert house.rpc().supervisor.getState()["statename"] == "RUNNING"
            answers += 1
        assert answers > 10
    finally:
        attacker.kill()
        attacker.communicate()
    assert ("not permitted" in printed) == (received == "by the kernel"), printed


def test_a_child_that_receives_may_be_killed(house: House) -> None:
    house.environment["HOTRELOAD_NOTIFY_CHILD"] = "1"
    release(house, "v1")
    house.configure(settings="ready = notify")
    house.start()
    (child,) = (p for p in house.family() if p.name() == "notify-receiver")
    child.kill()
    wait_until(lambda: house.nudge() and "that received its messages has ended" in house.log())
    done = house.ctl("hotreload", "myapp")
    assert "start it once more: supervisorctl restart myapp" in done.stdout
    house.ctl("restart", "myapp")
    house.wait_until_complete()
    house.reload()
    assert "Traceback" not in house.log()


@pytest.mark.skipif(os.getuid() != 0, reason="only root has other users' programs")
def test_only_the_programs_user_reaches_its_socket(house: House, received: str) -> None:
    house.open_to_all()
    house.root.chmod(0o755)  # nobody but root may replace what is here
    release(house, "v1")
    house.configure(program="user = nobody", settings="ready = notify")
    house.start()
    release(house, "v2")
    house.reload()
    path = pathlib.Path(environment_of(house.info()["pid"])["NOTIFY_SOCKET"])
    assert path.parent == house.root / "supervisord.hotreload"
    assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (65534, 0o600)
    assert (path.parent.stat().st_uid, stat.S_IMODE(path.parent.stat().st_mode)) == (0, 0o711)
    speak = "import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); "
    done = subprocess.run(
        ["/usr/bin/python3", "-c", f"{speak} s.sendto(b'READY=1', {str(path)!r})"],
        user=1234,
        group=1234,
        extra_groups=[],
        capture_output=True,
        text=True,
    )
    assert "Permission denied" in done.stderr
    house.stop()
    assert not path.parent.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root is everybody's neighbour")
def test_a_folder_that_others_may_change_is_not_used(house: House) -> None:
    release(house, "v1")
    house.root.chmod(0o777)
    house.configure(settings="ready = notify")
    house.start()
    path = pathlib.Path(environment_of(house.info()["pid"])["NOTIFY_SOCKET"])
    assert path.parent.parent == pathlib.Path("/run")
    house.reload()
    house.stop()
    assert not path.parent.exists()


def test_what_another_has_put_in_a_place_is_not_used(tmp_path: pathlib.Path) -> None:
    """Neither a link nor a folder that others may write to."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        assert not parent.stat().st_mode & 0o022 or parent.stat().st_mode & 0o1000
    (tmp_path / "a.hotreload").symlink_to("/")
    (tmp_path / "b.hotreload").mkdir()
    (tmp_path / "b.hotreload").chmod(0o777)
    (tmp_path / "c").mkdir()
    (tmp_path / "c").chmod(0o777)
    long = tmp_path / ("x" * 100)
    long.mkdir()
    for pidfile in ("a.pid", "b.pid", "c/d.pid", f"{long.name}/e.pid"):
        path = pathlib.Path(place(str(tmp_path / pidfile), "myapp", os.getuid()))
        assert tmp_path not in path.parents
        path.parent.rmdir()
    path = pathlib.Path(place(str(tmp_path / "f.pid"), "myapp", os.getuid()))
    assert path.parent == tmp_path / "f.hotreload"
    assert place(str(tmp_path / "f.pid"), "other", os.getuid()) != str(path)


def test_of_too_many_senders_the_first_are_forgotten() -> None:
    me = lookup(os.getpid())
    assert me is not None
    notices = Notices()
    for number in range(SENDERS + 5):
        notices.take((Process(10_000_000 + number, 1), me), b"READY=1", number)
    assert [notice.at for notice in notices] == list(range(5, SENDERS + 5))


@pytest.mark.parametrize(
    "datagram", [b"", b"READY=0", b"WATCHDOG=1", b"\xff\xfe", b"=", b"READY", b"STATUS="]
)
def test_what_says_nothing_is_not_kept(datagram: bytes) -> None:
    me = lookup(os.getpid())
    assert me is not None
    notices = Notices()
    notices.take((me,), datagram, 1.0)
    assert list(notices) == []
