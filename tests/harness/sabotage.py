"""Configures the saboteur plugin, and asks it."""

from __future__ import annotations

import time

from tests.harness.house import House
from tests.harness.waiting import wait_until


def saboteur(**config: str) -> str:
    keys = "".join(f"{key} = {value}\n" for key, value in config.items())
    return (
        "[rpcinterface:saboteur]\n"
        "supervisor.rpcinterface_factory = tests.harness.saboteur:make_saboteur_rpcinterface\n"
        + keys
    )


def quiet(house: House) -> None:
    """Wait until supervisord's loop turns about once a second."""
    wait_until(lambda: turns_in(house, 1.0) <= 10, what="an idle loop")


def turns_in(house: House, seconds: float) -> int:
    before: int = house.rpc().saboteur.getTurns()
    time.sleep(seconds)  # the length of the measurement, not a wait for something
    after: int = house.rpc().saboteur.getTurns()
    return after - before
