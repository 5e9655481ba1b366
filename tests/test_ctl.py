"""``supervisorctl hotreload``: its options, help and completion, and what it prints."""

from __future__ import annotations

import types
from typing import Any, Optional

import pytest
from supervisor.supervisorctl import Controller

from supervisor_hotreload.controllerplugin import make_hotreload_controllerplugin
from supervisor_hotreload.ctl.names import proposals
from supervisor_hotreload.ctl.options import NAMES, BadUsage, Request, help_text, parse, usage
from supervisor_hotreload.ctl.screen import EXCERPT_LINES, excerpt
from tests.harness.house import House

PROGRAMS = [("web", "api"), ("web", "app"), ("myapp", "myapp"), ("mail", "mail")]


def test_the_help_fits_a_screen() -> None:
    lines = help_text().splitlines()
    assert len(lines) <= 23  # and a prompt
    assert max(map(len, lines)) <= 80
    for action in NAMES:
        assert len(usage(action)) <= 80


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("myapp", Request("reload", ("myapp",))),
        ("myapp all web:api", Request("reload", ("all",))),
        ("b a b", Request("reload", ("b", "a"))),
        ("myapp --bake=3 -v", Request("reload", ("myapp",), {"bake": 3.0}, True)),
        ("--bake 1 --bake 1 a", Request("reload", ("a",), {"bake": 1.0})),
        ("--brutal a", Request("reload", ("a",), {"strategy": "brutal"})),
        ("--brutal --strategy brutal a", Request("reload", ("a",), {"strategy": "brutal"})),
        ("--cancel 'web:*'", Request("cancel", ("web:*",))),
        ("--status", Request("status", ("all",))),
        ("--status -v web:api", Request("status", ("web:api",), {}, True)),
        ("--help", Request("help", ())),
    ],
)
def test_what_is_asked_for(words: str, expected: Request) -> None:
    assert parse(words) == expected


@pytest.mark.parametrize(
    ("words", "error", "action"),
    [
        ("", "requires a process name", "reload"),
        ("--cancel", "requires a process name", "cancel"),
        ("--bake x a", "--bake: 'x' is not a number of seconds between 0 and 86400", "reload"),
        ("--bake nan a", "--bake: 'nan' is not a number", "reload"),
        ("--bake -1 a", "--bake: '-1' is not a number", "reload"),
        ("--bake myapp", "--bake: 'myapp' is not a number of seconds", "reload"),
        ("--bake", "option --bake requires argument", "reload"),
        ("--nonsense a", "option --nonsense not recognized", "reload"),
        ("'", "No closing quotation", "reload"),
        ("--cancel --status a", "--cancel and --status clash: choose one", "reload"),
        ("--bake 3 --cancel a", "--bake and --cancel clash: choose one", "cancel"),
        ("--status --brutal", "--brutal and --status clash: choose one", "status"),
        ("--cancel -v a", "--verbose and --cancel clash: choose one", "cancel"),
        ("--brutal --strategy chain a", "one strategy: brutal and chain clash", "reload"),
        ("--bake 1 --bake 2 a", "one bake: 1 and 2 clash", "reload"),
    ],
)
def test_a_wrong_command_line(words: str, error: str, action: str) -> None:
    with pytest.raises(BadUsage) as raised:
        parse(words)
    assert error in str(raised.value)
    assert raised.value.action == action


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("api", ["web:api", "web:*"]),
        ("web", ["web:api", "web:app", "web:*"]),
        ("web:aip", ["web:api", "web:app", "web:*"]),
        ("wbe:*", ["web:*"]),
        ("myap", ["myapp"]),
        ("nothing:*", []),
        ("zzz", []),
        ("", []),
    ],
)
def test_what_a_wrong_name_may_mean(name: str, expected: list[str]) -> None:
    assert proposals(name, PROGRAMS) == expected


def test_the_error_is_the_end_of_the_excerpt() -> None:
    error = "ModuleNotFoundError: No module named 'flask'"
    output = [*(f"line {number}" for number in range(50)), error, "worker exits", "HaltServer"]
    reason = f"the successor (pid 5) exited: {error}"
    shown = excerpt(output, reason)
    assert shown[-1] == error
    assert len(shown) == EXCERPT_LINES
    assert excerpt(output, "it was killed") == output[-EXCERPT_LINES:]
    assert excerpt(["one"], reason) == ["one"]
    assert excerpt([], reason) == []


