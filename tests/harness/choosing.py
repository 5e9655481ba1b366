"""Which values of a test are tried by ``make test``, and which by ``make test-slow`` alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def mostly_slow(values: Iterable[Any], fast: Collection[Any]) -> list[Any]:
    """Return *values* as parameters of a test; those that are not in *fast* are marked slow.

    :param fast: so many that each kind, or each value of a product, is among them once.
    """
    parameters = []
    for value in values:
        marks = () if value in fast else (pytest.mark.slow,)
        several = value if isinstance(value, tuple) else (value,)
        parameters.append(pytest.param(*several, marks=marks))
    assert sum(not parameter.marks for parameter in parameters) == len(fast), "one is no value"
    return parameters
