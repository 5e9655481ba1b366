"""What XML-RPC takes and gives: arguments of their type in, printable text out."""

from __future__ import annotations

import functools
import inspect
import traceback
import typing
from typing import Any, Callable, Optional, TypeVar

from supervisor.http import NOT_DONE_YET
from supervisor.xmlrpc import Faults, RPCError

from supervisor_hotreload.core.model import Fault
from supervisor_hotreload.core.text import LONGEST, joined, printable
from supervisor_hotreload.plugin.log import Log

Options = Optional[dict[str, Any]]

Method = TypeVar("Method", bound=Callable[..., Any])

TAKES: dict[Any, tuple[tuple[type, ...], str]] = {
    str: ((str,), "string"),
    bool: ((bool, int), "boolean"),
    int: ((int,), "int"),
    float: ((int, float), "double"),
    Options: ((dict, type(None)), "struct"),
}
"""What an argument may be, by its annotation, and its name in XML-RPC."""


def published(method: Method) -> Method:
    """Let *method*, of an object with a ``_log``, answer the world.

    Whatever it is asked, it answers with a value or raises an RPCError, now or later.
    """
    signature = inspect.signature(method)
    hints = typing.get_type_hints(method)

    @functools.wraps(method)
    def answer(self: Any, *arguments: Any) -> Any:
        try:
            given = signature.bind(self, *arguments).arguments
        except TypeError as error:
            raise RPCError(Faults.INCORRECT_PARAMETERS, str(error)) from None
        for name, value in list(given.items())[1:]:
            types, title = TAKES[hints[name]]
            if not isinstance(value, types):
                text = clean(f"{name}: {value!r:.100} is no {title}")
                raise RPCError(Faults.INCORRECT_PARAMETERS, text)
        return _cleaned(self._log, functools.partial(method, self, *arguments))

    return answer  # type: ignore[return-value]


def clean(value: Any) -> Any:
    """Return *value* with nothing in its texts that would break XML, or act on a terminal."""
    if isinstance(value, str):
        return printable(joined(value[:LONGEST]), also="\t")
    if isinstance(value, dict):
        return {clean(key): clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    return value


def fault(code: int, text: str) -> Exception:
    """Return an RPCError with a text of our own: supervisor knows none for our codes."""
    error: Exception = RPCError(int(code))
    error.text = text  # type: ignore[attr-defined]
    return error


def _cleaned(log: Log, function: Callable[[], Any]) -> Any:
    """Return what *function* returns, cleaned; a deferred answer is cleaned when it comes."""
    try:
        value = function()
    except RPCError as error:
        error.text = "\n".join(clean(line) for line in str(error.text).split("\n"))
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, it fails this call only
        log.critical(f"hotreload: {traceback.format_exc()}")
        text = f"an error inside hotreload: {type(error).__name__}: {error}"
        raise fault(Fault.INTERNAL, clean(text)) from None
    if value is NOT_DONE_YET or not callable(value):
        return clean(value)

    def deferred() -> Any:
        return _cleaned(log, value)

    deferred.delay = value.delay  # type: ignore[attr-defined] # how supervisor wants it
    return deferred
