"""Starts ``hotreload-listener``, or shows its manual."""

from __future__ import annotations

import getopt
import os
import sys
from collections.abc import Sequence
from typing import Optional

USAGE = "usage: hotreload-listener [-s PATH] [-h]\n"

SECTION = """\
[eventlistener:hotreload]
command = hotreload-listener
events = PROCESS_STATE,PROCESS_COMMUNICATION,REMOTE_COMMUNICATION,TICK_5
"""

MANUAL = f"""{USAGE}
An event listener of supervisord that reloads programs unattended, without
dropping a request.  supervisord starts it, beside the plugin
supervisor_hotreload.  The triggers of a program stand in its [hotreload:NAME]
section.  The listener sees an edit within five seconds; no restart is needed.

Options:

-s, --state PATH -- The state file.  It lets the next listener see what has
      changed while none was running, and keeps it from reloading programs only
      because it starts.  It is a hint and may be deleted.  The default is
      '<pidfile without .pid>.hotreload.json', beside supervisord's pidfile.
      Where other users can write to that directory, the file lies in a
      directory of its own in it.

-h, --help -- Show this manual.

Settings, in [hotreload:NAME].  Several values are separated by commas or
lines.  A time is 90, 90s, 15m, 24h or 7d.

touch = PATH, ... -- Reload when the modification time of the file changes, or
      when the file appears.  The listener looks once a second.

watch = PATH, ... -- Reload when the symlink leads elsewhere, or when another
      directory or file lies at the path; after 'settle' seconds of quiet.
      The listener looks at both with the rights of the program's user.

after = PROGRAM, ... -- Reload when that program has exited as expected.  When
      it has failed nothing is reloaded.

on = EVENT[:KEY=VALUE ...], ... -- Reload on any event of supervisor that
      'events' of this listener's section names, if the tokens of its header
      and payload have these values ('data' is the payload after its tokens).

max_memory = SIZE -- Reload when the processes of the generation together use
      more than SIZE (such as 800MB) at two looks, ten seconds apart.  Shared
      pages count once where the kernel shows which they are.

every = TIME -- Reload when the running generation is that old; up to a tenth
      of the time is added.

settle = TIME -- Seconds of quiet before a reload by 'watch' or an event.  The
      default is 1.

min_interval = TIME -- From the end of one reload to the start of the next, at
      least.  The default is 10.  After a failure the pause doubles each time,
      up to an hour; the next change of a trigger tries again at once.

allow_requests_from = PROGRAM, ... -- Programs that may ask for a reload of
      this one.  Every program may ask for one of itself.

notify = COMMAND -- Run when a reload of the program has ended, with its
      outcome as JSON on standard input.  It has a minute.  It runs as the user
      of this listener.

settle, min_interval and notify may stand in [rpcinterface:hotreload] as
defaults for all programs.  One key stands there only:

reload_on_sighup = NAME, ... -- The programs that a HUP to this listener
      reloads ('all': all that look like gunicorn).  The default is none.

Other ways to ask for a reload:

- In the application: 'from supervisor_hotreload import request_reload;
  request_reload()'.  The program needs 'stdout_capture_maxbytes = 1KB', or
  access to supervisord's socket.

- By XML-RPC: supervisor.sendRemoteCommEvent('hotreload', 'NAME').

A sample section:

{SECTION}
The command needs no path where supervisord and this listener are installed in
the same environment.  Where supervisord's server asks for a user name and a
password, the listener needs them:

environment = SUPERVISOR_USERNAME="admin",SUPERVISOR_PASSWORD="secret"

(write a % as %%).  Without them the listener logs this once, and nothing is
reloaded unattended.  It does what was missed once it gets in.

It logs to its standard error.
"""

BY_HAND = f"""\
hotreload-listener is an event listener: supervisord starts it and talks to it
over its standard input and output.  Add this to supervisord.conf, then run
'supervisorctl update':

{SECTION}
'hotreload-listener --help' shows the manual.
"""

NO_SERVER = """\
hotreload-listener: supervisord has no XML-RPC server: add [unix_http_server]
with 'file = /path/to/supervisor.sock' to supervisord.conf, and restart
supervisord
"""

NO_PLUGIN = """\
hotreload-listener: supervisord has not loaded hotreload: add this to
supervisord.conf, and restart supervisord:

[rpcinterface:hotreload]
supervisor.rpcinterface_factory = supervisor_hotreload.rpcinterface:make_hotreload_rpcinterface
"""


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the listener; return its exit status: 2 when it cannot run here."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        options, rest = getopt.getopt(words, "hs:", ["help", "state="])
    except getopt.GetoptError as error:
        return _fail(f"{USAGE}hotreload-listener: {error}\n")
    if rest:
        return _fail(f"{USAGE}hotreload-listener: unexpected argument {rest[0]}\n")
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
        rpc = from_environment(os.environ)
    except ValueError as error:
        return _fail(f"hotreload-listener: {error}\n")
    if rpc is None:
        return _fail(NO_SERVER)
    try:
        Listener(rpc, os.path.abspath(state) if state else "").run()
    except NoPlugin:
        return _fail(NO_PLUGIN)
    except ProtocolError as error:
        return _fail(f"hotreload-listener: {error}\n")
    return 0


def _fail(text: str) -> int:
    sys.stderr.write(text)
    return 2
