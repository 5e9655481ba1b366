"""Verifies, when supervisord starts, that it has everything that hotreload uses of it.

hotreload refuses to load with a version of supervisor that lacks something. Else it would
notice that in the middle of a reload. docs/seams.rst says what each of these is used for.
"""

from __future__ import annotations

import inspect
from typing import Any, Callable

from supervisor import dispatchers, events, options, process, supervisord

Test = Callable[[Any], bool]


def _mentions(function: Any, *names: str) -> bool:
    """Tell whether the code of a method uses all of *names*: a hook works only then."""
    code = inspect.unwrap(function).__code__
    return all(name in code.co_names for name in names)


def _takes(function: Any, *parameters: str) -> bool:
    """Tell whether a function has these as its first parameters."""
    return tuple(inspect.signature(function).parameters)[: len(parameters)] == parameters


def _has(target: Any, *names: str) -> bool:
    return all(hasattr(target, name) for name in names)


def _has_event(name: str) -> Test:
    return lambda s: hasattr(events, name)


EVENT_TYPES = (
    "EventTypes",
    "ProcessStateExitedEvent",
    "SupervisorRunningEvent",
    "ProcessGroupAddedEvent",
    "ProcessGroupRemovedEvent",
    "ProcessStateRunningEvent",
)

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
    "supervisord.options.poller.unregister_readable(fd)": lambda s: _takes(
        s.options.poller.unregister_readable, "fd"
    ),
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
    "Subprocess.change_state(new_state)": lambda s: _takes(
        process.Subprocess.change_state, "self", "new_state"
    ),
    "Subprocess.pid, state, laststart, killing, administrative_stop, spawnerr, exitstatus, "
    "dispatchers, pipes": lambda s: _has(
        process.Subprocess,
        "pid",
        "state",
        "laststart",
        "killing",
        "administrative_stop",
        "spawnerr",
        "exitstatus",
        "dispatchers",
        "pipes",
    ),
    "ProcessConfig.make_dispatchers(proc) by make_pipes": lambda s: (
        _takes(options.ProcessConfig.make_dispatchers, "self", "proc")
        and _mentions(options.ProcessConfig.make_dispatchers, "make_pipes")
    ),
    "ProcessConfig.get_path()": lambda s: _takes(options.ProcessConfig.get_path, "self"),
    "POutputDispatcher._log(data)": lambda s: _takes(
        dispatchers.POutputDispatcher._log, "self", "data"
    ),
    "events.subscribe(type, callback)": lambda s: _takes(events.subscribe, "type", "callback"),
    "events.register(name, type)": lambda s: _takes(events.register, "name", "event"),
    **{f"events.{name}": _has_event(name) for name in EVENT_TYPES},
}


def missing(running: Any) -> list[str]:
    """Return the names of the seams that *running*, supervisor's Supervisor, lacks."""
    return [name for name, test in SEAMS.items() if not _holds(test, running)]


def _holds(test: Test, running: Any) -> bool:
    try:
        return test(running)
    except (AttributeError, TypeError, ValueError):
        return False
