"""What XML-RPC takes and gives: arguments of their type in, printable values out."""

from __future__ import annotations

import functools
import inspect
import typing
from typing import Any, Callable, Optional, TypeVar

from supervisor.http import NOT_DONE_YET
from supervisor.xmlrpc import Faults, RPCError

from supervisor_hotreload.core.model import Failure, Fault
from supervisor_hotreload.core.text import LONGEST, internal_error, joined, printable
from supervisor_hotreload.plugin.log import Log

Answer = Any
"""What supervisor's XML-RPC takes: a value, or a function that it calls until it has one."""

Options = Optional[dict[str, Any]]

Method = TypeVar("Method", bound=Callable[..., Any])

POLL_SECONDS = 0.05
"""How long supervisor waits before it calls a deferred answer again."""

TYPES: dict[Any, tuple[tuple[type, ...], str]] = {
    str: ((str,), "string"),
    bool: ((bool, int), "boolean"),
    int: ((int,), "int"),
    float: ((int, float), "double"),
    Options: ((dict, type(None)), "struct"),
}
"""The types that an annotation allows, and its name in XML-RPC."""


def published(method: Method) -> Method:
    """Check the arguments of *method* and clean its answer.

    The method's object has a ``_log``. Every call ends with a value or an RPCError, at once
    or when a deferred answer comes.
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
            types, title = TYPES[hints[name]]
            if not isinstance(value, types):
                text = clean(f"{name}: {value!r:.100} is no {title}")
                raise RPCError(Faults.INCORRECT_PARAMETERS, text)
        return _cleaned(self._log, functools.partial(method, self, *arguments))

    return answer  # type: ignore[return-value]


def _cleaned(log: Log, function: Callable[[], Any]) -> Any:
    """Return what *function* returns, cleaned; a deferred answer is cleaned when it comes."""
    try:
        value = function()
    except Failure as failure:
        raise fault(failure.fault, _clean_lines(failure.reason)) from None
    except RPCError as error:
        error.text = _clean_lines(str(error.text))
        raise
    except Exception as error:
        log.exception()
        raise fault(Fault.INTERNAL, clean(internal_error(error))) from None
    if value is NOT_DONE_YET or not callable(value):
        return clean(value)
    return deferred(lambda: _cleaned(log, value))


def clean(value: Any) -> Any:
    """Return *value* with no character in its texts that breaks XML or acts on a terminal."""
    if isinstance(value, str):
        return printable(joined(value[:LONGEST]), also="\t")
    if isinstance(value, dict):
        return {clean(key): clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    return value


def _clean_lines(text: str) -> str:
    return "\n".join(clean(line) for line in text.split("\n"))


def fault(code: int, text: str) -> Exception:
    """Return an RPCError with a text of its own: supervisor has none for hotreload's codes."""
    error: Exception = RPCError(int(code))
    error.text = text  # type: ignore[attr-defined]
    return error


def deferred(answer: Callable[[], Any]) -> Answer:
    """Let supervisor call *answer* until it returns something else than NOT_DONE_YET."""
    answer.delay = POLL_SECONDS  # type: ignore[attr-defined] # read by supervisor.xmlrpc
    return answer


def when(done: Callable[[], bool], result: Callable[[], Any]) -> Answer:
    """Return the deferred answer *result* of something that goes on by itself until *done*."""
    return deferred(lambda: result() if done() else NOT_DONE_YET)
