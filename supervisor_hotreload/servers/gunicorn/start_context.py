"""Checks what a gunicorn master needs to start a successor: interpreter, script, directory,
sockets.

gunicorn records them when it starts (arbiter.Arbiter.__init__, START_CTX: sys.executable,
sys.argv, util.getcwd) and uses them on USR2 in a fork of the master (arbiter.reexec).
When chdir or exec raises there, that fork goes on in the master's loop and tells the *old*
workers to quit. So they are checked before USR2 is sent.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Callable, Optional

from supervisor_hotreload.core.model import Failure, Fault
from supervisor_hotreload.core.text import printable
from supervisor_hotreload.servers.command_line import PYTHON
from supervisor_hotreload.servers.generation import Generation
from supervisor_hotreload.servers.gunicorn.command import BINARIES, configured, options_of
from supervisor_hotreload.servers.program import Program
from supervisor_hotreload.servers.workers import handed_over
from supervisor_hotreload.system.credentials import Ids, rights_of
from supervisor_hotreload.system.files import read_regular
from supervisor_hotreload.system.process import Process, Unreadable
from supervisor_hotreload.system.world import World

WITH_VALUE = ("-X", "-W")
"""Options of an interpreter whose value is the next word."""

NO_SCRIPT = ("-m", "-c")
"""Options of an interpreter after which no script is named."""

DELETED = " (deleted)"
"""The kernel appends this to the name of a directory that is gone."""

REPLACEMENT = "\ufffd"
"""Replaces a byte that is no UTF-8: a path with it is not the real one."""

SHEBANG_BYTES = 256
"""Bytes of a script's first line that the kernel reads (BINPRM_BUF_SIZE)."""


@dataclass(frozen=True)
class StartContext:
    """Absolute paths; None where one is not known."""

    interpreter: Optional[str]
    script: Optional[str]
    directory: Optional[str]


def must_start_again(world: World, master: Process, program: Program) -> None:
    """Refuse a USR2 after which gunicorn could not execute a successor.

    :raises Failure: NOT_RELOADABLE with the path and the cure.
    """
    try:
        with rights_of(_rights(world, master, program)):
            if not world.same_files(master):
                return  # the same path is another file for the master
            given = program.started_with
            context = _context(world.arguments(master), given, world.directory(master), program)
            complaint = _complaint(context)
    except OSError:
        return  # these rights cannot be taken, so nothing is known
    if complaint is not None:
        raise Failure(
            Fault.NOT_RELOADABLE,
            f"{program.name} cannot start a successor: {complaint}; nothing was sent. Put it "
            f"back, or restart the program once it can start: supervisorctl restart {program.name}",
        )


def other_interpreter(world: World, master: Process, program: Program) -> str:
    """Return a warning where the command would start another interpreter by now, '' otherwise.

    The first line of a script names the interpreter of one release; gunicorn keeps it.
    """
    try:
        with rights_of(_rights(world, master, program)):
            if not world.same_files(master):
                return ""
            configured_now = _started(program, program.started_with)[:1]
            kept = world.arguments(master)[:1]
            for path in (*configured_now, *kept):
                if not os.path.isabs(path) or not PYTHON.match(os.path.basename(path)):
                    return ""  # found by PATH, or a title
            if not kept or not configured_now or _same_folder(kept[0], configured_now[0]):
                return ""
    except OSError:
        return ""
    return (
        f"warning: the new generation keeps the interpreter {printable(kept[0])} and its packages; "
        f"the command names {printable(configured_now[0])} now. Restart the program to change it; "
        f"a command that begins with the path of an interpreter follows its symlinks"
    )


def _rights(world: World, master: Process, program: Program) -> Optional[Ids]:
    """Return whose rights an exec of *master* has: where the program is root's, a launcher
    (setpriv, gosu) may have lowered them."""
    rights, own = program.rights, world.ids(master)
    lowered = rights is not None and rights.user == 0 and own is not None and own.user
    return own if lowered else rights


def must_hand_over(world: World, name: str, old: Generation) -> None:
    """Refuse a master that has no socket to hand to a successor, because each worker has its own
    (since gunicorn 25 with reuse_port, arbiter.start).

    :param name: the program's name.
    :raises Failure: NOT_RELOADABLE with the cure.
    """
    try:
        if handed_over(world, old.master, old.children):
            return
        known = world.listening(old.master)
        own = world.sockets(old.master, known).held
        held = [world.sockets(child, known).held for child in old.children]
    except Unreadable:
        return
    if held and all(sockets and sockets.isdisjoint(own) for sockets in held):
        raise Failure(
            Fault.NOT_RELOADABLE,
            f"{name} runs with reuse_port: each worker listens by itself, and {old.master} has no "
            f"socket to hand to a successor; nothing was sent. Remove reuse_port",
        )


def lost_path(world: World, master: Process, program: Program) -> Optional[str]:
    """Return the path of a unix socket of *master* that no longer exists, None without one."""
    try:
        known = world.listening(master)
        paths = [known[inode] for inode in world.sockets(master, known).held]
        with rights_of(program.rights):
            lost = [path for path in paths if os.path.isabs(path) and not os.path.lexists(path)]
            return printable(lost[0]) if lost else None
    except (Unreadable, OSError):
        return None


