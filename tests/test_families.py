"""The seam: only a family's own file knows the family."""

from __future__ import annotations

import ast
import pathlib
import re

import pytest

import supervisor_hotreload
from supervisor_hotreload.servers import FAMILIES, STRATEGIES
from tests.harness.house import House
from tests.harness.load import Load, get
from tests.harness.otherservers import configure_nginx, nginx, start

PACKAGE = pathlib.Path(supervisor_hotreload.__file__).parent

NAMES = re.compile(
    "gunicorn|uwsgi|nginx|granian|uvicorn|hypercorn|unicorn|haproxy|puma", re.IGNORECASE
)


def words(path: pathlib.Path) -> set[str]:
    """Return the names and the texts in the code of *path*, without its docstrings."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    notes = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in notes:
                found.add(node.value)
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.alias):
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found.add(getattr(node, "module", None) or "")
    return found


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").glob("*.py")), ids=lambda p: p.name)
def test_the_core_knows_no_server(path: pathlib.Path) -> None:
    assert not [word for word in words(path) if NAMES.search(word)]


@pytest.mark.parametrize(
    "path",
    [
        PACKAGE / "rpcinterface.py",
        *sorted((PACKAGE / "plugin").glob("*.py")),
        PACKAGE / "servers" / "settings.py",
        PACKAGE / "servers" / "base.py",
    ],
    ids=lambda path: path.name,
)
def test_what_is_not_a_family_knows_none(path: pathlib.Path) -> None:
    assert not [word for word in words(path) if NAMES.search(word)]


@pytest.mark.parametrize("name", ["(?<!g)unicorn", "haproxy", "puma"])
def test_a_late_comer_is_known_to_its_own_file_alone(name: str) -> None:
    known = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if any(re.search(name, word, re.IGNORECASE) for word in words(path))
    }
    assert known <= {"servers/unicorn.py", "servers/puma.py", "servers/__init__.py"}


def test_every_family_is_a_file_and_an_entry() -> None:
    homes = {path.stem for path in (PACKAGE / "servers").iterdir()}
    assert {type(family).__module__.split(".")[2] for family in FAMILIES} <= homes
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    assert set(STRATEGIES) == {name for family in FAMILIES for name in family.strategies}
    assert all(family.strategies for family in FAMILIES)


TOY = """\
import os, select, signal, socket, sys
sys.path.insert(0, os.getcwd())
from app import RELEASE
given = os.environ.get("TOY_SOCKET")
listener = socket.socket(fileno=int(given)) if given else socket.create_server(("", {port}))
listener.setblocking(False)
listener.set_inheritable(True)

def work():
    asked = []
    signal.signal(signal.SIGQUIT, lambda *_: asked.append(True))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)
    poll = select.epoll()
    poll.register(listener)
    while not asked:
        poll.poll(0.05)
        try:
            client, _ = listener.accept()
        except BlockingIOError:
            continue
        client.settimeout(5)
        client.recv(4096)
        body = RELEASE.encode()
        client.sendall(b"HTTP/1.0 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
        client.close()

HEARD = (signal.SIGUSR2, signal.SIGQUIT)
signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
workers = []
for _ in range(2):
    workers.append(os.fork())
    if not workers[-1]:
        work()
        os._exit(0)
while signal.sigwait(HEARD) == signal.SIGUSR2:
    if not os.fork():
        os.chdir(os.environ["PWD"])
        os.environ["TOY_SOCKET"] = str(listener.fileno())
        os.execv(sys.executable, [sys.executable, __file__])
for worker in workers:
    os.kill(worker, signal.SIGQUIT)
    os.waitpid(worker, 0)
"""

TOY_FAMILY = """\
from supervisor_hotreload import servers
from supervisor_hotreload.rpcinterface import make_hotreload_rpcinterface
from supervisor_hotreload.servers.base import AcceptingFamily, Strategy
from supervisor_hotreload.servers.generation import accepting_generation
from supervisor_hotreload.servers.reexec import Reexec

class Toy(AcceptingFamily):
    name = "toy"
    strategies = {"reexec": Strategy(False, False, "a second master")}

    def survey(self, world, tracked, program):
        return accepting_generation(world, tracked, lambda p: "toy.py" in str(world.arguments(p)))

    def server(self, world, old, policy, program):
        return Reexec(world, old, policy, self.probe(world, old, policy.ready))

servers.FAMILIES = (*servers.FAMILIES, Toy())
"""


def test_a_family_in_one_file_is_reloaded_without_any_other_change(house: House) -> None:
    """The factory is the product's own; the family is in the table before it is asked."""
    (house.root / "toy.py").write_text(TOY.format(port=house.port))
    (house.root / "toyfamily.py").write_text(TOY_FAMILY)
    house.environment["PYTHONPATH"] += f":{house.root}"
    house.configure(command=f"{house.python} {house.root}/toy.py", program="stopsignal = QUIT")
    written = house.root / "supervisord.conf"
    factory = "supervisor_hotreload.rpcinterface:make"
    written.write_text(written.read_text().replace(factory, "toyfamily:make"))
    start(house, house.port, 2)
    first = house.info()["pid"]
    with Load(house.port, fast=2, slow=0) as load:
        house.release("v2")
        house.reload()
        assert {get(house.port) for _ in range(6)} == {b"v2"}
    assert load.dropped == []
    assert house.info()["pid"] != first
    assert house.ctl("stop", "myapp").stdout == "myapp: stopped\n"
    assert house.family() == []


@pytest.mark.parametrize("name", ["gunicorn", "nginx"])
def test_what_the_trial_writes_is_not_the_new_generation_s(house: House, name: str) -> None:
    mark = house.root / "mark"
    settings = f"ready = file:{mark}\nready_timeout = 8\ncheck_before = touch {mark}"
    if name == "nginx":
        configure_nginx(house)
        command = nginx(house, orphan=True)
        house.configure(command=command, settings=f"{settings}\nstrategy = upgrade")
    else:
        house.release("v1")
        house.configure(settings=settings)
    start(house, house.port, 2)
    done = house.ctl("hotreload", "myapp")
    assert mark.exists()
    assert done.returncode != 0, done.stdout
    assert f"file:{mark} is not new yet" in done.stdout
