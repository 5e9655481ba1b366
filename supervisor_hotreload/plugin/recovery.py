"""Adopts what an earlier supervisord has left, and records what the next one may adopt."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Collection
from typing import Any, Optional

from supervisor_hotreload.core.model import Failure
from supervisor_hotreload.plugin import orphans
from supervisor_hotreload.plugin.log import Log
from supervisor_hotreload.plugin.program import Observer, SupervisedProgram
from supervisor_hotreload.plugin.record import Proofs, Record
from supervisor_hotreload.plugin.settings_file import SettingsFile
from supervisor_hotreload.system.process import age_of
from supervisor_hotreload.system.world import World


class Recovery:
    """Hands the running processes of all programs over from one supervisord to the next.

    :param path: where the record lies, '' for none.
    """

    def __init__(
        self, world: World, settings: SettingsFile, observer: Observer, path: str, log: Log
    ) -> None:
        self._world = world
        self._settings = settings
        self._observer = observer
        self._log = log
        self._record = Record(path)
        self._started = False
        self._trouble = ""

    def start(self, programs: Collection[SupervisedProgram]) -> None:
        """Adopt what an earlier supervisord has left, instead of a second copy of it.

        Call it before supervisord starts its programs, and with all of them.
        """
        recorded = self._record.read()
        strays = orphans.strays(self._world, {program.user for program in programs})
        for program in programs if strays or recorded else ():
            self._adopt_orphan(program, recorded.get(program.name, []), strays)
        self._started = True
        self.write(programs)

    def write(self, programs: Collection[SupervisedProgram]) -> None:
        """Record which processes are of which program, in case supervisord is killed.

        Before start() nothing is written: the record is that of the earlier supervisord.
        """
        if not self._started:
            return
        try:
            self._record.write({program.name: program.proofs() for program in programs})
            self._trouble = ""
        except OSError as error:
            if self._trouble != str(error):
                self._trouble = str(error)
                self._log.warn(
                    f"hotreload: the record of running processes cannot be written ({error}); "
                    f"if supervisord is killed, the next one adopts only the processes that it "
                    f"can identify without the record"
                )

    def _adopt_orphan(
        self, program: SupervisedProgram, recorded: Proofs, strays: list[orphans.Stray]
    ) -> None:
        about = f"hotreload: {program.name}:"
        try:
            policy = self._settings.policy(program)
            if not policy.adopt_orphans:
                return
            process = orphans.find(self._world, program, recorded, strays, policy.strategy)
            if process is None:
                return
            program.take_orphan(
                process,
                started=time.time() - age_of(process),
                pipes=reopen_pipes(process.pid, program.process.config.redirect_stderr),
                previous=orphans.before(self._world, recorded, process),
            )
            self._log.warn(
                f"{about} an earlier supervisord has left {process}; it is adopted by watching, "
                f"and its exit status will be unknown"
            )
            self._observer.orphan_taken(program)
        except LookupError as doubt:
            self._log.warn(f"{about} not adopted: {doubt}")
        except Failure as failure:
            given = program.given.items()
            if recorded or any(given <= stray.environment.items() for stray in strays):
                self._log.warn(
                    f"{about} what an earlier supervisord has left is not adopted: {failure.reason}"
                )
        except Exception:  # noqa: BLE001 - it would end supervisord
            self._log.exception(program.name)


def reopen_pipes(pid: int, redirect_stderr: bool) -> dict[str, Any]:
    """Open the reading ends of the pipes that process *pid* logs to.

    :param redirect_stderr: both outputs go to one pipe.
    :return: pipes as ``options.make_pipes`` returns them; None for what is no pipe.
    """
    pipes: dict[str, Any] = dict.fromkeys(
        ("child_stdin", "stdin", "stdout", "child_stdout", "stderr", "child_stderr")
    )
    pipes["stdout"] = _reopen(pid, 1)
    if not redirect_stderr:
        pipes["stderr"] = _reopen(pid, 2)
    return pipes


def _reopen(pid: int, descriptor: int) -> Optional[int]:
    """Open the other end of an anonymous pipe, and of nothing else: an open may have effects."""
    try:
        held = os.open(f"/proc/{pid}/fd/{descriptor}", os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        own = f"/proc/self/fd/{held}"
        seen = os.fstat(held)
        if not stat.S_ISFIFO(seen.st_mode) or not os.readlink(own).startswith("pipe:"):
            return None
        if seen.st_uid != os.geteuid():
            return None  # supervisord makes these pipes, so they are of supervisord's user
        return os.open(own, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    finally:
        os.close(held)
