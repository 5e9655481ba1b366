"""``hotreload-run``: a command behind a pid that never changes, for use without the plugin.

A map of this room, from the outside in. It imports nothing here: hotreload-orphan stays small.

- ``entry`` is the command ``hotreload-run``; ``options`` reads its command line.
- ``run`` is the loop: it waits for signals, steps what is under way, and reaps children.
- ``reloads`` begins a reload and steps it: by a successor of the server's own, by a second
  copy (``overlap``), or in place. ``adopter`` takes the new generation for the server's own.
- ``tracked`` is the generation that serves. ``others`` are the generations beside it.
- ``ending`` is the end of the server, and of hotreload-run with it.
- ``launch`` starts a copy of the command. ``copy_survey`` finds who of a copy listens.
- ``children`` reaps. ``errors`` keeps an exception from ending the loop.
- ``listening`` opens the sockets of ``--listen``. ``signals`` catches signals.
- ``files`` writes files into directories of other users, and protects files of the server.
- ``reports`` writes to stderr, to the status file and to systemd (``service_manager``).
- ``upgrade`` replaces hotreload-run itself; ``handover`` is what the new version is given.
- ``orphan`` is the command ``hotreload-orphan``.
"""
