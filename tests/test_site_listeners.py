"""A master that listens on something more, which its successor does not inherit."""

from __future__ import annotations

import os
import signal

import psutil
import pytest

from tests.harness.house import House
from tests.harness.load import Load, get
from tests.harness.processes import lives
from tests.harness.waiting import wait_until

METRICS = """\
import socket
def {hook}(server):
    server.more = socket.socket()
    server.more.bind(("127.0.0.1", 0))
    server.more.listen(5)
"""

MANAGER = """\
import multiprocessing.managers
class Manager(multiprocessing.managers.BaseManager): pass
import threading
server = Manager(("127.0.0.1", 0), b"k").get_server()
threading.Thread(target=server.serve_forever, daemon=True).start()
RELEASE = {release!r}
import os
def app(environ, start_response):
    body = f"{{RELEASE}} {{os.getpid()}} {{os.getppid()}}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


def start(house: House, hook: str) -> None:
    if hook == "preload":
        house.release("v1", code=MANAGER.format(release="v1"))
        house.configure("--workers 2 --preload")
    else:
        path = house.root / "gunicorn.conf.py"
        path.write_text(METRICS.format(hook=hook))
        house.configure(f"--workers 2 --config {path}")
    house.start()
    wait_until(lambda: get(house.port))
    master = int(get(house.port).split()[2])
    wait_until(lambda: len(psutil.Process(master).children()) == 2)


def release(house: House, hook: str) -> None:
    house.release("v2", code=MANAGER.format(release="v2") if hook == "preload" else None)


HOOKS = pytest.mark.parametrize("hook", ["when_ready", "on_starting", "preload"])


@HOOKS
def test_reload(house: House, hook: str) -> None:
    start(house, hook)
    with Load(house.port, fast=2, slow=0) as load:
        release(house, hook)
        done = house.ctl("hotreload", "myapp")
        masters = house.masters()
    assert done.returncode == 0, (done.stdout, f"masters: {masters}", dict(load.releases))
    assert load.dropped == []
    assert len(masters) == 1


@HOOKS
def test_by_hand(house: House, hook: str) -> None:
    """USR2, then TERM: plain supervisord leaves the successor alone, which serves."""
    start(house, hook)
    old = house.info()["pid"]
    house.wait_until_recorded(old)
    with Load(house.port, fast=2, slow=0) as load:
        release(house, hook)
        os.kill(old, signal.SIGUSR2)
        load.wait_for("v2")
        (new,) = (child for child in psutil.Process(old).children() if child.children())
        house.turn(4)  # it is proven as the child of the old one, and by nothing later
        os.kill(old, signal.SIGTERM)
        wait_until(lambda: not psutil.pid_exists(old))
        wait_until(lambda: house.nudge() and house.info()["pid"] == new.pid, what=house.log)
    assert load.dropped == [], (len(load.dropped), house.info()["statename"], house.log()[-900:])
    assert house.info()["statename"] == "RUNNING"
    assert lives(new)
