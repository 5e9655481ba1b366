"""Programs as sites have them."""

from __future__ import annotations

from tests.harness.house import House
from tests.harness.load import wait_for_answer
from tests.harness.waiting import free_port


def a_group(house: House, more: str = "") -> list[int]:
    """Configure the group web of web0 and web1, and a program that is no server."""
    ports = [house.port, free_port()]
    more += "\n".join(
        f"[program:web{number}]\ncommand = {house.gunicorn(bind=f'127.0.0.1:{port}')}\n"
        f"directory = %(here)s/current\n"
        for number, port in enumerate(ports)
    )
    more += "[group:web]\nprograms = web0,web1\n"
    house.configure(name="idle", command="/bin/sleep 1000", more=more)
    house.start(running="web:web1")
    house.wait_for("RUNNING", "web:web0")
    for port in ports:
        wait_for_answer(port)
    return ports


def script(house: House, text: str) -> str:
    """Write a shell script; return its path."""
    path = house.root / "start.sh"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)
