"""The fault table: every phase of a reload x everything that may go wrong, on real processes.

``make faults`` walks it and writes docs/faults.rst; tests/test_faults.py asserts it.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from typing import Optional

import psutil

from tests.harness.house import House
from tests.harness.load import Load, wait_for_answer
from tests.harness.processes import with_children
from tests.harness.tables import simple_table
from tests.harness.waiting import wait_until

PHASES = ["spawning", "booting", "baking", "draining", "promoting"]

FAULTS = {
    "kill old": "kill -9 of the old master",
    "kill new": "kill -9 of the successor",
    "kill worker": "kill -9 of one new worker",
    "kill workers": "kill -9 of all new workers",
    "freeze new": "SIGSTOP to the successor",
    "freeze old": "SIGSTOP to the old master",
    "stop": "supervisorctl stop",
    "restart": "supervisorctl restart",
    "shutdown": "supervisorctl shutdown",
    "kill supervisord": "kill -9 of supervisord, then its start",
    "disk full": "no space for the pidfile",
    "fork": "fork fails in gunicorn",
}

NO_NEW = {"kill new", "kill worker", "kill workers", "freeze new"}
"""What needs a successor, and its workers, to be done to."""

NEEDED = {
    "kill worker": "what the killed worker had in flight",
    "kill workers": "what the killed workers had in flight",
    "stop": "the program is down",
    "restart": "the program is down for a moment",
    "shutdown": "the program is down",
}
"""Faults with which requests have to be dropped, and why."""

CONF = """\
import os
real = os.fork
def fork():
    if os.path.exists({flag!r}):
        raise BlockingIOError(11, "Resource temporarily unavailable")
    return real()
