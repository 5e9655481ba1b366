"""What supervisord's loop costs while two local users attack it: ``make siege`` prints it.

One attacker is the user of a program: its code floods the notify socket, holds thousands of
descriptors in each of many processes, and forks chains of processes and orphans. The other
attacker has a shell and does the same. Meanwhile the program of a third user is reloaded
under load, with a hundred other programs in the configuration. The attackers end by themselves.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Optional

from tests.harness.house import House
from tests.harness.load import Load
from tests.harness.sabotage import saboteur, turns_in
from tests.harness.waiting import wait_until

ATTACKER = """\
import os, resource, signal, socket, sys, time
processes, seconds = int(sys.argv[1]), float(sys.argv[2])
end = time.monotonic() + seconds
limit = min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

def rest():
    time.sleep(max(0.0, end - time.monotonic()))
    os._exit(0)

def hold():
    made = []
    try:
        while True:
            made += socket.socketpair()
    except OSError:
        rest()

def chain(left):
    while left and os.fork() == 0:
        left -= 1
    rest()

for run in [hold] * processes + [lambda: chain(30)] * 4:
    if os.fork() == 0:
        run()
listeners = []
for number in range(500):
    listeners.append(socket.socket(socket.AF_UNIX))
    line = "0000: 00000002 00000000 00010000 0001 01 %d /x" % number
    listeners[-1].bind("\\0%d-%d\\n" % (os.getpid(), number) + line)
    listeners[-1].listen()
print("ready", flush=True)
flood = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
flood.setblocking(False)
address = os.environ.get("NOTIFY_SOCKET", "")
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while time.monotonic() < end:
    for _ in range(50 if address else 0):
        try:
            flood.sendto(b"STATUS=" + b"x" * 3000, address)
        except OSError:
            break
    if os.fork() == 0:  # an orphan, which supervisord has to reap
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)
    time.sleep(0.01)
"""

IDLE_SECONDS = 20.0
"""How long the turns of an idle loop are counted."""


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reloads", type=int, default=5)
    parser.add_argument("--processes", type=int, default=20, help="of each attacker")
    parser.add_argument("--seconds", type=float, default=90.0, help="that each attacker lives")
    chosen = parser.parse_args(arguments)
    root = pathlib.Path(tempfile.mkdtemp(prefix="hr-"))
    house = House(root)
    try:
        besiege(house, chosen.reloads, chosen.processes, chosen.seconds)
    finally:
        house.end()
        shutil.rmtree(root, ignore_errors=True)
    return 0


def besiege(house: House, reloads: int, processes: int, seconds: float) -> None:
    """Print what a step costs and how long clients wait, without and with the attack."""
    house.open_to_all()
    tests = str(pathlib.Path(__file__).parent.parent)  # the saboteur, for supervisord itself
    house.environment["PYTHONPATH"] += os.pathsep + tests
    script = house.root / "attacker.py"
    script.write_text(ATTACKER)
    times = house.root / "times"
    command = f"{house.python} {script} {processes} {seconds}"
    others = "".join(
        f"[program:p{number}]\ncommand = /bin/sleep 1000\nautostart = false\n"
        for number in range(98)
    )
    house.configure(
        "--workers 4",
        program="user = nobody",
        more=f"{others}[program:attacker]\ncommand = {command}\nuser = daemon\n"
        "autostart = false\nautorestart = false\n[hotreload:attacker]\nready = notify\n"
        + saboteur(times=str(times), polls="true"),
    )
    house.start()
    house.reload()
    wait_until(lambda: turns_in(house, 1.0) <= 4, what="an idle loop")
    turns = turns_in(house, IDLE_SECONDS) * 60 / IDLE_SECONDS
    print(f"idle, 100 programs: {turns:.0f} turns of the loop a minute; supervisord alone: 60")
    print(f"without an attack: {measure(house, times, reloads)}")
    house.ctl("start", "attacker")
    shell = subprocess.Popen(command.split(), user="games", stdout=subprocess.PIPE)
    try:
        assert shell.stdout is not None
        assert shell.stdout.readline() == b"ready\n"
        print(f"with an attack: {measure(house, times, reloads)}")
    finally:
        house.ctl("stop", "attacker")
        shell.kill()
        shell.wait()


def measure(house: House, times: pathlib.Path, reloads: int) -> str:
    """Reload under load; return what the steps have cost in processor time."""
    times.write_text("")
    slowest = 0.0
    with Load(house.port, fast=2, slow=1) as load:
        load.wait_in_flight()
        for _ in range(reloads):
            house.reload()
            began = time.monotonic()
            house.rpc().supervisor.getState()
            slowest = max(slowest, time.monotonic() - began)
    steps = sorted(float(line) for line in times.read_text().split())
    half, most = (steps[int(len(steps) * part)] * 1000 for part in (0.5, 0.99))
    return (
        f"{reloads} reloads, {len(load.dropped)} of {load.answered} requests dropped; a step of "
        f"{len(steps)}: median {half:.1f} ms, 99th percentile {most:.1f} ms, longest "
        f"{steps[-1] * 1000:.1f} ms; getState answers within {slowest * 1000:.0f} ms"
    )


if __name__ == "__main__":
    sys.exit(main())
