"""Adopts what an earlier supervisord has left, and records what the next one may adopt."""

from __future__ import annotations

import time
from collections.abc import Collection

from supervisor_hotreload.core.model import Failure
from supervisor_hotreload.plugin import orphans
from supervisor_hotreload.plugin.log import Log
from supervisor_hotreload.plugin.pipes import reopen_pipes
from supervisor_hotreload.plugin.program import Observer, SupervisedProgram
from supervisor_hotreload.plugin.record import Proofs, Record
from supervisor_hotreload.system.process import age_of
from supervisor_hotreload.system.world import World


class Recovery:
    """Hands the running processes of all programs over from one supervisord to the next.

    :param path: where the record lies, '' for none.
    """

    def __init__(self, world: World, observer: Observer, path: str, log: Log) -> None:
        self._world = world
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
            if not self._observer.adopts_orphans(program):
                return
            strategy = self._observer.strategy(program)
            process = orphans.find(self._world, program, recorded, strays, strategy)
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
            self._log.warn(
                f"{about} whatever an earlier supervisord has left is not adopted: {failure.reason}"
            )
        except Exception:  # noqa: BLE001 - it would end supervisord
            self._log.exception(program.name)
