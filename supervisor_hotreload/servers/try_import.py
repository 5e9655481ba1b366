"""Imports a WSGI application and ends; run by the application's own interpreter.

Arguments: what to import ('pkg.module:app' or a path), 'file' for a path, the
default callable, the directory to change into, more directories to import from.
It imports nothing of this package and runs on any Python 3.
"""

import importlib
import os
import runpy
import sys
import types


class Anything:
    """Stands in for what only exists inside uWSGI."""

    def __call__(self, *arguments, **_):  # type: ignore[no-untyped-def] # any signature
        return arguments[0] if arguments and callable(arguments[0]) else self

    def __getattr__(self, name):  # type: ignore[no-untyped-def] # any attribute
        return self


def main(what: str, kind: str, default: str, directory: str, *paths: str) -> None:
    if directory:
        os.chdir(directory)
    sys.path[:0] = [os.getcwd(), *paths]
    inside = types.ModuleType("uwsgi")
    inside.__dict__.update(opt={}, SPOOL_OK=-2, SPOOL_RETRY=-1, SPOOL_IGNORE=0)
    inside.__getattr__ = lambda name: Anything()  # type: ignore[method-assign]
    sys.modules["uwsgi"] = inside
    name, _, attribute = what.partition(":")
    attribute = attribute or default
    if kind == "file":
        found = runpy.run_path(what, run_name="uwsgi_file")
        present = default in found
    else:
        present = hasattr(importlib.import_module(name), attribute.partition("(")[0].split(".")[0])
    if not present:
        sys.exit(f"{what} has no {attribute or default}")


main(*sys.argv[1:])
