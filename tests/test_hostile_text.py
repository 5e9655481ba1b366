"""What others have written reaches no log, no terminal and no XML as it is."""

from __future__ import annotations

import ast
import os
import pathlib
import types
import xmlrpc.client
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies
from supervisor.xmlrpc import RPCError

import supervisor_hotreload
from supervisor_hotreload.controllerplugin import HotReloadControllerPlugin
from supervisor_hotreload.core.text import LONGEST
from supervisor_hotreload.ctl.screen import Screen
from supervisor_hotreload.listener.log import say
from supervisor_hotreload.plugin.events import ProcessHotReloadEvent
from supervisor_hotreload.plugin.log import Log
from supervisor_hotreload.plugin.triggers import TriggerTable
from supervisor_hotreload.plugin.xmlrpc import clean
from supervisor_hotreload.rpcinterface import HotReloadNamespaceRPCInterface
from tests.harness.house import House
from tests.harness.simulation import Simulation

FORGED = "2026-01-01 00:00:00,000 INFO forged"

NAMES = {
    "escape": "v2\x1b[2J\x1b]0;owned\x07",
    "no UTF-8": os.fsdecode(b"v2\xff\xfe"),
    "newline": f"v2\n{FORGED}",
    "bidi": "v2\u202egnp.exe\u2066",
    "separators": "v2\u2028\x85\x0b\x0c\r\x1cx",
    "C1": "v2\x9b31m\x90",
    "surrogate": "v2\ud800",
}


def assert_printable(value: Any) -> None:
    for text in texts(value):
        assert all(c.isprintable() or c == "\t" for c in text), ascii(text)
        assert len(text) <= LONGEST


def texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in [*value.keys(), *value.values()] for text in texts(item)]
    if isinstance(value, (list, tuple)):
        return [text for item in value for text in texts(item)]
    return [value] if isinstance(value, str) else []


def test_a_directory_of_any_name(house: House) -> None:
    """It is in the reason of a reload, and so in every answer, on the screen and in the log."""
    house.configure()
    house.start()
    before = house.rpc().supervisor.getProcessInfo("myapp")["pid"]
    name = "".join(name for kind, name in NAMES.items() if kind != "surrogate")
    house.release(name, boot=2)
    house.rpc().hotreload.reloadProcess("myapp", False)
    house.wait_for_phase("booting")
    house.release(f"{name}b")
    info = house.wait_for_outcome()
    assert "was moved to" in info["reason"], info["reason"]
    assert "\ufffd" in info["reason"]
    for answer in (info, house.rpc().hotreload.getAllReloadInfo()):
        assert_printable(answer)
    assert_printable(house.rpc().hotreload.getTriggers())
    done = house.ctl("hotreload", "--status")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1
    assert "was moved to" in done.stdout
    assert_printable(done.stdout.rstrip("\n"))
    log = (house.root / "supervisord.log").read_text(encoding="utf-8")  # strictly
    assert_printable(log.split("\n"))
    assert not [line for line in log.splitlines() if line.startswith(FORGED)]
    assert "was moved to" in log
    assert house.info()["pid"] == before


def test_a_value_of_the_configuration(house: House) -> None:
    """It is said, and the settings of others hold, for the listener too."""
    house.environment["EVIL"] = os.fsdecode(b"\x1b[2J\xff")
    house.configure(
        settings="touch = /nowhere\n",
        more="[program:other]\ncommand = /bin/sleep 1000\n"
        "[hotreload:other]\nready_timeout = %(ENV_EVIL)s\n",
    )
    house.start()
    house.wait_for("RUNNING", "other")
    answer = house.rpc().hotreload.getTriggers()
    assert_printable(answer)
    assert any("ready_timeout = \ufffd[2J\ufffd" in error for error in answer["errors"])
    assert answer["programs"][0]["triggers"] == {"touch": ["/nowhere"]}
    with pytest.raises(xmlrpc.client.Fault) as caught:
        house.rpc().hotreload.reloadProcess("other")
    assert "ready_timeout = \ufffd[2J\ufffd" in caught.value.faultString
    assert "warning: bad setting: [hotreload:other]" in house.ctl("hotreload", "--status").stdout
    assert "bad setting: [hotreload:other] ready_timeout = \ufffd[2J\ufffd" in house.log()


class Lines(list[str]):
    """A logger that keeps what it is given."""

    def __getattr__(self, name: str) -> Any:
        return self.append


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_message_is_one_line(name: str) -> None:
    lines = Lines()
    log = Log(lines)
    for write in (log.info, log.warn, log.error, log.critical):
        write(f"hotreload: {name}: what happened{'.' * 10_000} the end")
    assert len(lines) == 4
    for line in lines:
        assert line.isprintable()
        assert len(line) < LONGEST + 100
        assert line.endswith(" the end")


def test_no_line_of_a_traceback_passes_for_another() -> None:
    lines = Lines()
    Log(lines).critical(
        f"hotreload: myapp: Traceback (most recent call last):\nValueError: x\r\n{FORGED}\x1b\n"
    )
    assert lines[0] == "hotreload: myapp: Traceback (most recent call last):"
    assert len(lines) > 2
    assert all(line.startswith("hotreload: | ") for line in lines[1:])
    assert_printable(lines)


