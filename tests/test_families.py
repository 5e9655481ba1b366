"""The seam: only a family's own file knows the family."""

from __future__ import annotations

import ast
import pathlib
import re

import pytest

import supervisor_hotreload
from supervisor_hotreload.servers import FAMILIES, STRATEGIES

PACKAGE = pathlib.Path(supervisor_hotreload.__file__).parent

NAMES = re.compile("gunicorn|uwsgi|nginx|granian|uvicorn|hypercorn|unicorn|haproxy", re.IGNORECASE)


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


@pytest.mark.parametrize("name", ["protocol", "driver"])
def test_the_protocol_and_the_driver_know_no_server(name: str) -> None:
    assert not NAMES.search((PACKAGE / f"{name}.py").read_text())


@pytest.mark.parametrize(
    "path",
    [
        *(PACKAGE / f"{name}.py" for name in ("reloads", "rpcinterface", "config", "model")),
        *sorted((PACKAGE / "adoption").glob("*.py")),
        PACKAGE / "servers" / "family.py",
    ],
    ids=lambda path: path.name,
)
def test_what_is_not_a_family_knows_none(path: pathlib.Path) -> None:
    assert not [word for word in words(path) if NAMES.search(word)]


def test_every_family_is_a_file_and_an_entry() -> None:
    files = {path.stem for path in (PACKAGE / "servers").glob("*.py")}
    assert {type(family).__module__.rsplit(".", 1)[1] for family in FAMILIES} <= files
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    assert set(STRATEGIES) == {name for family in FAMILIES for name in family.strategies}
    assert all(family.strategies for family in FAMILIES)
