"""supervisord and supervisorctl as forks of a process that has imported supervisor already.

A test run starts them two thousand times, and five sixths of the processor time of such a start
is the import. A fork has its own process id, parent, descriptors and environment; only its command
line is that of the process that has forked it. Nothing of supervisor_hotreload is imported here:
when supervisord imports it, and that it may be absent, is what tests look at.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Optional

ROOT = pathlib.Path(__file__).resolve().parents[2]

PARENT: list[Preloaded] = []
"""The process that forks for this one, once there is one."""


class Process:
    """A fork, as far as it is like subprocess.Popen.

    :param parent: the process that has forked it, and can reap it.
    """

    def __init__(self, parent: Preloaded, pid: int) -> None:
        self.pid = pid
        self.returncode: Optional[int] = None
        self._parent = parent
        self._pidfd = os.pidfd_open(pid)

    def poll(self) -> Optional[int]:
        return self._ended(0)

    def wait(self, timeout: Optional[float] = None) -> int:
        status = self._ended(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(f"pid {self.pid}", timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: Optional[float]) -> Optional[int]:
        if self.returncode is None and select.select([self._pidfd], [], [], timeout)[0]:
            os.close(self._pidfd)
            self.returncode = self._parent.reap(self.pid)
        return self.returncode


class Preloaded:
    """The process that has imported supervisor, and forks when it is asked to."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=dict(os.environ, PYTHONDONTWRITEBYTECODE="1", PYTHONPATH=str(ROOT)),
            )
        self._socket = ours
        self._lock = threading.Lock()
        atexit.register(self.close)

    def close(self) -> None:
        self._socket.close()  # this ends it
        self._process.wait(10)

    def start(
        self,
        module: str,
        words: Sequence[str],
        environment: Mapping[str, str],
        out: int,
        errors: int,
        folder: Optional[str] = None,
    ) -> Process:
        """Fork, and run ``main()`` of *module* with *words*.

        :param out: the descriptor that becomes the standard output.
        :param folder: the working directory.
        """
        asked = {"module": module, "words": list(words), "environment": dict(environment)}
        asked["folder"] = folder or os.getcwd()
        return Process(self, self._ask(asked, [out, errors]))

    def reap(self, pid: int) -> int:
        """Return the exit status of *pid*, which has ended."""
        return self._ask({"reap": pid}, [])

    def _ask(self, asked: dict[str, Any], descriptors: list[int]) -> int:
        text = json.dumps(asked).encode()
        with self._lock:
            socket.send_fds(self._socket, [len(text).to_bytes(4, "big")], descriptors)
            self._socket.sendall(text)
            return int.from_bytes(_receive(self._socket, 4), "big", signed=True)


def preloaded() -> Preloaded:
    """Return the process that forks for this one."""
    if not PARENT:
        PARENT.append(Preloaded())
    return PARENT[0]


def _receive(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        part = connection.recv(size - len(found))
        if not part:
            raise EOFError
        found += part
    return found


def _serve(connection: socket.socket) -> None:
    """Fork and reap as asked, until nobody can ask any more."""
    while True:
        head, descriptors, _, _ = socket.recv_fds(connection, 4, 2)
        if not head:
            return
        head += _receive(connection, 4 - len(head))
        asked = json.loads(_receive(connection, int.from_bytes(head, "big")))
        if "reap" in asked:
            answer = os.waitstatus_to_exitcode(os.waitpid(asked["reap"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                connection.close()
                _become(asked, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        connection.sendall(answer.to_bytes(4, "big", signed=True))


def _become(asked: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """Run what was asked for in this process, and end."""
    status = 1
    try:
        for number, descriptor in enumerate(descriptors, 1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.chdir(asked["folder"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        sys.path[0] = asked["folder"]  # as python -m has it
        sys.argv = [asked["module"], *asked["words"]]
        sys.modules[asked["module"]].main()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001 - as an interpreter ends
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


if __name__ == "__main__":
    import psutil  # noqa: F401 - what the plugin imports
    import supervisor.supervisorctl
    import supervisor.supervisord
    import supervisor.xmlrpc  # noqa: F401

    with contextlib.suppress(EOFError, KeyboardInterrupt):
        _serve(socket.socket(fileno=int(sys.argv[1])))
