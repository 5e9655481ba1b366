"""The contract with supervisor: every seam is there, and one that is not is said."""

from __future__ import annotations

import ast
import os
import pathlib
import subprocess
import sys
import types
from typing import Any

import pytest
from supervisor.options import ServerOptions
from supervisor.supervisord import Supervisor

import supervisor_hotreload
from supervisor_hotreload.adoption.supervised import SeamMissing, Supervised
from supervisor_hotreload.rpcinterface import HotReloadNamespaceRPCInterface
from tests.house import House

PACKAGE = pathlib.Path(supervisor_hotreload.__file__).parent


def supervisord() -> Any:
    options = ServerOptions()
    options.mood = 1
    options.configfile = None
    options.environ_expansions = {}
    options.logger = types.SimpleNamespace()
    return Supervisor(options)


CONTRACT = """\
import supervisor.options
from supervisor_hotreload.adoption import seams
from tests.test_seams import supervisord
print(supervisor.options.VERSION, seams.missing(supervisord()))
"""


@pytest.mark.parametrize("version", ["4.2.5", "4.3.0"])
def test_every_seam_is_there(version: str, tmp_path: pathlib.Path) -> None:
    """The contract, pinned for the versions of supervisor that there are."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    # 4.2.5 imports pkg_resources, which setuptools 81 dropped
    packages = [f"supervisor=={version}", "setuptools<81"]
    subprocess.run([*pip, "--target", str(tmp_path), *packages], check=True)
    path = os.pathsep.join((str(tmp_path), str(PACKAGE.parent)))
    done = subprocess.run(
        [sys.executable, "-c", CONTRACT],
        env=dict(os.environ, PYTHONPATH=path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == f"{version} []\n", done.stderr


@pytest.mark.parametrize("name", ["pidhistory", "kill", "execve", "get_socket_map"])
def test_a_missing_seam_is_named_in_one_line(name: str) -> None:
    running = supervisord()
    options = types.SimpleNamespace(
        **{key: getattr(running.options, key) for key in dir(running.options) if key[0] != "_"}
    )
    delattr(options, name)
    running.options = options
    with pytest.raises(SeamMissing) as caught:
        Supervised(running, None, None, None)  # type: ignore[arg-type] # not reached
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_supervisord_refuses_to_start_without_a_seam(house: House) -> None:
    (house.root / "broken.py").write_text(
        "from supervisor.process import Subprocess\n"
        "Subprocess.finish = lambda self, status: None\n"
        "def make(supervisord):\n    return object()\n"
    )
    house.configure(defaults="[rpcinterface:a]\nsupervisor.rpcinterface_factory = broken:make\n")
    house.environment["PYTHONPATH"] = str(house.root)
    with pytest.raises(AssertionError, match="supervisord exited"):
        house.start()
    (line,) = [line for line in house.log().splitlines() if "CRIT hotreload" in line]
    assert "it lacks: Subprocess.finish(pid, sts)" in line


def imports(path: pathlib.Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def modules(*names: str) -> list[pathlib.Path]:
    found = []
    for name in names:
        path = PACKAGE / name
        found += sorted(path.rglob("*.py")) if path.is_dir() else [PACKAGE / f"{name}.py"]
    return [path for path in found if path.exists()]


def test_the_protocol_does_no_io() -> None:
    (path,) = modules("protocol")
    outside = {name.split(".")[0] for name in imports(path)}
    assert outside <= {"__future__", "collections", "contextlib", "dataclasses", "typing"} | {
        "supervisor_hotreload"
    }
    inside = {name for name in imports(path) if name.startswith("supervisor_hotreload.")}
    assert all(name.startswith("supervisor_hotreload.model") for name in inside)


def test_only_adoption_touches_supervisord() -> None:
    """The rest knows supervisor's protocols: its XML-RPC, its names, its controller."""
    allowed = {"supervisor.xmlrpc", "supervisor.http", "supervisor.options"}
    allowed |= {"supervisor.supervisorctl", "supervisor.childutils", "supervisor.web"}
    for path in sorted(PACKAGE.rglob("*.py")):
        if PACKAGE / "adoption" in path.parents:
            continue
        used = {name for name in imports(path) if name.split(".")[0] == "supervisor"}
        assert {".".join(name.split(".")[:2]) for name in used} <= allowed, path


def test_imports_run_downward() -> None:
    order = ["model", "identity", "world", "probes", "servers", "protocol", "driver"]
    above = {
        "adoption",
        "reloads",
        "keeper",
        "rpcinterface",
        "controllerplugin",
        "listener",
        "wrapper",
    }
    for position, name in enumerate(order):
        forbidden = above | set(order[position + 1 :])
        for path in modules(name):
            used = {n.split(".")[1] for n in imports(path) if n.startswith("supervisor_hotreload.")}
            assert not used & forbidden, path


def test_what_runs_outside_supervisord_never_imports_adoption() -> None:
    for path in modules("controllerplugin", "listener", "web", "wrapper", "forks", "demo"):
        assert not any(name.startswith("supervisor_hotreload.adoption") for name in imports(path))


def test_method_help_is_complete(house: House) -> None:
    house.configure()
    house.start()
    rpc = house.rpc()
    methods = [name for name in rpc.system.listMethods() if name.startswith("hotreload.")]
    public = [name for name in vars(HotReloadNamespaceRPCInterface) if name[0] != "_"]
    assert methods == sorted(f"hotreload.{name}" for name in public)
    for name in methods:
        assert "@return" in rpc.system.methodHelp(name)
        assert rpc.system.methodSignature(name)[0] in {"string", "boolean", "array", "struct"}
    assert rpc.hotreload.getAPIVersion() == "1.0"
    printed = house.ctl("help", "hotreload").stdout
    assert "No help" not in printed + house.ctl("help", "status").stdout
    assert "hotreload" in house.ctl("help").stdout
    for word in ("<gname>:*", "all", "--bake", "--cancel", "Exit status 0"):
        assert word in printed
