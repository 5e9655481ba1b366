"""``hotreload-orphan COMMAND``: starts a server and can leave it to supervisord.

nginx refuses USR2 as long as its parent is the one that has started it
(ngx_signal_handler: ngx_getppid() == ngx_parent). So this stands between the
two: it passes every signal on and ends as the server ends; on USR2, which the
reload sends, it leaves, and the kernel hands the server to supervisord, which
is a subreaper and adopts it.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys

LEAVE = signal.SIGUSR2

RELAYED = frozenset(
    {
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGUSR1,
        signal.SIGWINCH,
    }
)


def main() -> int:
    """Run the command of the arguments.

    :return: its exit status; 0 when it was left alone, 127 when it cannot be run.
    """
    words = sys.argv[1:]
    path = shutil.which(words[0]) if words else None
    if path is None:
        print("usage: hotreload-orphan COMMAND [ARGUMENT]...", file=sys.stderr)  # noqa: T201
        if words:
            print(f"{words[0]}: no such command", file=sys.stderr)  # noqa: T201
        return 127
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
        print(f"{path}: {error.strerror}", file=sys.stderr)  # noqa: T201
        os._exit(127)


def watch(child: int) -> int:
    """Pass signals on to *child* until it ends, or until it is to be left alone."""
    while True:
        number = signal.sigwait(RELAYED | {LEAVE, signal.SIGCHLD})
        if number == LEAVE:
            return 0
        if number != signal.SIGCHLD:
            os.kill(child, number)  # it is our child, not reaped: nobody else has its pid
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
