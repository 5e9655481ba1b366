"""Says to operators what failed, and which settings have no effect."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from supervisor_hotreload.core.model import Failure, Fault
from supervisor_hotreload.core.text import internal_error
from supervisor_hotreload.plugin.log import Log
from supervisor_hotreload.plugin.program import SupervisedProgram
from supervisor_hotreload.plugin.settings_file import SettingsFile
from supervisor_hotreload.servers.settings import PREFIX

Groups = Mapping[str, list[SupervisedProgram]]


def as_failure(error: Exception, name: str, log: Log) -> Failure:
    """Return *error* if it is a Failure; any other one is logged and is an error of hotreload."""
    if isinstance(error, Failure):
        return error
    log.exception(name)
    return Failure(Fault.INTERNAL, internal_error(error))


def warnings(settings: SettingsFile, groups: Groups) -> list[str]:
    """Return what is wrong with the settings, one line each."""
    bad = bad_settings(settings)
    trouble = [settings.trouble] if settings.trouble else []
    return [*trouble, *bad, *unmatched_sections(settings, groups)]


def bad_settings(settings: SettingsFile) -> list[str]:
    """Return a line for each setting that cannot be used."""
    try:
        return [f"bad setting: {line}" for line in settings.read().errors()]
    except Failure as failure:
        return [failure.reason]


def unmatched_sections(settings: SettingsFile, groups: Groups) -> list[str]:
    """Return a line for each section that no program has the name of."""
    return [unmatched_section(name, groups) for name in _unmatched(settings, groups)]


def unmatched_section(name: str, groups: Groups) -> str:
    """Return a sentence about such a section."""
    known = ", ".join(groups) or "none"
    return f"[{PREFIX}{name}] has no effect: no program has this name (there are: {known})"


def near_misses(settings: SettingsFile, groups: Groups, program: SupervisedProgram) -> list[str]:
    """Return the sections that may be meant for *program* and have another name."""
    names = {program.name, program.group, str(program.process.config.name)}
    sections = _unmatched(settings, groups)
    return [name for name in sections if difflib.get_close_matches(name, names)]


def _unmatched(settings: SettingsFile, groups: Groups) -> list[str]:
    """Return the sections that are named like no group, process or group:process."""
    known: set[str] = set()
    for group, members in groups.items():
        processes = [str(member.process.config.name) for member in members]
        known |= {group, *processes, *(f"{group}:{name}" for name in processes)}
    try:
        return [name for name in settings.read().sections if name not in known]
    except Failure:
        return []