def _complaint(context: StartContext) -> Optional[str]:
    """Return what is missing, or None."""
    checks: tuple[tuple[Optional[str], str, Callable[[str], bool], str], ...] = (
        (context.directory, "the directory that it was started in", _can_enter, "entered"),
        (context.interpreter, "its interpreter", _can_execute, "executed"),
        (context.script, "its script", _can_read, "read"),
    )
    for path, what, usable, verb in checks:
        if path is None or REPLACEMENT in path:
            continue
        try:
            os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return f"{what} ({printable(path)}) is missing"
        except OSError:
            closed = _closed(path)
            if closed is None:
                continue  # hidden from everybody but its user (FUSE)
            hides = f"{printable(closed)} is closed to it"
            return f"{what} ({printable(path)}) cannot be {verb} by its user: {hides}"
        if not usable(path):
            return f"{what} ({printable(path)}) cannot be {verb} by its user"
    return None


def _closed(path: str) -> Optional[str]:
    """Return the directory that hides *path* from these rights; None where its mode does not."""
    folder = os.path.dirname(os.path.realpath(path))
    while not os.path.isdir(folder) and folder != "/":
        folder = os.path.dirname(folder)
    return None if os.access(folder, os.X_OK, effective_ids=True) else folder


def _can_enter(path: str) -> bool:
    return os.path.isdir(os.path.join(path, "."))


def _can_execute(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK, effective_ids=True)


def _can_read(path: str) -> bool:
    return os.access(path, os.R_OK, effective_ids=True)


def _context(
    arguments: Sequence[str], given: Mapping[str, str], cwd: Optional[str], program: Program
) -> StartContext:
    visible = len(arguments) > 1 and PYTHON.match(os.path.basename(arguments[0]))
    words = list(arguments) if visible else _started(program, given)
    more = options_of(words if visible else program.words)
    chdir = {**options_of(configured(program).split()), **more}.get("chdir")
    directory = _directory(cwd, given.get("PWD"), chdir)
    interpreter = _found(words[0], program.directory, given) if words else None
    script = _script(words)
    if script is not None and not os.path.isabs(script):
        script = os.path.join(directory, script) if directory is not None else None
    return StartContext(interpreter, script, directory)


def _started(program: Program, given: Mapping[str, str]) -> list[str]:
    """Return the interpreter and the script of a configured command, [] when it names none.

    The interpreter of a script is the one in its first line now.
    """
    words = program.words
    if words and PYTHON.match(os.path.basename(words[0])):
        return words
    if not words or os.path.basename(words[0]) not in BINARIES:
        return []
    script = _found(words[0], program.directory, given)
    if script is None:
        return []
    try:
        first = read_regular(script, SHEBANG_BYTES).split(b"\n")[0].decode("utf-8", "replace")
    except FileNotFoundError:
        return ["", script]  # the caller reports it as missing
    except OSError:
        return []
    interpreter = first[2:].split()[:1] if first.startswith("#!") else []
    known = interpreter and PYTHON.match(os.path.basename(interpreter[0]))
    return [interpreter[0], script] if known else []


def _found(word: str, base: str, given: Mapping[str, str]) -> Optional[str]:
    """Return the absolute path of an executable, as a shell finds it."""
    if not word:
        return None
    if "/" in word:
        return os.path.join(base, word)
    return shutil.which(word, path=given.get("PATH"))


def _script(words: Sequence[str]) -> Optional[str]:
    """Return the script that an interpreter's command line names, None where it names none."""
    rest = list(words[1:])
    while rest and rest[0].startswith("-"):
        if rest[0].startswith(NO_SCRIPT):
            return None
        del rest[: 2 if rest[0] in WITH_VALUE else 1]
    return rest[0] if rest else None


def _directory(cwd: Optional[str], pwd: Optional[str], chdir: Optional[str]) -> Optional[str]:
    """Return the directory in which gunicorn starts a successor (gunicorn util.getcwd): PWD if
    that named its directory when it started, else the resolved one.

    :param cwd: the master's directory, from the kernel.
    """
    if cwd is None:
        return None
    gone = cwd.endswith(DELETED) and not os.path.isdir(cwd)
    resolved = cwd[: -len(DELETED)] if gone else cwd
    if not pwd or not os.path.isabs(pwd):
        return resolved
    if not gone and _same(pwd, cwd):
        return pwd
    if chdir is not None:
        target = os.path.join(pwd, chdir)
        same = os.path.normpath(target) == os.path.normpath(pwd) or _same(target, pwd)
        return pwd if same else resolved
    if os.path.realpath(pwd) == os.path.normpath(pwd):
        return resolved  # no symlink in it that could have moved
    if not os.path.isdir(pwd):
        return resolved
    return None if _can_enter(pwd) else pwd


def _same_folder(one: str, other: str) -> bool:
    """Tell whether two paths are in one directory: those of an environment link elsewhere."""
    return os.path.realpath(os.path.dirname(one)) == os.path.realpath(os.path.dirname(other))


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
