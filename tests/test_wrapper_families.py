"""hotreload-run knows no family by name: each is reloaded as it says itself."""

from __future__ import annotations

import shlex

from tests.harness.load import Load, get
from tests.harness.otherservers import puma, rack_release, unicorn
from tests.harness.waiting import wait_until
from tests.harness.wrapped import Wrapped

BROKEN = 'require "no_such_library"\n'


def serve(wrapped: Wrapped, command: str) -> None:
    rack_release(wrapped, "v1")
    wrapped.run("--status-file", wrapped.root / "status.json", *shlex.split(command))
    wait_until(lambda: wrapped.status()["state"] == "serving", what=wrapped.console)


def reload_twice(wrapped: Wrapped) -> None:
    for number, name in enumerate(("v2", "v3"), start=2):
        rack_release(wrapped, name, boot=0.5)
        wrapped.hup()
        wrapped.wait_for_release(name)
        assert wrapped.status()["generation"] == number


def test_unicorn_starts_its_own_successor(wrapped: Wrapped) -> None:
    serve(wrapped, unicorn(wrapped))
    (server,) = wrapped.servers()
    with Load(wrapped.port, fast=1, slow=1) as load:
        reload_twice(wrapped)
    assert load.dropped == []
    assert server not in wrapped.servers()
    rack_release(wrapped, "broken", code=BROKEN)
    wrapped.hup("failed")
    assert get(wrapped.port).startswith(b"v3 ")
    wrapped.send("QUIT")
    assert wrapped.wait() == 0


def test_puma_replaces_its_own_workers(wrapped: Wrapped) -> None:
    serve(wrapped, puma(wrapped))
    (server,) = wrapped.servers()
    wait_until(lambda: wrapped.console().count(" booted") == 2, what=wrapped.console)
    with Load(wrapped.port, fast=1, slow=1) as load:
        reload_twice(wrapped)
    assert len(load.dropped) <= 1  # seen once: a worker that ends closed what it had accepted
    assert wrapped.servers() == [server]
    wrapped.send("TERM")
    assert wrapped.wait() in (0, -15)
