"""The fault table, asserted: in every cell one process is tracked and nothing is left."""

from __future__ import annotations

import os

import pytest

from tests.faults import FAULTS, PHASES, applies, walk
from tests.harness.choosing import mostly_slow

CELLS = [(phase, fault) for phase in PHASES for fault in FAULTS if applies(phase, fault)]

FAST = [
    ("spawning", "fork"),
    ("spawning", "stop"),
    ("booting", "kill old"),
    ("booting", "freeze new"),
    ("booting", "restart"),
    ("baking", "kill new"),
    ("baking", "freeze old"),
    ("baking", "shutdown"),
    ("draining", "kill workers"),
    ("draining", "kill supervisord"),
    ("promoting", "kill worker"),
    ("promoting", "disk full"),
]
"""Each fault once, each phase twice or more."""


@pytest.mark.parametrize(("phase", "fault"), mostly_slow(CELLS, FAST))
def test_a_fault(phase: str, fault: str) -> None:
    if fault == "disk full" and os.getuid() != 0:
        pytest.fail("needs root: a file system of 16 kB is to be mounted")
    assert walk(phase, fault).wrong == []
