"""What a refused or failed reload leaves."""

from __future__ import annotations

import xmlrpc.client

import pytest

from tests.harness.house import House
from tests.harness.load import get


def fault_of(house: House, name: str = "myapp") -> xmlrpc.client.Fault:
    with pytest.raises(xmlrpc.client.Fault) as caught:
        house.rpc().hotreload.reloadProcess(name)
    return caught.value


def assert_unchanged(house: House, before: dict[str, object]) -> None:
    """The old generation serves on, is tracked, and what was started is gone."""
    after = house.info()
    assert (after["pid"], after["statename"]) == (before["pid"], "RUNNING")
    assert get(house.port).startswith(b"v1 ")
    assert [master.pid for master in house.masters()] == [before["pid"]]
    assert house.zombies() == []
