"""Every seam of supervisord that hotreload uses, verified before it is used.

A name that is missing would be found out in the middle of a reload; so it is
looked for when supervisord starts, and the plugin refuses to load without it.
"""

from __future__ import annotations

import inspect
from typing import Any, Callable

from supervisor import dispatchers, events, options, process, supervisord

Test = Callable[[Any], bool]


def _mentions(function: Any, *names: str) -> bool:
    """Tell whether a method of supervisord's still works by way of *names*."""
    code = inspect.unwrap(function).__code__
    return all(name in code.co_names for name in names)


def _takes(function: Any, *parameters: str) -> bool:
    return tuple(inspect.signature(function).parameters)[: len(parameters)] == parameters


SEAMS: dict[str, Test] = {
    "supervisord.process_groups": lambda s: isinstance(s.process_groups, dict),
    "supervisord.options.pidhistory": lambda s: isinstance(s.options.pidhistory, dict),
    "supervisord.options.kill(pid, signal)": lambda s: _takes(s.options.kill, "pid", "signal"),
    "supervisord.options.execve(filename, argv, env)": lambda s: _takes(
        s.options.execve, "filename", "argv", "env"
    ),
    "supervisord.options.cleanup()": lambda s: callable(s.options.cleanup),
    "supervisord.options.waitpid()": lambda s: callable(s.options.waitpid),
    "supervisord.options.get_socket_map()": lambda s: isinstance(s.options.get_socket_map(), dict),
    "supervisord.options.mood": lambda s: isinstance(s.options.mood, int),
    "supervisord.options.configfile": lambda s: hasattr(s.options, "configfile"),
    "supervisord.options.environ_expansions": lambda s: isinstance(
        s.options.environ_expansions, dict
    ),
    "Supervisor.reap by pidhistory and finish": lambda s: _mentions(
        supervisord.Supervisor.reap, "pidhistory", "finish"
    ),
    "Subprocess.finish(pid, sts)": lambda s: _takes(
        process.Subprocess.finish, "self", "pid", "sts"
    ),
    "Subprocess.kill(sig) by options.kill": lambda s: (
        _takes(process.Subprocess.kill, "self", "sig")
        and _mentions(process.Subprocess.kill, "options", "kill")
    ),
    "Subprocess.signal(sig)": lambda s: _takes(process.Subprocess.signal, "self", "sig"),
    "Subprocess.stop by kill": lambda s: _mentions(process.Subprocess.stop, "kill"),
    "Subprocess.spawn()": lambda s: _takes(process.Subprocess.spawn, "self"),
    "Subprocess.transition()": lambda s: _takes(process.Subprocess.transition, "self"),
    "Subprocess.pid, laststart, killing, dispatchers": lambda s: all(
        hasattr(process.Subprocess, name) for name in ("pid", "laststart", "killing", "dispatchers")
    ),
    "ProcessConfig.get_path()": lambda s: _takes(options.ProcessConfig.get_path, "self"),
    "POutputDispatcher._log(data)": lambda s: _takes(
        dispatchers.POutputDispatcher._log, "self", "data"
    ),
    "events.subscribe(type, callback)": lambda s: _takes(events.subscribe, "type", "callback"),
    "events.register(name, type)": lambda s: _takes(events.register, "name", "event"),
    "events.EventTypes": lambda s: hasattr(events, "EventTypes"),
    "events.ProcessStateExitedEvent": lambda s: hasattr(events, "ProcessStateExitedEvent"),
    "events.SupervisorRunningEvent": lambda s: hasattr(events, "SupervisorRunningEvent"),
    "events.ProcessGroupAddedEvent": lambda s: hasattr(events, "ProcessGroupAddedEvent"),
    "events.ProcessGroupRemovedEvent": lambda s: hasattr(events, "ProcessGroupRemovedEvent"),
    "events.ProcessStateRunningEvent": lambda s: hasattr(events, "ProcessStateRunningEvent"),
}


def missing(running: Any) -> list[str]:
    """Return the names of the seams that *running*, a supervisord, does not have."""
    return [name for name, test in SEAMS.items() if not _holds(test, running)]


def _holds(test: Test, running: Any) -> bool:
    try:
        return test(running)
    except (AttributeError, TypeError, ValueError):
        return False