def test_all_of_the_package_writes_by_one_log() -> None:
    """Nothing inside supervisord calls a method of supervisord's own logger."""
    found = []
    for path in sorted(pathlib.Path(supervisor_hotreload.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in ("info", "warn", "critical"):
                raw = ast.unparse(node.value)
                if raw.endswith("options.logger"):
                    found.append((path.name, raw))
    assert found == []


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_an_event_has_no_token_too_many(name: str) -> None:
    payload = ProcessHotReloadEvent({"processname": f"a b:c{name}", "pid": 5}).payload()
    assert payload.isprintable()
    assert payload.startswith("processname:a_b_c")
    assert payload.endswith(" pid:5")
    assert (payload.count(" "), payload.count(":")) == (1, 2)


def test_the_log_of_the_listener_cannot_be_forged(capsys: pytest.CaptureFixture[str]) -> None:
    for name in NAMES.values():
        say(f"{name}: no such program")
    say(f"Traceback (most recent call last)\n{FORGED}")
    *lines, last = capsys.readouterr().err.rstrip("\n").split("\n")
    assert len(lines) == len(NAMES) + 1
    assert_printable([*lines, last])
    assert last.split(" ", 2)[2] == f"hotreload: | {FORGED}"


ANYTHING = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers()
    | strategies.integers(min_value=10**400, max_value=10**401)
    | strategies.floats()
    | strategies.binary(max_size=20)
    | strategies.sampled_from([*NAMES.values(), "myapp", "myapp:*", "myapp:myapp", "", ":", "\0"])
    | strategies.text(strategies.characters(codec=None), max_size=30)
    | strategies.just("x" * 100_000),
    lambda inner: (
        strategies.lists(inner, max_size=3)
        | strategies.dictionaries(strategies.sampled_from(["bake", "strategy", "x"]), inner)
    ),
    max_leaves=5,
)

METHODS = sorted(name for name in vars(HotReloadNamespaceRPCInterface) if name[0] != "_")


@pytest.fixture(scope="module")
def interface() -> HotReloadNamespaceRPCInterface:
    reloads = Simulation(1, True).reloads
    return HotReloadNamespaceRPCInterface(reloads, TriggerTable(reloads))


@hypothesis.settings(
    max_examples=int(os.environ.get("HOTRELOAD_EXAMPLES", "300")),
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
@hypothesis.given(
    method=strategies.sampled_from(METHODS), arguments=strategies.lists(ANYTHING, max_size=5)
)
def test_whatever_is_asked_there_is_an_answer(
    interface: HotReloadNamespaceRPCInterface, method: str, arguments: list[Any]
) -> None:
    """A value that is XML, or a fault that is no error of ours."""
    try:
        value = getattr(interface, method)(*arguments)
        value = value() if isinstance(value, types.FunctionType) else value
    except RPCError as error:
        assert_printable(error.text.split("\n"))
        assert "inside hotreload" not in error.text
        answer = xmlrpc.client.dumps(xmlrpc.client.Fault(error.code, error.text))
        with pytest.raises(xmlrpc.client.Fault):
            xmlrpc.client.loads(answer.encode())
    else:
        if not isinstance(value, type):  # NOT_DONE_YET
            assert_printable(value)
            xmlrpc.client.loads(xmlrpc.client.dumps((value,), methodresponse=True).encode())


def test_what_an_app_prints_is_not_lost() -> None:
    assert clean({"a": ["tab\there", 5, True, 0.5]}) == {"a": ["tab\there", 5, True, 0.5]}


def test_supervisorctl_prints_no_more_than_text(capsys: pytest.CaptureFixture[str]) -> None:
    """The supervisord it talks to may be an old one, or not be one at all."""
    info = {"group": "a\x1b[2J", "name": f"b\n{FORGED}", "pid": 1, "generation": 1}
    info.update(active=False, outcome="\x9b31mfailed", reason="\u202e\ud800", seconds=1.0)
    proxy = types.SimpleNamespace(getAllReloadInfo=lambda: [info], getWarnings=lambda: ["\x1b"])
    controller = types.SimpleNamespace(
        get_server_proxy=lambda _: proxy,
        options=types.SimpleNamespace(plugins=[]),
        upcheck=lambda: True,
        output=print,
        stdout=None,
        exitstatus=0,
    )
    HotReloadControllerPlugin(controller).do_hotreload("--status")
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 2
    assert_printable(printed.split("\n"))


def test_the_tabs_of_a_backtrace_are_spaces_on_the_screen() -> None:
    printed: list[str] = []
    controller = types.SimpleNamespace(stdout=None, output=printed.append)
    Screen(controller).say("myapp| \tfrom /srv/app/config.ru:3:in '<main>'\x1b[2J")
    assert printed == ["myapp|     from /srv/app/config.ru:3:in '<main>'\ufffd[2J"]