os.fork = fork
"""


@dataclass
class Cell:
    """What became of one fault in one phase.

    :param outcome: of the reload that was active.
    :param tracked: how many living processes supervisord tracks for the program.
    :param generations: how many masters of the program live in the end.
    :param wrong: what should not be, in a few words each.
    """

    phase: str
    fault: str
    outcome: str = ""
    state: str = ""
    tracked: int = 0
    generations: int = 0
    dropped: int = 0
    answered: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def perfect(self) -> bool:
        return not self.wrong


def applies(phase: str, fault: str) -> bool:
    """Tell whether *fault* can be done in *phase*."""
    if phase == "spawning":
        return fault not in NO_NEW
    return phase != "promoting" or fault not in ("kill old", "freeze old")  # it is gone by then


def walk(phase: str, fault: str) -> Cell:
    """Do *fault* in *phase* to a real reload and see what becomes of it."""
    root = pathlib.Path(tempfile.mkdtemp(prefix="hr-"))
    root.chmod(0o755)
    bystander = subprocess.Popen(["sleep", "1000"])
    house = House(root)
    cell = Cell(phase, fault)
    try:
        _walk(house, cell)
        if bystander.poll() is not None:
            cell.wrong.append("a foreign process was signalled")
    except AssertionError as error:
        cell.wrong.append(str(error).splitlines()[0])
        print(house.story(f"{phase} x {fault}: {error}"), file=sys.stderr)
    finally:
        bystander.kill()
        bystander.wait()
        house.end()
        subprocess.run(["umount", "-q", str(root / "run")], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(root, ignore_errors=True)
    return cell


def _walk(house: House, cell: Cell) -> None:
    prepare(house, cell)
    slow = 2 if cell.phase == "draining" else 0
    with Load(house.port, fast=2, slow=slow, slow_path="/slow5", pause=0.02) as load:
        if slow:
            load.wait_in_flight()
        house.release("v2", boot=1.5 if cell.phase == "booting" else 0.0)
        if cell.fault == "disk full" and cell.phase == "spawning":
            do(house, cell)
            house.rpc().hotreload.reloadProcess("myapp", False)
        else:
            house.rpc().hotreload.reloadProcess("myapp", False)
            house.wait_for_phase(cell.phase)
            do(house, cell)
        if cell.fault != "shutdown":
            settle(house, cell)
    cell.dropped, cell.answered = len(load.dropped), load.answered
    if cell.dropped and cell.fault not in NEEDED and reason(cell) is None:
        cell.wrong.append(f"dropped {cell.dropped}: {load.dropped[0]}")
        print(house.story(f"{cell.phase} x {cell.fault}"), file=sys.stderr)
    conclude(house, cell)


def prepare(house: House, cell: Cell) -> None:
    run = house.root / "run"
    run.mkdir()
    if cell.fault == "disk full":
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(run)], check=True)
    (house.root / "conf.py").write_text(CONF.format(flag=str(house.root / "no-fork")))
    hold = {"spawning": "successor", "promoting": "promoted"}.get(cell.phase)
    more = (
        f"[rpcinterface:saboteur]\nhold = {hold}\nseconds = 2\n"
        "supervisor.rpcinterface_factory = tests.harness.saboteur:make_saboteur_rpcinterface\n"
        if hold
        else ""
    )
    house.configure(
        "--workers 2",
        f"--config {house.root}/conf.py --pid {run}/app.pid",
        settings="bake = 3" if cell.phase == "baking" else "bake = 0",
        defaults="ready_timeout = 8" if cell.fault == "freeze new" else "",
        program="autorestart = true\nstopwaitsecs = 4",
        more=more,
    )
    house.start()
    wait_for_answer(house.port)


def do(house: House, cell: Cell) -> None:
    """Let the fault happen."""
    info = house.reload_info()
    old, new = info["old_pid"], info["new_pid"]
    fault = cell.fault
    with contextlib.suppress(ProcessLookupError):
        if fault in ("kill old", "kill new"):
            os.kill(old if fault == "kill old" else new, signal.SIGKILL)
        elif fault in ("freeze old", "freeze new"):
            os.kill(old if fault == "freeze old" else new, signal.SIGSTOP)
    if fault in ("kill worker", "kill workers"):
        workers = wait_until(lambda: psutil.Process(new).children(), what="workers of the new one")
        for worker in workers if fault == "kill workers" else workers[:1]:
            worker.kill()
    elif fault in ("stop", "restart", "shutdown"):
        house.ctl(fault, *(["myapp"] if fault != "shutdown" else []))
    elif fault == "kill supervisord":
        house.application()
        os.kill(house.pid, signal.SIGKILL)
        house.wait_for_exit()
        (house.root / "supervisor.sock").unlink()
        house.start(running="")
    elif fault == "disk full":
        with contextlib.suppress(OSError):
            (house.root / "run" / "filler").write_bytes(b"x" * 65536)
    elif fault == "fork":
        (house.root / "no-fork").touch()


def settle(house: House, cell: Cell) -> None:
    """Wait until nothing moves any more."""
    wait_until(
        lambda: not house.reload_info()["active"], 40, lambda: house.story("the reload is to end")
    )
    cell.outcome = house.reload_info()["outcome"]
    for obstacle in (house.root / "no-fork", house.root / "run" / "filler"):
        obstacle.unlink(missing_ok=True)
    if cell.fault == "stop":
        return
    if house.info()["statename"] == "FATAL":
        cell.wrong.append("FATAL")
        house.ctl("start", "myapp")
    wait_until(lambda: len(masters(house)) == 1, 40, "one generation is to live")
    house.wait_for("RUNNING", timeout=30)
    wait_for_answer(house.port)


def masters(house: House) -> list[int]:
    return [process.pid for process in with_children(house.application())]


def conclude(house: House, cell: Cell) -> None:
    """Count what lives, stop the program, and see that nothing is left."""
    if cell.fault == "shutdown":
        house.wait_for_exit()
        cell.state = "-"
    else:
        info = house.info()
        living = masters(house)
        cell.state = info["statename"]
        cell.tracked = sum(pid == info["pid"] for pid in living)
        cell.generations = len(living)
        wanted = 0 if cell.fault == "stop" else 1
        if (cell.tracked, cell.generations) != (wanted, wanted):
            cell.wrong.append(f"{cell.tracked} tracked, {cell.generations} generations")
        if "Traceback" in house.log():
            cell.wrong.append("a traceback in supervisord's log")
        if cell.fault != "stop":
            house.ctl("stop", "myapp")
    left = house.application()
    if left:
        cell.wrong.append(f"{len(left)} processes are left after stop")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=pathlib.Path, help="write the table to this file as well")
    parser.add_argument("--jobs", type=int, default=3)
    chosen = parser.parse_args()
    pairs = [(p, f) for f in FAULTS for p in PHASES if applies(p, f)]
    with concurrent.futures.ThreadPoolExecutor(chosen.jobs) as pool:
        cells = list(pool.map(lambda pair: walk(*pair), pairs))
    text = render(cells)
    print(text)
    if chosen.write:
        chosen.write.write_text(text)
    return 0 if all(cell.perfect for cell in cells) else 1


ONLY_ONE = "it was the only generation that accepts, the old one had been told to stop"

REASONS: dict[tuple[str, str], str] = {
    ("draining", "kill new"): ONLY_ONE,
    ("promoting", "kill new"): ONLY_ONE,
    ("spawning", "kill old"): "killed before it has forked: its port is gone with its workers",
    ("spawning", "fork"): "a gunicorn master whose fork fails on USR2 ends (arbiter.reexec)",
}
"""Cells in which requests are dropped, and why that cannot be helped."""


def reason(cell: Cell) -> Optional[str]:
    return REASONS.get((cell.phase, cell.fault))


COLUMNS = ("fault", "phase", "reload", "state", "tracked", "generations", "dropped", "remark")


def render(cells: list[Cell]) -> str:
    faults = "\n".join(f"* *{name}*: {what}" for name, what in FAULTS.items())
    return f"{HEADER}{simple_table(COLUMNS, [row(cell) for cell in cells])}\n\n{faults}\n"


def row(cell: Cell) -> tuple[str, ...]:
    why = (reason(cell) or NEEDED.get(cell.fault, "")) if cell.dropped else ""
    return (
        cell.fault,
        cell.phase,
        cell.outcome or "-",
        cell.state,
        str(cell.tracked),
        str(cell.generations),
        f"{cell.dropped} of {cell.answered + cell.dropped}",
        "; ".join(cell.wrong) or why or "-",
    )


HEADER = """\
The fault table
===============

*For engineers: what happens if a process is killed or frozen in the middle of a reload?*

``make faults`` does each fault in each phase of a real reload, under load, and waits until
nothing moves any more. *tracked*: living processes that supervisord tracks for the program.
*generations*: masters of it that live. After each cell the program is stopped, and nothing may be
left; a foreign process stands by and may not be signalled.

"""


if __name__ == "__main__":
    sys.exit(main())
