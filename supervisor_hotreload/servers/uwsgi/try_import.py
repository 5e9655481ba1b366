"""Load WSGI applications as uWSGI does, then end. Their own interpreter runs this script.

The variable HOTRELOAD_TRIAL is JSON: apps, callable, directory, paths, arguments and options,
as uWSGI is configured. It is a variable because every user can read the arguments of a process.
This script imports nothing of its package and runs on any Python 3.
"""

import glob
import importlib
import json
import os
import runpy
import sys
import traceback
import types
import typing


class Anything(int):
    """Stands in for anything that exists only inside uWSGI: zero, false, empty and callable."""

    def __call__(self, *arguments, **_):  # type: ignore[no-untyped-def] # any signature
        return arguments[0] if arguments and callable(arguments[0]) else self

    def __getattr__(self, name):  # type: ignore[no-untyped-def] # any attribute
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __getitem__(self, key):  # type: ignore[no-untyped-def] # any key
        return self

    def __len__(self) -> int:
        return 0

    def __iter__(self):  # type: ignore[no-untyped-def] # an empty iterator
        return iter(())

    def __add__(self, other):  # type: ignore[no-untyped-def] # a number or a text
        return other

    def __rtruediv__(self, other):  # type: ignore[no-untyped-def] # else a division by zero
        return other

    __radd__ = __add__
    __rfloordiv__ = __rmod__ = __rtruediv__


def stand_in(options: "dict[str, list[str]]") -> types.ModuleType:
    """Return a module ``uwsgi``. The values of its ``opt`` are bytes, as in uWSGI's own."""
    values: dict[str, object] = {}
    for name, texts in options.items():
        known = [text.encode() if text else True for text in texts]
        values[name] = known[0] if len(known) == 1 else known
    workers = [value for name in ("processes", "workers") for value in options.get(name, [])]
    number = int(workers[-1]) if workers and workers[-1].isdigit() else 1
    inside = types.ModuleType("uwsgi")
    inside.__dict__.update(opt=values, numproc=number, applications=None, masterpid=os.getpid)
    inside.__dict__.update(SPOOL_OK=-2, SPOOL_RETRY=-1, SPOOL_IGNORE=0)
    inside.__dict__["__getattr__"] = lambda name: Anything()
    return inside


def load(trial: "dict[str, typing.Any]") -> None:
    """Load every application. End with a message where there is none."""
    paths = [found for path in trial["paths"] for found in sorted(glob.glob(path)) or [path]]
    if trial["directory"]:
        os.chdir(trial["directory"])
    sys.argv = ["uwsgi", *trial["arguments"]]
    sys.path[:0] = [*reversed(paths), os.getcwd()]
    sys.modules["uwsgi"] = stand_in(trial["options"])
    for kind, app in trial["apps"]:
        if kind == "file":
            must_have(app, runpy.run_path(app, run_name="uwsgi_file"), trial["callable"])
        else:
            load_module(app, trial["callable"])


def load_module(app: str, called: str) -> None:
    """Load MODULE, MODULE:CALLABLE or MODULE:FACTORY() (uwsgi_uwsgi_loader, pyloader.c)."""
    name, _, attribute = app.partition(":")
    called = attribute or called
    found = vars(importlib.import_module(name))
    if isinstance(found.get("applications"), dict) or sys.modules["uwsgi"].applications:
        return
    factory = called[:-2] if called.endswith("()") else ""
    if factory not in found:
        must_have(app, found, called)
    elif found[factory]() is None:
        sys.exit(f"{app} returns no application")


def must_have(app: str, found: "dict[str, typing.Any]", called: str) -> None:
    """End with a message unless *found* has the first name of *called*."""
    if called.partition(".")[0] not in found:
        sys.exit(f"{app} has no {called}")


def main(text: str) -> None:
    """Load the applications and end at once: a thread that they started may never end."""
    code = 0
    try:
        load(json.loads(text))
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
        if error.code is not None and error.code != code:
            sys.stderr.write(f"{error.code}\n")
        code = code or 1  # uWSGI would have ended as well
    except BaseException:  # noqa: BLE001 - the application may raise anything
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


main(os.environ.pop("HOTRELOAD_TRIAL"))
