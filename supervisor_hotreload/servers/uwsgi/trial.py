"""Makes the trial of a uWSGI application: it imports what uWSGI imports, as the same user."""

from __future__ import annotations

import json
import os
import pathlib
import shlex
import stat
from typing import Any, Optional

from supervisor_hotreload.core.text import printable
from supervisor_hotreload.servers.command_line import assigned
from supervisor_hotreload.servers.generation import AcceptingGeneration
from supervisor_hotreload.servers.program import Program
from supervisor_hotreload.servers.trial import Trial, run_as
from supervisor_hotreload.servers.uwsgi.options import UwsgiOptions
from supervisor_hotreload.system.command import RunAs
from supervisor_hotreload.system.credentials import Ids, rights_of
from supervisor_hotreload.system.world import World

TRY_IMPORT = (pathlib.Path(__file__).parent / "try_import.py").read_text(encoding="utf-8")
"""Imports the application as uWSGI does. The application's own interpreter runs it."""

APPS = ("module", "wsgi-file", "mount")
"""Options that name an application."""

SHOWN = (*APPS, "callable", "chdir", "pythonpath", "pyargv", "processes", "workers")
"""Options in ``uwsgi.opt`` of the trial. An application may read them; all others stay hidden
from its code, since their values may be secret."""

DECISIVE = (*APPS, "callable", "chdir", "pythonpath", "home", "env", "pyargv")
"""Options that decide what is imported, and where."""

MAX_JSON_CHARACTERS = 1 << 16
"""Limit for one variable; the kernel takes 128 KB (execve(2))."""


def why_no_trial(found: UwsgiOptions) -> str:
    """Return why it is not known what to import, '' when it is."""
    why = found.why_unknown(*DECISIVE)
    if not why and not _apps(found):
        why = "its options name neither a module, nor a wsgi-file, nor a mount of one"
    return why


def make_trial(
    world: World, old: AcceptingGeneration, found: UwsgiOptions, program: Program
) -> Trial:
    """Return the trial of what *found* names.

    :raises Failure: when it is not known as whom it has to run.
    """
    apps, python = _apps(found), _python(found)
    load = {
        "apps": apps,
        "callable": found.last("callable") or "application",
        "directory": found.run_directory,
        "paths": found.all("pythonpath"),
        "arguments": (found.last("pyargv") or "").split(),
        "options": {name: found.values[name] for name in SHOWN if name in found.values},
    }
    title = f"import of {shlex.join(what for _, what in apps)} by {python}"
    user = run_as(world, old, old.accepting, program, named_user(found))
    environment = {**_environment(found, program), "HOTRELOAD_TRIAL": _json(load)}
    return Trial((python, "-c", TRY_IMPORT), printable(title), user, environment)


def named_user(found: UwsgiOptions) -> RunAs:
    """Return the user whom the command names. An ini file may be anybody's and does not count."""
    users, groups = found.stated.get("uid"), found.stated.get("gid")
    return RunAs(users[-1] if users else None, groups[-1] if groups else None)


def _json(load: dict[str, Any]) -> str:
    text = json.dumps(load)
    return text if len(text) < MAX_JSON_CHARACTERS else json.dumps({**load, "options": {}})


def _apps(found: UwsgiOptions) -> list[tuple[str, str]]:
    """Return the applications, each as 'file' or 'module' and its name (uwsgi_mount_loader)."""
    module, file = found.last("module"), found.last("wsgi-file")
    known = [("module", module)] if module else [("file", file)] if file else []
    for value in found.all("mount"):
        what = value.partition("=")[2]
        if what.endswith((".py", ".wsgi")):
            known.append(("file", what))
        elif ":" in what:
            known.append(("module", what))
    return list(dict.fromkeys(known))


def _environment(found: UwsgiOptions, program: Program) -> dict[str, str]:
    """Return the variables that the application has and supervisord does not give."""
    environment = assigned(program, found.environment)
    for assignment in found.all("env"):
        key, _, value = assignment.partition("=")
        if key:
            environment[key] = value
    return environment


def _python(found: UwsgiOptions) -> str:
    """Return the interpreter of uWSGI's virtualenv, or the one installed beside uWSGI."""
    home = found.path("home")
    folders = (os.path.join(home, "bin") if home else "", os.path.dirname(found.binary))
    paths = [os.path.join(folder, n) for folder in folders if folder for n in ("python3", "python")]
    return next((path for path in paths if _is_program(path, found.rights)), "python3")


def _is_program(path: str, rights: Optional[Ids]) -> bool:
    try:
        with rights_of(rights):
            mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) and bool(mode & 0o111)
