"""The pages: each names its reader, and quotes what the code knows and prints."""

from __future__ import annotations

import ast
import pathlib
import re

import pytest

import supervisor_hotreload
from supervisor_hotreload.core.model import Fault
from supervisor_hotreload.ctl.options import FLAGS
from supervisor_hotreload.rpcinterface import HotReloadNamespaceRPCInterface
from supervisor_hotreload.servers.settings import GLOBAL, KEYS

PACKAGE = pathlib.Path(supervisor_hotreload.__file__).parent
ROOT = PACKAGE.parent
PAGES = sorted(path for path in (ROOT / "docs").glob("*.rst") if path.name != "index.rst")

DIFFERS = re.compile(r"\b[A-Z]+\b|\.\.\.")
"""What stands for something that differs in a quoted message: a word in capitals, or ``...``."""


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_a_page_begins_with_its_reader_and_question(page: pathlib.Path) -> None:
    title, rule, empty, reader, *_ = page.read_text(encoding="utf-8").splitlines()
    assert (set(rule), len(rule), empty) == ({"="}, len(title), "")
    assert re.fullmatch(r"\*For .+: .+\?\*", reader), reader


def test_every_setting_has_a_row() -> None:
    text = (ROOT / "docs" / "settings.rst").read_text(encoding="utf-8")
    rows = re.findall(r"^``(\w+)``  ", text, re.MULTILINE)
    assert sorted(rows) == sorted({*KEYS, *GLOBAL})


def test_every_fault_option_and_method_has_a_row() -> None:
    text = (ROOT / "docs" / "commands.rst").read_text(encoding="utf-8")
    faults = re.findall(r"^(\d+) +([A-Z_]{4,}) ", text, re.MULTILINE)
    assert faults == [(str(int(fault)), fault.name) for fault in Fault]
    options = re.findall(r"^``(-[^`]+)``  ", text, re.MULTILINE)
    flags = {word.strip(",") for option in options for word in option.split() if word[0] == "-"}
    assert flags == set(FLAGS) - {"-h", "--help"}
    methods = set(re.findall(r"^``(\w+)\(", text, re.MULTILINE))
    assert methods <= set(vars(HotReloadNamespaceRPCInterface))


def test_files_named_for_newcomers_exist() -> None:
    text = (ROOT / "docs" / "hacking.rst").read_text(encoding="utf-8")
    named = set(re.findall(r"``([\w/]+\.(?:py|rst))``", text))
    named = {path for path in named if "NAME" not in path}
    assert len(named) > 20
    missing = [path for path in named if not any((top / path).exists() for top in (PACKAGE, ROOT))]
    assert missing == []


def literals() -> list[str]:
    """Return every string of the package; those of an f-string one by one."""
    return [
        node.value
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def test_quoted_messages_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "troubleshooting.rst").read_text(encoding="utf-8")
    terms = re.findall(r"^``.+``$", text, re.MULTILINE)
    quoted = [message for term in terms for message in re.findall(r"``([^`]+)``", term)]
    assert len(quoted) > 8
    known = literals()
    of_supervisor = ("*** Unknown syntax", "Server requires authentication")
    for message in quoted:
        if not message.startswith(of_supervisor):
            for part in filter(None, (part.strip() for part in DIFFERS.split(message))):
                assert any(part in literal for literal in known), message
