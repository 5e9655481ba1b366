"""A simulated kernel with simulated gunicorns in it, for the protocol's timelines.

What gunicorn does here is what its arbiter does: one pass of its loop per
``step``, signals in order of arrival, a second between two looks at its parent.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Collection, Container
from dataclasses import dataclass, field
from typing import Callable, Optional

from supervisor_hotreload.system.credentials import Ids
from supervisor_hotreload.system.descriptors import Beat
from supervisor_hotreload.system.process import Process, Status
from supervisor_hotreload.system.sockets import Sockets
from supervisor_hotreload.system.world import World

STEP = 0.025
SUPERVISORD = 100
INIT = 1
GRACEFUL = 4.0
SOCKET = 77


@dataclass
class Fake:
    """One simulated process."""

    pid: int
    start: int
    parent: int
    group: int
    image: int
    state: str = "S"
    status: int = 0
    inbox: list[int] = field(default_factory=list)

    @property
    def process(self) -> Process:
        return Process(self.pid, self.start)

    @property
    def lives(self) -> bool:
        return self.state != "Z"


@dataclass
class Worker(Fake):
    inode: int = 0
    ready_at: float = 0.0
    busy_until: float = 0.0
    stopping: bool = False
    doomed: bool = False
    touched: int = 0


@dataclass
class Master(Fake):
    release: int = 0
    boot_at: float = 0.0
    wanted: int = 2
    parent_master: int = 0
    successor: int = 0
    looks_at: float = 0.0
    stop_limit: Optional[float] = None
    quick: bool = False
    deaf: bool = False
    environment: dict[str, str] = field(default_factory=dict)


class FakeWorld(World):
    """The kernel, the clock and the program's processes.

    :param chance: decides how long things take and whether a release works.
    :param subreaper: orphans become supervisord's children, else init's.
    """

    def __init__(self, chance: random.Random, subreaper: bool = True) -> None:
        super().__init__()
        self.time = 1000.0
        self.chance = chance
        self.subreaper = subreaper
        self.procs: dict[int, Fake] = {}
        self.broken = False
        self.foreign: list[Process] = []
        self.complaints: list[str] = []
        self._next = 1000

    # -- what the product asks

    def now(self) -> float:
        return self.time

    def own_pid(self) -> int:
        return SUPERVISORD

    def is_child(self, pid: int) -> bool:
        fake = self.procs.get(pid)
        return fake is not None and fake.parent == SUPERVISORD

    def status(self, pid: int) -> Optional[Status]:
        fake = self.procs.get(pid)
        if fake is None:
            return None
        return Status(fake.process, fake.state, fake.parent, fake.group, fake.group, fake.image)

    def lookup(self, pid: int) -> Optional[Process]:
        fake = self.procs.get(pid)
        return fake.process if fake is not None and fake.lives else None

    def alive(self, process: Process) -> bool:
        return self.lookup(process.pid) == process

    def children(self, process: Process) -> list[Process]:
        if not self.alive(process):
            return []
        return self._below(process.pid)

    def orphanage(self, users: Collection[int], ours: bool = False) -> list[Process]:
        return self._below(SUPERVISORD) + self._below(INIT)

    def ids(self, process: Process) -> Optional[Ids]:
        return Ids.of_user(0, 0) if self.alive(process) else None

    def own_sockets(self) -> frozenset[int]:
        return frozenset()

    def directory(self, process: Process) -> Optional[str]:
        return None

    def same_files(self, process: Process) -> bool:
        return False

    def leads_a_namespace(self, process: Process) -> bool:
        return False

    def strays(self, users: Collection[int]) -> list[Process]:
        return []

    def arguments(self, process: Process) -> list[str]:
        return ["python", "gunicorn", "app:app"]

    def heartbeats(self, process: Process) -> dict[tuple[int, int], Beat]:
        fake = self.procs.get(process.pid)
        if isinstance(fake, Worker) and fake.lives:
            return {(1, fake.inode): self._beat(fake)}
        if not isinstance(fake, Master) or not fake.lives:
            return {}
        crew = [self.procs[child.pid] for child in self._below(fake.pid)]
        return {(1, w.inode): self._beat(w) for w in crew if isinstance(w, Worker)}

    def listening(self, process: Process) -> dict[int, str]:
        return {SOCKET: "0100007F:1F40"}

    def sockets(self, process: Process, known: Container[int]) -> Sockets:
        """A master that stops closes its sockets first (gunicorn arbiter.stop)."""
        fake = self.procs.get(process.pid)
        stops = isinstance(fake, Master) and fake.stop_limit is not None
        serves = isinstance(fake, (Master, Worker)) and fake.lives and not stops
        return Sockets(frozenset([SOCKET] if serves else []))

    def descriptors(self, process: Process) -> dict[str, str]:
        held = self.held(process) if self.alive(process) else ()
        return {str(number): f"socket:[{inode}]" for number, inode in enumerate(held, 3)}

    def sleeps(self, process: Process) -> Optional[int]:
        return int(self.time / STEP)

    def send(self, process: Process, number: int) -> bool:
        if not self.alive(process):
            return False
        if process in self.foreign:
            self.complaints.append(f"{process} is foreign and was sent signal {number}")
        self.deliver(process.pid, number)
        return True

    def read_pid(self, path: str) -> int:
        raise ValueError(f"pidfile {path}: No such file or directory")

    # -- what happens to processes

    def deliver(self, pid: int, number: int) -> None:
        fake = self.procs.get(pid)
        if fake is None or not fake.lives:
            return
        if number == signal.SIGKILL:
            self.exit(fake, signal.SIGKILL)
        elif number == signal.SIGSTOP:
            fake.state = "T"
        elif number == signal.SIGCONT:
            fake.state = "S"
        else:
            fake.inbox.append(number)

    def exit(self, fake: Fake, status: int) -> None:
        fake.state, fake.status = "Z", status
        for child in self.procs.values():
            if child.parent == fake.pid:
                child.parent = SUPERVISORD if self.subreaper else INIT
        self.reap_for_init()

    def reap_for_init(self) -> None:
        for zombie in [p for p in self.procs.values() if not p.lives and p.parent == INIT]:
            del self.procs[zombie.pid]

    def reap(self, parent: int) -> Optional[Fake]:
        """waitpid(-1, WNOHANG) of *parent*."""
        for fake in self.procs.values():
            if fake.parent == parent and not fake.lives:
                del self.procs[fake.pid]
                return fake
        return None

    def spawn(self, parent: int = SUPERVISORD, old: Optional[Master] = None) -> Master:
        """Start a gunicorn, as supervisord does or as the USR2 of *old* does."""
        pid = self._pid()
        master = Master(
            pid=pid,
            start=int(self.time * 100) * 1000 + pid,
            parent=parent,
            group=pid if old is None else old.group,
            image=pid,
            boot_at=self.time + self.chance.choice((0.05, 0.5, 2.0)),
            parent_master=0 if old is None else old.pid,
            environment={} if old is None else {"GUNICORN_PID": str(old.pid)},
        )
        if self.broken and old is not None:
            master.wanted = self.chance.choice((0, 2))  # fails before, or in, its workers
        self.procs[pid] = master
        return master

    def stranger(self) -> Process:
        """Add a process that has nothing to do with the program."""
        pid = self._pid()
        self.procs[pid] = Fake(pid, int(self.time * 100) * 1000 + pid, INIT, pid, pid)
        self.foreign.append(self.procs[pid].process)
        return self.procs[pid].process

    def masters(self) -> list[Master]:
        return [p for p in self.procs.values() if isinstance(p, Master) and p.lives]

    def is_ready(self, master: Master) -> bool:
        beats = self.heartbeats(master.process)
        return len(beats) >= 2 and all(beat.flipped for beat in beats.values())

    def step(self) -> None:
        """Let STEP seconds pass."""
        self.time += STEP
        for fake in list(self.procs.values()):
            if fake.state == "S" and self.procs.get(fake.pid) is fake:
                if isinstance(fake, Master):
                    self._run_master(fake)
                elif isinstance(fake, Worker):
                    self._run_worker(fake)
        self.reap_for_init()

    # -- gunicorn's arbiter

    def _run_master(self, master: Master) -> None:
        if self.time < master.boot_at:
            if any(s in master.inbox for s in (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)):
                self.exit(master, signal.SIGTERM)  # no handler yet: the default action
            return
        woken = bool(master.inbox)
        for number in master.inbox[:]:
            master.inbox.pop(0)
            self._handle(master, number)
        if master.parent_master and (woken or self.time >= master.looks_at):
            master.looks_at = self.time + 1.0
            if master.parent != master.parent_master:
                master.parent_master = 0
        while self._reap_child(master):
            if not master.lives:
                return
        crew = [self.procs[c.pid] for c in self._below(master.pid)]
        workers = [w for w in crew if isinstance(w, Worker)]
        if master.stop_limit is not None:
            self._go_on_stopping(master, workers)
        elif master.wanted == 0:
            self.exit(master, 4 << 8)
        elif len(workers) < master.wanted:
            self._fork_worker(master)

    def _handle(self, master: Master, number: int) -> None:
        if master.deaf:
            return
        if number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT):
            if master.stop_limit is None:
                master.stop_limit = self.time + GRACEFUL
            master.quick = master.quick or number != signal.SIGTERM
            for child in self._below(master.pid):
                if isinstance(self.procs[child.pid], Worker):
                    self.deliver(child.pid, number)
        elif number == signal.SIGUSR2 and self._may_reexec(master):
            master.successor = self.spawn(master.pid, master).pid

    def _may_reexec(self, master: Master) -> bool:
        return not master.successor and not master.parent_master and master.stop_limit is None

    def _reap_child(self, master: Master) -> bool:
        child = self.reap(master.pid)
        if child is None:
            return False
        if child.pid == master.successor:
            master.successor = 0
        elif isinstance(child, Worker) and child.status == 3 << 8 and master.stop_limit is None:
            self._handle(master, signal.SIGQUIT)
        return True

    def _go_on_stopping(self, master: Master, workers: list[Worker]) -> None:
        assert master.stop_limit is not None
        if self.time >= master.stop_limit:
            for worker in workers:
                self.exit(worker, signal.SIGKILL)
        if not [w for w in workers if w.lives]:
            self.exit(master, 0)

    def _fork_worker(self, master: Master) -> None:
        pid = self._pid()
        fails = self.broken and master.environment != {}
        self.procs[pid] = Worker(
            pid=pid,
            start=int(self.time * 100) * 1000 + pid,
            parent=master.pid,
            group=master.group,
            image=master.image,
            inode=self._inode(),
            ready_at=self.time + self.chance.choice((0.05, 0.5, 1.5)),
            doomed=fails,
        )

    def _run_worker(self, worker: Worker) -> None:
        for number in worker.inbox[:]:
            worker.inbox.pop(0)
            if number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT):
                worker.stopping = True
                if number != signal.SIGTERM:
                    worker.busy_until = 0
        if self.time < worker.ready_at:
            if worker.stopping and worker.busy_until == 0:
                self.exit(worker, 0)
            return
        if worker.doomed:
            self.exit(worker, 3 << 8)
            return
        worker.touched += 1
        if not worker.stopping and worker.busy_until <= self.time:
            busy = self.chance.random() < 0.05
            worker.busy_until = self.time + (self.chance.choice((0.5, 3.0)) if busy else 0)
        orphan = not isinstance(self.procs.get(worker.parent), Master)
        if (worker.stopping or orphan) and worker.busy_until <= self.time:
            self.exit(worker, 0)

    # -- small things

    def _beat(self, worker: Worker) -> Beat:
        return Beat(self.time >= worker.ready_at, (0, worker.touched, 0))

    def _below(self, pid: int) -> list[Process]:
        found = [p.process for p in self.procs.values() if p.parent == pid and p.lives]
        return sorted(found, key=lambda p: p.start)

    def _pid(self) -> int:
        self._next += 1
        return self._next

    def _inode(self) -> int:
        """Return the lowest inode that is free: a file system uses them again."""
        used = {p.inode for p in self.procs.values() if isinstance(p, Worker) and p.lives}
        return min(set(range(1, len(used) + 2)) - used)


Deliver = Callable[[int, int], None]
