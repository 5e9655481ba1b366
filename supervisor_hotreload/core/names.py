"""What a name in a setting or a request means."""

from __future__ import annotations


def matches(name: str, group: str, process: str) -> bool:
    """Tell whether *name* means a program, as the names of [hotreload:NAME] sections do.

    :param name: a group, 'group:*', a process, or 'group:process'.
    """
    return name in (group, f"{group}:*", process, f"{group}:{process}")
