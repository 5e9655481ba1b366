"""The console script ``hotreload-listener``: its manual and its start."""

from __future__ import annotations

import getopt
import os
import sys
from collections.abc import Sequence
from typing import Optional

MANUAL = """\
hotreload-listener [-s path] [-h]

An event listener of supervisord that reloads programs by itself, without
dropping a request.  It is started by supervisord, next to the plugin
supervisor_hotreload.  What reloads a program is written where the program is:
in its [hotreload:NAME] section.  Edits are seen within five seconds; nothing
has to be restarted for them.

Options:

-s, --state -- The file that keeps what was seen last, so that nothing is
      missed while this listener is down, and nothing is reloaded because it
      starts.  It is a hint: it may be deleted.  The default lies beside
      supervisord's pidfile, '<pidfile without .pid>.hotreload.json'; where
      others can write to that directory, in a directory of its own in it.

-h, --help -- Show this.

Settings, in [hotreload:NAME].  Where several values are allowed, they are
separated by commas or lines.  Seconds may be written as 90, 90s, 15m, 24h, 7d.

touch = PATH, ... -- Reload when the modification time of the file changes, or
      the file appears.  It is looked at once a second.

watch = PATH, ... -- Reload when the symlink points elsewhere, or another
      directory or file is behind the path; after 'settle' seconds of quiet.
      Both are looked at with the rights of the program's user.

after = PROGRAM, ... -- Reload when that program has exited as expected.  When
      it has failed nothing is reloaded.

on = EVENT[:KEY=VALUE ...], ... -- Reload on any event of supervisor's that
      'events' of this listener's section names, if the tokens of its header
      and payload have these values ('data' is what follows the tokens).

max_memory = SIZE -- Reload when the processes of the generation together hold
      more than SIZE (such as 800MB) at two looks, ten seconds apart.  Shared
      pages count once where the kernel tells.

every = TIME -- Reload when the running generation is as old as that, and up
      to a tenth more.

settle = TIME -- Seconds of quiet before a reload by 'watch' or an event.
      This defaults to 1.

min_interval = TIME -- From the end of one reload to the begin of the next, at
      least.  This defaults to 10.  After a failure the pause grows twofold
      each time, up to an hour; the next change of a trigger tries again.

allow_requests_from = PROGRAM, ... -- Programs that may ask for a reload of
      this one.  Every program may ask for one of itself.

notify = COMMAND -- Run when a reload of the program has ended, with its
      outcome as JSON on standard input.  It may take a minute.  It runs as
      the user of this listener.

settle, min_interval and notify may stand in [rpcinterface:hotreload] as
defaults for every program, and one key stands there only:

reload_on_sighup = NAME, ... -- What a HUP to this listener reloads ('all':
      whatever looks like gunicorn).  The default is nothing.

Other ways to ask for a reload:

- In the application: 'from supervisor_hotreload import request_reload;
  request_reload()'.  The program needs 'stdout_capture_maxbytes = 1KB', or
  has to be allowed to use supervisord's socket.

- By XML-RPC: supervisor.sendRemoteCommEvent('hotreload', 'NAME').

A sample section:

[eventlistener:hotreload]
command = hotreload-listener
events = PROCESS_STATE,PROCESS_COMMUNICATION,REMOTE_COMMUNICATION,TICK_5

The command needs no path where supervisord and this listener are installed in
the same environment.  Where supervisord's server asks for a user name and a
password, the listener needs them:

environment = SUPERVISOR_USERNAME="admin",SUPERVISOR_PASSWORD="secret"

(a % is written as %%).  Without them it says so once, and nothing is reloaded
unattended.  What happens meanwhile is kept, and done once it gets in.

It logs to its standard error.
"""

BY_HAND = """\
hotreload-listener is an event listener: supervisord starts it and talks to it
over its standard input and output.  Add this to supervisord.conf, then run
'supervisorctl update':

[eventlistener:hotreload]
command = hotreload-listener
events = PROCESS_STATE,PROCESS_COMMUNICATION,REMOTE_COMMUNICATION,TICK_5

'hotreload-listener --help' shows the manual.
"""

NO_SERVER = """\
hotreload-listener: supervisord has no server that it could be asked by: add
[unix_http_server] with 'file = /path/to/supervisor.sock' to supervisord.conf
"""

NO_PLUGIN = """\
hotreload-listener: supervisord has not loaded hotreload: add this to the file
that supervisord reads, and restart supervisord:

[rpcinterface:hotreload]
supervisor.rpcinterface_factory = supervisor_hotreload.rpcinterface:make_hotreload_rpcinterface
"""


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the listener; return its exit status: 2 when it cannot run here."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        options, rest = getopt.getopt(words, "hs:", ["help", "state="])
    except getopt.GetoptError as error:
        return _fail(f"hotreload-listener: {error}; see hotreload-listener --help\n")
    if rest:
        return _fail(f"hotreload-listener: it takes no argument such as {rest[0]}\n")
    given = dict(options)
    if "-h" in given or "--help" in given:
        sys.stdout.write(MANUAL)
        return 0
    if "SUPERVISOR_ENABLED" not in os.environ or sys.stdin.isatty():
        return _fail(BY_HAND)
    return _listen(given.get("-s") or given.get("--state") or "")


def _listen(state: str) -> int:
    from supervisor_hotreload.listener.events import ProtocolError
    from supervisor_hotreload.listener.loop import Listener, NoPlugin
    from supervisor_hotreload.listener.rpcclient import from_environment

    try:
        server = from_environment(os.environ)
    except ValueError as error:
        return _fail(f"hotreload-listener: {error}\n")
    if server is None:
        return _fail(NO_SERVER)
    try:
        Listener(server, os.path.abspath(state) if state else "").run()
    except NoPlugin:
        return _fail(NO_PLUGIN)
    except ProtocolError as error:
        return _fail(f"hotreload-listener: {error}\n")
    return 0


def _fail(text: str) -> int:
    sys.stderr.write(text)
    return 2
