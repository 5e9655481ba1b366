"""Verifies, when supervisord starts, that it has everything that hotreload uses of it.

hotreload refuses to load with a version of supervisor that lacks something. Else it would
notice that in the middle of a reload. docs/seams.rst says what each of these is used for.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from operator import attrgetter
from types import SimpleNamespace
from typing import Any, Optional

from supervisor import dispatchers, events, options, process, supervisord

MISSING = object()

ATTRIBUTES: dict[str, type] = {
    "supervisord.process_groups": dict,
    "supervisord.options.pidhistory": dict,
    "supervisord.options.mood": int,
    "supervisord.options.configfile": object,
    "supervisord.options.environ_expansions": dict,
    "Subprocess.pid": object,
    "Subprocess.state": object,
    "Subprocess.laststart": object,
    "Subprocess.killing": object,
    "Subprocess.administrative_stop": object,
    "Subprocess.spawnerr": object,
    "Subprocess.exitstatus": object,
    "Subprocess.dispatchers": object,
    "Subprocess.pipes": object,
    "events.EventTypes": object,
    "events.ProcessStateExitedEvent": object,
    "events.SupervisorRunningEvent": object,
    "events.ProcessGroupAddedEvent": object,
    "events.ProcessGroupRemovedEvent": object,
    "events.ProcessStateRunningEvent": object,
}
"""What hotreload reads or sets, and its type."""

FUNCTIONS = (
    "supervisord.options.kill(pid, signal)",
    "supervisord.options.execve(filename, argv, env)",
    "supervisord.options.cleanup()",
    "supervisord.options.waitpid()",
    "supervisord.options.get_socket_map()",
    "supervisord.options.poller.unregister_readable(fd)",
    "Subprocess.finish(pid, sts)",
    "Subprocess.kill(sig)",
    "Subprocess.signal(sig)",
    "Subprocess.spawn()",
    "Subprocess.transition()",
    "Subprocess.change_state(new_state)",
    "ProcessConfig.make_dispatchers(proc)",
    "ProcessConfig.get_path()",
    "POutputDispatcher._log(data)",
    "events.subscribe(type, callback)",
    "events.register(name, event)",
)
"""What hotreload calls or replaces, with its first parameters."""

USES = {
    "Supervisor.reap": {"pidhistory", "finish"},
    "Subprocess.kill": {"options", "kill"},
    "Subprocess.stop": {"kill"},
    "ProcessConfig.make_dispatchers": {"make_pipes"},
}
"""The names in the code of methods: what hotreload replaces has to be what they use."""


def missing(running: Any) -> list[str]:
    """Return the names of what *running*, supervisor's Supervisor, lacks."""
    owners = SimpleNamespace(
        supervisord=running,
        Supervisor=supervisord.Supervisor,
        Subprocess=process.Subprocess,
        ProcessConfig=options.ProcessConfig,
        POutputDispatcher=dispatchers.POutputDispatcher,
        events=events,
    )
    return list(_missing(owners))


def _missing(owners: SimpleNamespace) -> Iterator[str]:
    for name, kind in ATTRIBUTES.items():
        found = _found(owners, name)
        if found is MISSING or not isinstance(found, kind):
            yield name
    for call in FUNCTIONS:
        name, _, rest = call[:-1].partition("(")
        wanted = rest.split(", ") if rest else []
        parameters = _parameters(_found(owners, name))
        if parameters is None or parameters[: len(wanted)] != wanted:
            yield call
    for name, names in USES.items():
        code = getattr(inspect.unwrap(_found(owners, name)), "__code__", None)
        if code is None or not names.issubset(code.co_names):
            yield f"{name} by {' and '.join(sorted(names))}"


def _found(owners: SimpleNamespace, name: str) -> Any:
    try:
        return attrgetter(name)(owners)
    except AttributeError:
        return MISSING


def _parameters(function: Any) -> Optional[list[str]]:
    """Return the parameters of a function without 'self', None for anything else."""
    try:
        return [name for name in inspect.signature(function).parameters if name != "self"]
    except (TypeError, ValueError):
        return None
