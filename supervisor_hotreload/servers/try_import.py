"""Imports a WSGI application and ends; run by the application's own interpreter.

HOTRELOAD_TRIAL is JSON: module, file, callable, directory, paths, environment and
options, as uWSGI is configured; in a variable, for everybody may see words. It
imports nothing of this package and runs on any Python 3.
"""

import importlib
import json
import os
import runpy
import sys
import traceback
import types
import typing


class Anything:
    """Stands in for what only exists inside uWSGI: false, zero, empty, and callable."""

    def __call__(self, *arguments, **_):  # type: ignore[no-untyped-def] # any signature
        return arguments[0] if arguments and callable(arguments[0]) else self

    def __getattr__(self, name):  # type: ignore[no-untyped-def] # any attribute
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __getitem__(self, key):  # type: ignore[no-untyped-def] # any key
        return self

    def __bool__(self) -> bool:
        return False

    def __int__(self) -> int:
        return 0

    __index__ = __len__ = __int__

    def __float__(self) -> float:
        return 0.0

    def __iter__(self):  # type: ignore[no-untyped-def] # of nothing
        return iter(())


def stand_in(options: "dict[str, list[str]]") -> types.ModuleType:
    """Return a module ``uwsgi``: values of ``opt`` are bytes, as in uWSGI's own."""
    values: dict[str, object] = {}
    for name, told in options.items():
        known = [value.encode() if value else True for value in told]
        values[name] = known[0] if len(known) == 1 else known
    inside = types.ModuleType("uwsgi")
    inside.__dict__.update(opt=values, SPOOL_OK=-2, SPOOL_RETRY=-1, SPOOL_IGNORE=0)
    inside.__dict__["__getattr__"] = lambda name: Anything()
    return inside


def load(told: "dict[str, typing.Any]") -> None:
    """Import the application; end with a sentence when there is none."""
    os.environ.update(told["environment"])
    if told["directory"]:
        os.chdir(told["directory"])
    sys.argv = ["uwsgi"]
    sys.path[:0] = [*reversed(told["paths"]), os.getcwd()]
    sys.modules["uwsgi"] = stand_in(told["options"])
    name, _, attribute = (told["module"] or told["file"]).partition(":")
    attribute = attribute or told["callable"]
    if told["module"]:
        found = vars(importlib.import_module(name))
    else:
        found = runpy.run_path(told["file"], run_name="uwsgi_file")
    if attribute.partition("(")[0].partition(".")[0] not in found:
        sys.exit(f"{told['module'] or told['file']} has no {attribute}")


def main(text: str) -> None:
    """Load it and end at once: a thread that the application has started may never end."""
    code = 0
    try:
        load(json.loads(text))
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
        if error.code is not None and error.code != code:
            sys.stderr.write(f"{error.code}\n")
        code = code or 1  # uWSGI would have ended as well
    except BaseException:  # noqa: BLE001 - whatever it is, it is shown
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


main(os.environ.pop("HOTRELOAD_TRIAL"))
