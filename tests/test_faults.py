"""The fault table, asserted: in every cell one process is tracked and nothing is left."""

from __future__ import annotations

import os

import pytest

from tests.faults import FAULTS, PHASES, applies, walk

CELLS = [(phase, fault) for phase in PHASES for fault in FAULTS if applies(phase, fault)]


@pytest.mark.parametrize(("phase", "fault"), CELLS)
def test_a_fault(phase: str, fault: str) -> None:
    if fault == "disk full" and os.getuid() != 0:
        pytest.fail("needs root: a file system of 16 kB is to be mounted")
    assert walk(phase, fault).wrong == []
