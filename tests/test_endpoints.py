"""What an address answers to the probes, and what of it proves that a server is ready."""

from __future__ import annotations

import http.server
import os
import pathlib
import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from supervisor_hotreload.core.model import Ready
from supervisor_hotreload.servers.settings import BadSetting, Settings
from supervisor_hotreload.system import endpoint as endpoints
from supervisor_hotreload.system.credentials import OWN
from supervisor_hotreload.system.endpoint import endpoint_probe
from supervisor_hotreload.system.exchange import Exchange
from supervisor_hotreload.system.http_answer import judged
from supervisor_hotreload.system.linux import refuse_descriptors
from supervisor_hotreload.system.process import lookup
from supervisor_hotreload.system.world import World
from tests.harness.house import House

SLOW = 0.8
"""Seconds until the slow answer comes. The first question may take 0.5 s in these tests."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.hosts.append(self.headers["Host"])
        if self.path.startswith("/hop"):
            number = int(self.path[4:])
            self.server.header = f"Location: {f'/hop{number - 1}' if number else '/good'}".encode()
        if self.path == "/moved" or self.path.startswith("/hop"):
            self.wfile.write(b"HTTP/1.0 %d x\r\n" % self.server.status)
            self.wfile.write(self.server.header + b"\r\n\r\n")
            return
        if self.path == "/slow":
            time.sleep(SLOW)
        if self.path == "/lost" and len(self.server.hosts) == 1:
            time.sleep(3)
        status, body = {
            "/huge": (200, b"x" * 3_000_000 + b"well"),
            "/bad": (503, b"all is well"),
        }.get(self.path, (200, b"all is well"))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)
        while self.path == "/endless":
            time.sleep(0.05)
            self.wfile.write(b"more")

    def log_message(self, *_: object) -> None:
        """Be quiet."""


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Answers ``/moved`` with a status and a header of its own."""

    daemon_threads = True
    status = 302
    header = b"Location: /good"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.hosts: list[str] = []

    def handle_error(self, *_: object) -> None:
        """A client that goes away is what is tested."""


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join(5)


@pytest.fixture
def port(server: Server) -> int:
    return int(server.server_address[1])


def outcome_of(ready: Ready, seconds: float = 2, patient: bool = False) -> str:
    """Return "ready", or the first text of the probe; the last one if *patient*."""
    world = World()
    me = lookup(os.getpid())
    assert me is not None
    endpoint = endpoint_probe(world, ready, OWN, alone=True)
    text = ""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        began = time.monotonic()
        verdict = endpoint(me)
        assert time.monotonic() - began < 1  # the slow servers here take 3 s
        if verdict:
            return "ready"
        text = verdict.text
        if not patient and not text.endswith(": asked"):
            return text
        time.sleep(0.005)
    return text


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("/good", "well", "ready"),
        ("/good", "", "ready"),
        ("/good", "badly", "is not in the body"),
        ("/bad", "", "status 503"),
        ("/huge", "well", "is not in the body"),
        ("/endless", "", "ready"),
        ("/endless", "well", "ready"),
        ("/endless", "more", "ready"),
        ("/endless", "badly", ": asked"),
    ],
)
def test_http(port: int, path: str, text: str, expected: str) -> None:
    target = f"http://127.0.0.1:{port}{path}"
    assert expected in outcome_of(Ready("http", target=target, text=text))


@pytest.mark.parametrize(("path", "within"), [("/slow", 5), ("/lost", 1.5)])
def test_a_question_without_an_answer_is_asked_again_and_may_take_longer(
    monkeypatch: pytest.MonkeyPatch, server: Server, port: int, path: str, within: float
) -> None:
    """A good answer may be slow; a connection that was lost is replaced soon."""
    monkeypatch.setattr(endpoints, "ANSWER_SECONDS", 0.5)
    target = f"http://127.0.0.1:{port}{path}"
    assert outcome_of(Ready("http", target=target), within, patient=True) == "ready"
    assert len(server.hosts) == 2


