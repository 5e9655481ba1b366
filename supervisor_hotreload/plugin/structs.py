"""The structs that XML-RPC answers with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from supervisor.xmlrpc import Faults

from supervisor_hotreload.core.model import Fault, Outcome
from supervisor_hotreload.core.reload import Reload
from supervisor_hotreload.plugin.batch import Batch
from supervisor_hotreload.plugin.program import SupervisedProgram
from supervisor_hotreload.plugin.xmlrpc import fault

Struct = dict[str, Any]


def reload_info(
    program: SupervisedProgram, reload: Optional[Reload], since: int, trigger: Mapping[str, Any]
) -> Struct:
    """Return the answer of getReloadInfo about one reload of a program.

    :param reload: the one to describe; None where the program was never reloaded.
    :param since: the number of the first line of the log that is new to the client.
    :param trigger: what the event listener reports of the program.
    """
    return {
        "name": program.process.config.name,
        "group": program.group,
        "pid": program.pid,
        "generation": program.generations.number,
        "statename": program.state,
        "watched": program.watched,
        **trigger,
        **(NO_RELOAD if reload is None else _described(reload, since)),
    }


def outcome_of(reload: Reload) -> Struct:
    """Return how a reload goes, or went."""
    return {
        "outcome": reload.outcome.value,
        "fault": int(reload.fault or 0),
        "reason": reload.reason,
        "serving": reload.serving,
        "old_pid": reload.old_pid,
        "new_pid": reload.new_pid,
        "seconds": reload.seconds,
    }


def _described(reload: Reload, since: int) -> Struct:
    progress = reload.progress
    return {
        "number": reload.number,
        "active": not reload.done,
        "refused": reload.outcome is Outcome.FAILED and not reload.begun,
        "phase": reload.phase.value,
        **outcome_of(reload),
        "workers_ready": progress.ready if progress is not None else 0,
        "workers": progress.total if progress is not None else 0,
        "drains_on": reload.drains_on,
        "since": reload.lines.written,
        "log": [
            {"seconds": line.seconds, "phase": line.phase.value, "text": line.text}
            for line in reload.lines.since(since)
        ],
        "output": list(reload.output) if reload.done or since <= 0 else [],
    }


NO_RELOAD: Struct = {
    **_described(Reload("", lambda: 0.0, lambda _: None), 0),
    "active": False,
    "phase": "",
    "outcome": "",
}
"""The part of a reload info about a program that was never reloaded."""


def result_of(reload: Reload) -> bool:
    """Return True for a reload that has succeeded.

    :raises RPCError: for another one: the reason, what serves, then what the program printed.
    """
    if reload.outcome is Outcome.SUCCEEDED:
        return True
    lines = [f"{reload.name}: {reload.reason}; {reload.serving}", *reload.output]
    raise fault(reload.fault or Fault.INTERNAL, "\n".join(lines))


def results_of(batch: Batch) -> list[Struct]:
    """Return a row for each reload of a batch that is done."""
    return [row(program, *_status(reload), reload.number) for program, reload in batch.begun]


def _status(reload: Reload) -> tuple[int, str]:
    if not reload.done:
        return Faults.SUCCESS, f"still draining: the old generation (pid {reload.old_pid}) ends"
    if reload.outcome is Outcome.SUCCEEDED:
        return Faults.SUCCESS, "OK"
    return int(reload.fault or 0), f"{reload.reason}; {reload.serving}"


def row(program: SupervisedProgram, status: int, description: str, number: int = 0) -> Struct:
    """Return one struct of the answer of reloadProcessGroup.

    :param number: of the reload, 0 for none.
    """
    return {
        "name": program.process.config.name,
        "group": program.group,
        "status": status,
        "description": description,
        "number": number,
    }
