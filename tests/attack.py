"""What supervisord's loop costs while two local users attack: ``make faults`` prints it.

One of them has a program of supervisord's own, which floods its notify socket, holds
thousands of descriptors in each of many processes, and forks chains of processes; the other
has a shell. Meanwhile the program of a third user is reloaded under load.
"""

from __future__ import annotations

import argparse
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from tests.house import House, wait_until
from tests.load import Load
from tests.test_robustness import saboteur, turns_in

ATTACKER = """\
import os, resource, signal, socket, sys, threading, time
kind, parent = sys.argv[1], os.getppid()
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
def alive():
    return os.getppid() == parent
def hold():
    made = []
    while len(made) < 3900:
        made += socket.socketpair()
    time.sleep(1000)
def chain(left):
    while left and os.fork() == 0:
        left -= 1
    time.sleep(1000)
pids = []
def child(run, *arguments):
    pid = os.fork()
    if pid == 0:
        import ctypes
        ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
        run(*arguments)
        os._exit(0)
    pids.append(pid)
for _ in range(int(sys.argv[2])):
    child(hold)
for _ in range(4):
    child(chain, 30)
unix = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
unix.setblocking(False)
listeners = []
for number in range(500):
    listeners.append(socket.socket(socket.AF_UNIX))
    line = "0000: 00000002 00000000 00010000 0001 01 %d /x" % number
    listeners[-1].bind("\\0%d-%d\\n" % (os.getpid(), number) + line)
    listeners[-1].listen()
print("ready", flush=True)
end = time.monotonic() + float(sys.argv[3])
address = os.environ.get("NOTIFY_SOCKET", "")
while time.monotonic() < end and alive():
    for _ in range(50):
        try:
            if address:
                unix.sendto(b"STATUS=" + b"x" * 3000, address)
        except OSError:
            break
    dead = os.fork()
    if dead == 0:
        os.fork()
        os._exit(0)
    os.waitpid(dead, 0)
    time.sleep(0.005)
import signal
for pid in pids:
    os.kill(pid, signal.SIGKILL)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reloads", type=int, default=5)
    parser.add_argument("--children", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    chosen = parser.parse_args()
    root = pathlib.Path(tempfile.mkdtemp(prefix="hr-"))
    root.chmod(0o755)
    house = House(root)
    try:
        attack(house, chosen.reloads, chosen.children, chosen.seconds)
    finally:
        house.end()
        shutil.rmtree(root, ignore_errors=True)
    return 0


def attack(house: House, reloads: int, children: int, seconds: float) -> None:
    house.open_to_all()
    (house.root / "attacker.py").write_text(ATTACKER)
    times = house.root / "times"
    more = "".join(f"[program:p{n}]\ncommand = /bin/sleep 1000\n" for n in range(98))
    evil = f"{house.python} {house.root}/attacker.py program {children} {seconds}"
    more += f"[program:evil]\ncommand = {evil}\nuser = daemon\nautorestart = false\n"
    more += "autostart = false\n"
    more += "[hotreload:evil]\nready = notify\n"
    more += saboteur(times=str(times), polls="true")
    house.configure("--workers 4", program="user = nobody", more=more)
    house.start()
    house.reload()
    for _ in range(20):
        house.nudge()
    idle = turns_in(house, 20.0) * 3
    print(f"idle, 99 programs: {idle} turns of the loop a minute (supervisord alone: 60)")
    print(f"without an attack: {_reloads(house, times, reloads)}")
    house.ctl("start", "evil")
    other = subprocess.Popen(
        [house.python, str(house.root / "attacker.py"), "shell", str(children), str(seconds)],
        user="games",
        stdout=subprocess.PIPE,
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        print(f"with an attack: {_reloads(house, times, reloads)}")
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()


def _reloads(house: House, times: pathlib.Path, count: int) -> str:
    """Reload, and return what a step has cost and how long clients have waited."""
    wait_until(lambda: house.nudge())
    times.write_text("")
    slowest = 0.0
    with Load(house.port, fast=2, slow=1) as load:
        load.wait_in_flight()
        for _ in range(count):
            house.reload()
            began = time.monotonic()
            house.rpc().supervisor.getState()
            slowest = max(slowest, time.monotonic() - began)
    steps = sorted(float(line) for line in times.read_text().split())
    half, most, longest = (steps[int(len(steps) * part)] * 1000 for part in (0.5, 0.99, 0.999999))
    return (
        f"{count} reloads, {load.answered} requests, {len(load.dropped)} dropped; "
        f"{len(steps)} steps: median {half:.1f} ms, p99 {most:.1f} ms, longest {longest:.1f} ms; "
        f"getState in {slowest * 1000:.0f} ms at most"
    )


if __name__ == "__main__":
    sys.exit(main())
