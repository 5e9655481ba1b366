"""Says to operators what serves, what failed, and which settings have no effect."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Mapping
from typing import Optional

from supervisor_hotreload.core.model import Failure, Fault, Outcome
from supervisor_hotreload.core.reload import Reload
from supervisor_hotreload.core.text import counted
from supervisor_hotreload.plugin.log import Log
from supervisor_hotreload.plugin.program import SupervisedProgram
from supervisor_hotreload.plugin.settings_file import SettingsFile
from supervisor_hotreload.plugin.survey import Survey
from supervisor_hotreload.servers.generation import Generation
from supervisor_hotreload.servers.release_guard import release_advice
from supervisor_hotreload.servers.settings import PREFIX
from supervisor_hotreload.system.world import World

Groups = Mapping[str, list[SupervisedProgram]]

# -- what serves


def serving(program: SupervisedProgram, survey: Survey, log: Log) -> str:
    """Return a sentence that says what serves now."""
    if program.exit_is_held:
        return (
            f"nothing serves: pid {program.pid} of {program.name} finishes its requests, then "
            f"supervisord reports its exit and does as autorestart says"
        )
    if not program.pid or not (program.running or program.starting):
        return f"nothing serves: {program.name} is {program.state}"
    if program.current() is None:
        return f"nothing serves: pid {program.pid} of {program.name} has ended"
    count = _workers(program, survey, log)
    if not count and program.starting:
        return f"nothing serves yet: {program.name} (pid {program.pid}) is {program.state}"
    workers = f", {counted(count, 'worker')}" if count else ""
    return f"generation {program.generation} (pid {program.pid}{workers}) serves"


def _workers(program: SupervisedProgram, survey: Survey, log: Log) -> int:
    """Return how many workers serve, 0 where that cannot be seen."""
    try:
        found = survey.found(program)
    except Exception as error:  # noqa: BLE001 - a report must not fail what it reports
        as_failure(error, program.name, log)
        return 0
    return found.old.workers if found is not None else 0


def serving_after(
    program: SupervisedProgram,
    old: Generation,
    reload: Reload,
    world: World,
    survey: Survey,
    log: Log,
) -> str:
    """Return a sentence that says what serves now that *reload* has ended.

    :param old: the generation that it was to replace.
    """
    living = program.current() is not None and not program.exit_is_held
    if reload.adopted and reload.fault is Fault.SUCCESSOR_EXITED and living:
        return (
            f"nothing serves: generation {program.generation} (pid {program.pid}) ends, "
            f"then supervisord does as autorestart says"
        )
    sentence = serving(program, survey, log)
    in_place = reload.new_pid == reload.old_pid != 0
    failed = reload.outcome is Outcome.FAILED and in_place and reload.adopted
    if failed and program.running and world.alive(old.master):
        sentence += f"; {_origin_of_workers(world, old)}"
    if program.running:
        sentence += release_advice(reload, world, program.directory, program.rights, old.master)
    return sentence


def _origin_of_workers(world: World, old: Generation) -> str:
    """Return whose workers a master has after its reload in place has failed."""
    children = set(world.children(old.master))
    if children.isdisjoint(old.children):
        return "its workers are new ones"
    if children <= old.children:
        return "its workers are the old ones"
    return "its workers may be of either release"


def nothing_to_cancel(name: str, last: Optional[Reload], serving_now: str) -> str:
    """Return why there is no reload of *name* that can be cancelled."""
    text = f"{name}: no reload is active"
    if last is None or not last.begun:
        return text
    return f"{text}, the last one has {last.outcome.value}; {serving_now}"


# -- what failed


def as_failure(error: Exception, name: str, log: Log) -> Failure:
    """Return *error* if it is a Failure; any other one is logged and is an error of hotreload."""
    if isinstance(error, Failure):
        return error
    log.critical(f"hotreload: {name}: {traceback.format_exc()}")
    return Failure(Fault.INTERNAL, internal_error(error))


def internal_error(error: Exception) -> str:
    """Return a sentence about an exception that hotreload does not expect."""
    kind = type(error).__name__
    return f"an error inside hotreload: {kind}: {error} (the traceback is in supervisord's log)"


# -- settings


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
