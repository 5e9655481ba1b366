"""``hotreload-orphan`` starts a server, and leaves it to supervisord when asked to.

nginx refuses USR2 as long as its parent is the process that has started it
(ngx_signal_handler: ngx_getppid() == ngx_parent). So hotreload-orphan stands between supervisord
and nginx. It passes every signal on and ends as the server ends. On USR2, which a reload
sends, it ends alone; the kernel then makes the server a child of supervisord, which is a
subreaper.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from signal import SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH

USAGE = "usage: hotreload-orphan COMMAND [ARGUMENT]..."

HELP = f"""\
{USAGE}

Starts COMMAND, passes every signal on to it and ends with its exit status.
On USR2 it ends alone, and supervisord adopts the server. An nginx that is to
be reloaded with 'strategy = upgrade' has to be started so:

  [program:nginx]
  command = hotreload-orphan /usr/sbin/nginx -g 'daemon off;'
"""

CANNOT_RUN = 127
"""The exit status of a shell for a command that it does not find."""

LEAVE = SIGUSR2

RELAYED = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGWINCH}


def main() -> int:
    """Run the command of the arguments.

    :return: its exit status; 0 when the server was left alone, 127 when it cannot be run.
    """
    words = sys.argv[1:]
    if words[:1] in (["-h"], ["--help"]):
        print(HELP, end="")  # noqa: T201 - it is what was asked for
        return 0
    path = shutil.which(words[0]) if words else None
    if path is None:
        text = f"hotreload-orphan: {words[0]}: no such command" if words else USAGE
        print(text, file=sys.stderr)  # noqa: T201 - a command of its own
        return CANNOT_RUN
    signal.pthread_sigmask(signal.SIG_BLOCK, RELAYED | {LEAVE, signal.SIGCHLD})
    child = os.fork()
    if child == 0:
        run(os.path.abspath(path), words[1:])
    return watch(child)


def run(path: str, arguments: list[str]) -> None:
    """Become the server; by an absolute path, for it will exec itself by that name."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        os.execv(path, [path, *arguments])
    except OSError as error:
        print(f"hotreload-orphan: {path}: {error.strerror}", file=sys.stderr)  # noqa: T201
        os._exit(CANNOT_RUN)


def watch(child: int) -> int:
    """Pass signals on to *child* until it ends, or until USR2 comes."""
    while True:
        number = signal.sigwait(RELAYED | {LEAVE, signal.SIGCHLD})
        if number == LEAVE:
            return 0
        if number != signal.SIGCHLD:
            os.kill(child, number)  # it was not reaped, so nobody else has its pid
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
