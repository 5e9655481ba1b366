"""Starts a command beside a loop, which waits neither for its exec nor for a name service.

The owner of an executable can hold up who executes it for as long as he likes (a write
lease, fcntl(2)). So the parent only forks; the child does all else, and says through a
pipe what keeps it from executing the command.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable, Optional, Union

from supervisor_hotreload.core.text import printable
from supervisor_hotreload.system.child import forked
from supervisor_hotreload.system.credentials import NOBODY

TROUBLE = 3
"""The child's end of that pipe."""

SENTENCE = 1000
"""Characters of what it says; the pipe holds them."""


@dataclass(frozen=True)
class RunAs:
    """As whom a command runs; nothing changes unless its starter is root.

    :param user: an id or a name, None for its starter's.
    :param group: an id or a name, None for the user's own.
    """

    user: Union[int, str, None] = None
    group: Union[int, str, None] = None

    def take(self) -> None:
        """Become that user for good, in a child: a name service is asked, which may wait.

        :raises OSError, ValueError: when there is no such user, or it cannot be.
        """
        if self.user is None or os.getuid() != 0:
            return
        import grp
        import pwd

        known = _known(self.user, pwd.getpwuid, pwd.getpwnam, "user")
        user = int(self.user) if known is None else known.pw_uid
        group = NOBODY if known is None else known.pw_gid
        if self.group is not None:
            named = _known(self.group, grp.getgrgid, grp.getgrnam, "group")
            group = int(self.group) if named is None else named.gr_gid
        os.setgroups([group] if known is None else os.getgrouplist(known.pw_name, group))
        if hasattr(os, "setresuid"):
            os.setresgid(group, group, group)
            os.setresuid(user, user, user)
            users, groups = {*os.getresuid()}, {*os.getresgid()}
        else:  # the saved ids are set as well where root does this
            os.setgid(group)
            os.setuid(user)
            users, groups = {os.getuid(), os.geteuid()}, {os.getgid(), os.getegid()}
        if users != {user} or groups != {group}:
            raise PermissionError(1, f"user {user} and group {group} cannot be taken")


ITSELF = RunAs()


def _known(
    key: Union[int, str], by_id: Callable[[int], Any], by_name: Callable[[str], Any], what: str
) -> Any:
    """Return what the name service knows of a name or an id, None of an id that it does not know.

    :raises ValueError: when there is no such name.
    """
    try:
        return by_id(int(key))
    except KeyError:  # as in containers
        return None
    except ValueError:
        pass
    try:
        return by_name(str(key))
    except KeyError:
        raise ValueError(f"there is no {what} {key}") from None


class Command:
    """One command that was started; somebody else reaps it.

    :param words: the command, looked for in the PATH of *environment*, and its arguments.
    :param output: the descriptor of all that it prints.
    :param directory: where it runs, None for here.
    :param umask: None for this process's.
    :raises OSError: when there can be no child.
    """

    def __init__(
        self,
        words: Sequence[str],
        output: int,
        environment: Mapping[str, str],
        directory: Optional[str] = None,
        umask: Optional[int] = None,
        run_as: RunAs = RunAs(),
    ) -> None:
        def execute() -> None:
            os._exit(_execute(words, environment, directory, umask, run_as))

        self._trouble, writer = os.pipe()
        nothing = -1
        try:
            os.set_blocking(self._trouble, False)
            nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            self.pid = forked(execute, (nothing, output, output, writer))
        except OSError:
            os.close(self._trouble)
            raise
        finally:
            os.close(writer)
            if nothing >= 0:
                os.close(nothing)

    def trouble(self) -> str:
        """Return what has kept it from being executed, '' for nothing; once it was reaped."""
        try:
            told = os.read(self._trouble, 4 * SENTENCE)
        except BlockingIOError:
            return ""
        return printable(told.decode("utf-8", "replace"))

    def close(self) -> None:
        if self._trouble >= 0:
            os.close(self._trouble)
            self._trouble = -1


def _execute(
    words: Sequence[str],
    environment: Mapping[str, str],
    directory: Optional[str],
    umask: Optional[int],
    run_as: RunAs,
) -> int:
    """Become the command; return the exit status of a child that cannot (as a shell's)."""
    what = "" if run_as.user is None else f"user {run_as.user}"
    try:
        run_as.take()
        if umask is not None:
            os.umask(umask)
        if directory is not None:
            what = directory
            os.chdir(directory)
        what = words[0]
        os.execvpe(words[0], [*words], environment)
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent says it
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        os.write(TROUBLE, f"{what}: {why}"[:SENTENCE].encode("utf-8", "replace"))
        return 127 if isinstance(error, FileNotFoundError) else 126
