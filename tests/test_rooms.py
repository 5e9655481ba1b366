"""The rooms of the package: what a module may import follows from the folder that it is in."""

from __future__ import annotations

import ast
import pathlib
from collections.abc import Iterator

import pytest

import supervisor_hotreload

NAME = "supervisor_hotreload"
PACKAGE = pathlib.Path(supervisor_hotreload.__file__).parent

ROOMS = {
    "core": {"core"},
    "system": {"core", "system"},
    "servers": {"core", "system", "servers"},
    "plugin": {"core", "system", "servers", "plugin"},
    "listener": {"core", "system", "listener"},
    "wrapper": {"core", "system", "servers", "wrapper", "__init__"},
    "forks": {"forks"},
    "__init__": {"listener"},  # request_reload, when an application asks for it
    "rpcinterface": {"core", "servers", "plugin", "__init__"},
    "ctl": {"core", "ctl"},
    "controllerplugin": {"core", "ctl"},
    "demo": set[str](),
}
"""Each room, and the rooms that its modules may import. ``__init__`` has the version."""

TOUCHING = {"os", "time", "signal", "socket", "subprocess", "threading", "select", "ctypes"}
"""What core may not import."""

SUPERVISOR = {
    "rpcinterface": {"supervisor.xmlrpc", "supervisor.http", "supervisor.options"},
    "ctl": {"supervisor.supervisorctl", "supervisor.xmlrpc", "supervisor.options"},
    "controllerplugin": {"supervisor.supervisorctl", "supervisor.xmlrpc", "supervisor.options"},
    "demo": {"supervisor.xmlrpc"},
}
"""What others than plugin use of supervisor: its protocols."""

MODULES = sorted(PACKAGE.rglob("*.py"))


def dotted(path: pathlib.Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def imports(path: pathlib.Path) -> Iterator[str]:
    """Yield every module that *path* imports, at its top or in a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [node.module] if node.module else []
            if node.level:
                base = [*path.relative_to(PACKAGE.parent).parts[: -node.level], *base]
            for alias in node.names:
                name = ".".join([*base, alias.name])
                yield name if is_module(name) else ".".join(base)


def is_module(name: str) -> bool:
    place = PACKAGE.parent.joinpath(*name.split("."))
    return place.with_suffix(".py").exists() or (place / "__init__.py").exists()


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_a_module_imports_what_its_room_may_touch(path: pathlib.Path) -> None:
    here = room(dotted(path))
    assert here in ROOMS, f"{path} is in no room"
    used = set(imports(path))
    ours = {room(name) for name in used if name.split(".")[0] == NAME}
    assert not ours - ROOMS[here], f"{path} imports upward"
    supervisor = {name for name in used if name.split(".")[0] == "supervisor"}
    if here != "plugin":
        known = {".".join(name.split(".")[:2]) for name in supervisor}
        assert not known - SUPERVISOR.get(here, set()), f"{path} imports supervisor"
    if here == "core":
        assert not {name.split(".")[0] for name in used} & TOUCHING, f"{path} touches something"


def test_no_imports_run_in_a_circle() -> None:
    graph = {dotted(path): {n for n in imports(path) if n.startswith(NAME)} for path in MODULES}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join([*above[above.index(module) :], module])
        if module not in done:
            for name in sorted(graph.get(module, ())):
                visit(name, (*above, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())