@pytest.mark.parametrize(
    ("status", "location"),
    [
        (301, "/good"),
        (302, "good"),
        (303, "./x/../good#there"),
        (307, "//127.0.0.1:PORT/good"),
        (308, "http://127.0.0.1:PORT/good"),
        (302, "HTTP://LOCALHOST:PORT/good"),
    ],
)
def test_a_redirect_to_the_same_place_is_followed(
    server: Server, port: int, status: int, location: str
) -> None:
    server.status = status
    server.header = f"LOCATION:  {location.replace('PORT', str(port))} \r\nX: y".encode()
    assert (
        outcome_of(Ready("http", target=f"http://127.0.0.1:{port}/moved", text="well")) == "ready"
    )
    assert len(server.hosts) == 2
    host = "LOCALHOST" if "LOCAL" in location else "127.0.0.1"
    assert server.hosts == [f"127.0.0.1:{port}", f"{host}:{port}"]


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:{other}/good",
        "http://127.0.0.1/good",
        "http://127.0.0.2:{port}/good",
        "http://[::1]:{port}/good",
        "//example.org:{port}/good",
        "https://127.0.0.1:{port}/good",
        "http://user@127.0.0.1:{port}/good",
        "http://127.0.0.1:99999/good",
        "http://127.0.0.1:x/good",
        "http://[/good",
        "unix:/good",
    ],
)
def test_a_redirect_elsewhere_is_not_followed(server: Server, port: int, location: str) -> None:
    location = location.format(port=port, other=port - 1)
    server.header = f"Location: {location}".encode()
    text = outcome_of(Ready("http", target=f"http://127.0.0.1:{port}/moved"))
    assert f"status 302 to '{location}', which is elsewhere, is not followed" in text
    assert len(server.hosts) == 1


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        (b"X: y", "status 302 without one Location"),
        (b"Location: /good\r\nlocation: /bad", "status 302 without one Location"),
        (b"Location: ", "status 302 with a Location that is no plain"),
        (b"Location: /a b", "status 302 with a Location that is no plain"),
        (b"Location: /a\rX: y", "status 302 with a Location that is no plain"),
        (b"Location: /a\nX: y", "status 302 with a Location that is no plain"),
        (b"Location: /a\tb", "status 302 with a Location that is no plain"),
        (b"Location: /\x1b[2J", "status 302 with a Location that is no plain"),
        (b"Location: /\xc3\xa9", "status 302 with a Location that is no plain"),
        (b"Location: /" + b"a" * 3000, "status 302 with a Location that is no plain"),
        (b"X: " + b"y" * 100_000 + b"\r\nLocation: /good", "status 302 with a header without end"),
    ],
)
def test_a_location_is_hostile(server: Server, port: int, header: bytes, complaint: str) -> None:
    server.header = header
    text = outcome_of(Ready("http", target=f"http://127.0.0.1:{port}/moved"))
    assert complaint in text
    assert text.isprintable()
    assert len(text) < 300
    assert len(server.hosts) == 1


@pytest.mark.parametrize(("path", "expected"), [("/hop2", "ready"), ("/hop3", "3 redirects")])
def test_few_redirects_are_followed(server: Server, port: int, path: str, expected: str) -> None:
    assert expected in outcome_of(Ready("http", target=f"http://127.0.0.1:{port}{path}"))
    assert len(server.hosts) == 4


def test_a_status_that_leads_nowhere_is_not_followed(server: Server, port: int) -> None:
    server.status = 304
    assert "status 304" in outcome_of(Ready("http", target=f"http://127.0.0.1:{port}/moved"))
    assert len(server.hosts) == 1


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (b"200", ""),
        (b"204", ""),
        (b"2" * 5000, "no HTTP answer"),
        (b"20", "no HTTP answer"),
        (b"\xb2\xb2\xb2", "no HTTP answer"),
        (b"500", "status 500"),
    ],
)
def test_a_status_has_three_digits(status: bytes, expected: str) -> None:
    assert judged(b"HTTP/1.1 " + status + b" x\r\n") == expected


def test_tcp_and_unix_and_file(port: int, house: House) -> None:
    assert outcome_of(Ready("tcp", target=f"tcp://127.0.0.1:{port}")) == "ready"
    assert "refused" in outcome_of(Ready("tcp", target="tcp://127.0.0.1:1"))
    assert "No such file" in outcome_of(Ready("unix", target=f"unix:{house.root}/none"))
    mark = house.root / "mark"
    mark.touch()
    endpoint = endpoint_probe(World(), Ready("file", target=f"file:{mark}"), OWN)
    me = lookup(1)
    assert me is not None
    assert not endpoint(me)
    mark.unlink()
    mark.touch()
    assert endpoint(me)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("accepting", Ready("accepting")),
        ("http://localhost:80", Ready("http", target="http://127.0.0.1:80/")),
        ("http://[::1]:8/x?y=1 ok", Ready("http", target="http://[::1]:8/x?y=1", text="ok")),
        ("tcp://10.0.0.1:5", Ready("tcp", target="tcp://10.0.0.1:5")),
        ("unix:/run/x", Ready("unix", target="unix:/run/x")),
        ("file:/run/x", Ready("file", target="file:/run/x")),
    ],
)
def test_ready_is_read(value: str, expected: Ready) -> None:
    assert Settings({}, {"a": {"ready": value}}).policy("a", "a").ready == expected


@pytest.mark.parametrize(
    "value",
    ["http://example.org/", "http://u:p@127.0.0.1/", "tcp://127.0.0.1", "unix:x", "nonsense"],
)
def test_ready_that_cannot_be_is_refused(value: str) -> None:
    with pytest.raises(BadSetting, match="ready ="):
        Settings({}, {"a": {"ready": value}}).policy("a", "a")


def test_settling_is_no_part_of_what_takes_too_long() -> None:
    policy = Settings({"ready_timeout": "3"}, {"a": {"ready": "settle:90"}}).policy("a", "a")
    assert policy.ready_timeout == 93


@pytest.mark.parametrize("line", ["signal = KILL", "signal = NONE", "strategy = magic"])
def test_strategies_and_signals_are_read(line: str) -> None:
    key, _, value = line.partition(" = ")
    with pytest.raises(BadSetting, match=key):
        Settings({}, {"a": {key: value}}).policy("a", "a")


def passes_rights() -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return not refuse_descriptors(sock)


@pytest.mark.skipif(passes_rights(), reason="Linux 6.16 is the first that can refuse them")
def test_an_answer_may_not_carry_descriptors(tmp_path: pathlib.Path) -> None:
    """Their receiver has to close them, and may have to wait for that."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        exchange = Exchange(str(tmp_path / "s"))
        accepted, _ = listener.accept()
        with accepted, pytest.raises(PermissionError):
            accepted.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, bytes(4))])
        exchange.close()
