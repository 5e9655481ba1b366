"""Tells which programs a name means, and which ones a wrong name may mean."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from supervisor.options import make_namespec, split_namespec

PROPOSALS = 3
"""Names that are proposed for an unknown one, at most."""

SIMILARITY = 0.6
"""How much two names have in common that may be one with a typing error (difflib's default)."""


def means(name: str, info: dict[str, Any]) -> bool:
    """Return whether *name* is, or contains, the program of *info* (getReloadInfo)."""
    group, process = split_namespec(name)
    return name == "all" or (info["group"] == group and process in (None, info["name"]))


def proposals(name: str, programs: Iterable[tuple[str, str]]) -> list[str]:
    """Return the names that *name* may stand for, the nearest first.

    :param programs: the group and the process of each.
    """
    wanted = name[:-2] if name.endswith(":*") else name
    scores: dict[str, float] = {}
    for group, process in programs:
        program = make_namespec(group, process)
        scores[program] = max(
            difflib.SequenceMatcher(None, wanted, word).ratio()
            for word in (program, group, process)
        )
    least = 1.0 if 1.0 in scores.values() else SIMILARITY
    near = sorted((key for key in scores if scores[key] >= least), key=lambda key: -scores[key])
    groups = [f"{key.partition(':')[0]}:*" for key in near if ":" in key]
    if name.endswith(":*"):
        return list(dict.fromkeys(groups))[:PROPOSALS]
    return near[: PROPOSALS - 1] + groups[:1] if groups else near[:PROPOSALS]
