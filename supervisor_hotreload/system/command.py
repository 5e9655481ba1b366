"""Starts a command. The loop waits neither for its exec nor for a name service.

The owner of an executable can make an exec of it wait for as long as he likes (a write lease,
fcntl(2)). So the parent only forks. The child does the rest, and writes into a pipe why it
cannot execute the command.
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
"""The descriptor of that pipe in the child."""

REASON_CHARACTERS = 1000
"""How long the reason may be. The pipe holds it, so that the child never waits."""


@dataclass(frozen=True)
class RunAs:
    """The user that a command runs as. Nothing changes unless we are root.

    :param user: an id or a name; None means our own user.
    :param group: an id or a name; None means the user's own group.
    """

    user: Union[int, str, None] = None
    group: Union[int, str, None] = None

    def take(self) -> None:
        """Become that user for good. Only a child may do it: the name service may wait.

        :raises ValueError: when there is no such user or group.
        :raises OSError: when the kernel refuses.
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
        else:  # root sets the saved ids as well by this
            os.setgid(group)
            os.setuid(user)
            users, groups = {os.getuid(), os.geteuid()}, {os.getgid(), os.getegid()}
        if users != {user} or groups != {group}:
            raise PermissionError(1, f"cannot become user {user} and group {group}")


ITSELF = RunAs()


def _known(
    key: Union[int, str], by_id: Callable[[int], Any], by_name: Callable[[str], Any], what: str
) -> Any:
    """Return the name service's entry of a name or an id, None for an unknown id.

    :raises ValueError: when the name is unknown.
    """
    try:
        return by_id(int(key))
    except KeyError:  # a container may know ids that its name service does not
        return None
    except ValueError:
        pass
    try:
        return by_name(str(key))
    except KeyError:
        raise ValueError(f"there is no {what} {key}") from None


class Command:
    """A command that was started. The caller has to reap it.

    :param words: the command, which is searched in the PATH of *environment*, and its
        arguments.
    :param output: the descriptor that it prints to.
    :param directory: where it runs; None means the current directory.
    :param umask: None means that of this process.
    :raises OSError: when no child can be made.
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
        """Return why it was not executed, '' if it was. Call this after it was reaped."""
        try:
            reason = os.read(self._trouble, 4 * REASON_CHARACTERS)
        except BlockingIOError:
            return ""
        return printable(reason.decode("utf-8", "replace"))

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
    """Become the command. If that fails, return the exit status that a shell would have."""
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
    except Exception as error:  # noqa: BLE001 - the parent reports whatever it is
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        os.write(TROUBLE, f"{what}: {why}"[:REASON_CHARACTERS].encode("utf-8", "replace"))
        return 127 if isinstance(error, FileNotFoundError) else 126
