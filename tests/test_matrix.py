"""The cells of make matrix: every pair that can exist is in one of them."""

from __future__ import annotations

import itertools
import pathlib

from tests.harness.tables import simple_table
from tests.matrix import (
    GUNICORNS,
    PRELOAD,
    PYTHONS,
    SUPERVISORS,
    WORKERS,
    Cell,
    absent,
    impossible,
    leaky,
    pairwise,
    requirements,
)


def test_every_possible_pair_is_covered() -> None:
    chosen = pairwise(list(PYTHONS))
    product = itertools.product(PYTHONS, SUPERVISORS, GUNICORNS, WORKERS, PRELOAD)
    for cell in itertools.starmap(Cell, product):
        if impossible(cell):
            assert cell not in chosen
            continue
        for pair in itertools.combinations(vars(cell).items(), 2):
            assert any(set(pair) <= vars(other).items() for other in chosen), pair
    assert len(chosen) < 50


def test_a_python_that_is_missing_is_told() -> None:
    found = {"3.11": pathlib.Path("/usr/bin/python3.11")}
    assert "Python 3.9 is not on this machine" in absent(found)
    assert "the asgi worker came with gunicorn 25" in absent(found)
    assert {cell.python for cell in pairwise(["3.11"])} == {"3.11"}


def test_what_cannot_be_drop_free_is_marked() -> None:
    marked = {
        (cell.gunicorn, cell.worker) for cell in pairwise(list(PYTHONS)) if leaky(cell) is not None
    }
    gthread = {("21.2.0", "gthread"), ("22.0.0", "gthread"), ("23.0.0", "gthread")}
    assert marked == gthread | {(version, "uvicorn") for version in GUNICORNS}


def test_old_versions_get_pkg_resources() -> None:
    assert "setuptools<81" in requirements([Cell("3.13", "4.2.5", "newest", "sync", "")])
    assert "setuptools<81" in requirements([Cell("3.13", "4.3.0", "20.1.0", "sync", "")])
    assert "setuptools<81" not in requirements([Cell("3.13", "4.3.0", "23.0.0", "sync", "")])


def test_a_table_is_a_simple_table_of_rst() -> None:
    assert simple_table(("a", "bb"), [("ccc", "d")]).splitlines() == [
        "===  ==",
        "a    bb",
        "===  ==",
        "ccc  d",
        "===  ==",
    ]