def controller() -> Controller:
    """Return supervisorctl's own, with a supervisord that has PROGRAMS."""
    rows = [{"group": group, "name": name} for group, name in PROGRAMS]
    supervisor = types.SimpleNamespace(getAllProcessInfo=lambda: rows)
    proxy = types.SimpleNamespace(supervisor=supervisor, hotreload=None)
    options: Any = types.SimpleNamespace(
        prompt="",
        plugin_factories=[("hotreload", make_hotreload_controllerplugin, {})],
        getServerProxy=lambda: proxy,
    )
    return Controller(options)


def completed(line: str) -> list[str]:
    """Return what tab makes of the last word of *line*, as readline asks for it."""
    ctl = controller()
    start = max(line.rfind(" "), line.rfind("=")) + 1  # of readline's delimiters in supervisorctl
    matches: list[str] = []
    while True:
        match: Optional[str] = ctl.complete(line[start:], len(matches), line)
        if match is None:
            return matches
        matches.append(match.strip())


@pytest.mark.parametrize("words", ["", "w", "web:", "web:ap", "my", "mai", "nobody"])
def test_names_are_completed_as_for_restart(words: str) -> None:
    expected = completed(f"restart {words}")
    assert [name for name in completed(f"hotreload {words}") if name != "all"] == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("hotr", ["hotreload"]),
        ("hotreload a", ["all"]),
        ("hotreload --b", ["--bake", "--brutal"]),
        ("hotreload --bake 3 --c", []),
        ("hotreload --bake=3 --s", ["--strategy"]),
        ("hotreload --cancel --", ["--cancel"]),
        ("hotreload --status -", ["-v", "--verbose", "--status"]),
        ("hotreload --bake m", []),
        ("hotreload --strategy=m", []),
        ("hotreload --strategy chain my", ["myapp"]),
        ("hotreload myapp ma", ["mail"]),
        ("restart --b", []),
    ],
)
def test_options_are_completed(line: str, expected: list[str]) -> None:
    assert completed(line) == expected


def test_a_wrong_name_is_answered_with_near_ones(house: House) -> None:
    house.configure(more="[eventlistener:ear]\ncommand = cat\nevents = TICK_3600\n")
    house.start()
    for words in (["myap"], ["--cancel", "myap"], ["--status", "myap"]):
        done = house.ctl("hotreload", *words)
        assert done.stdout == "myap: ERROR (no such process; did you mean myapp)\n"
        assert done.returncode == 1
    names = "supervisorctl status has the names"
    assert house.ctl("hotreload", "qqq:*").stdout == f"qqq:*: ERROR (no such group; {names})\n"
    listener = house.ctl("hotreload", "ear").stdout
    assert listener == "ear: ERROR (it is an event listener; hotreload reloads programs only)\n"
    strategy = house.ctl("hotreload", "--strategy", "foo", "myapp").stdout
    assert strategy.startswith("myapp: ERROR (strategy: 'foo' is none of ")


def test_the_output_of_a_broken_release(house: House) -> None:
    house.configure("--workers 3")
    house.start()
    house.release("v2", code="import no_such_module")
    printed = house.ctl("hotreload", "myapp").stdout.splitlines()
    lines = [line for line in printed if line.startswith("myapp|")]
    assert len(lines) == EXCERPT_LINES
    assert lines[-1] == "myapp| ModuleNotFoundError: No module named 'no_such_module'"
    hint = next(line for line in printed if " more lines: " in line)
    assert "supervisorctl hotreload --status -v myapp, or /" in hint
    assert "No module named 'no_such_module')" in printed[-2]
    link, v1, v2 = (f"{house.root}/{name}" for name in ("current", "releases/v1", "releases/v2"))
    assert printed[-1].endswith(
        f" serves; {link} points at {v2} now, but it runs {v1}: put the link back, or whatever "
        f"is restarted (a worker, the program) loads {v2}"
    )
    later = house.ctl("hotreload", "--status", "-v", "myapp").stdout.splitlines()
    everything = [line for line in later if line.startswith("myapp|")]
    assert len(everything) == EXCERPT_LINES + int(hint.split()[1])
    assert any("spawning: " in line for line in later)
    house.release("v3", code="import no_such_module")
    verbose = house.ctl("hotreload", "--verbose", "myapp").stdout
    assert verbose.count("myapp| Traceback") > 1
    assert " more lines: " not in verbose
