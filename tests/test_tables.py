"""The tables of the documentation can be made anew."""

from __future__ import annotations

import pathlib
import sys

import pytest

from tests import bench, matrix

PYTHON = pathlib.Path(sys.executable)


@pytest.fixture(autouse=True)
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spend no time on what the tables say of the time without a reload."""
    for module, name in ((matrix, "SETTLE"), (matrix, "QUIET"), (bench, "QUIET")):
        monkeypatch.setattr(module, name, 0.3)


def test_a_cell_of_the_matrix() -> None:
    cell = matrix.Cell("this", "newest", "newest", "sync", "")
    result = matrix.run(cell, PYTHON)
    assert (result.dropped, result.complaint) == (0, "")
    assert result.answered > 100


def test_a_round_of_the_bench() -> None:
    way = bench.WAYS[0]
    done = bench.run(way, PYTHON)
    assert (done.fast, done.slow) == (0, 0)
    assert done.total > bench.BOOT
