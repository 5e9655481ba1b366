"""The contract with supervisor: every seam is there, and one that is not is said."""

from __future__ import annotations

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
from supervisor_hotreload.plugin.supervisord import SeamMissing, Supervisord
from supervisor_hotreload.rpcinterface import HotReloadNamespaceRPCInterface
from tests.harness.house import House

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
from supervisor_hotreload.plugin import compat
from tests.test_seams import supervisord
print(supervisor.options.VERSION, compat.missing(supervisord()))
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
        Supervisord(running, None, None, None, None)  # type: ignore[arg-type] # not reached
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
    assert "which lacks: Subprocess.finish(pid, sts)" in line


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
