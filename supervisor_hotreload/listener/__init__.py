"""The event listener ``hotreload-listener``: it reloads programs unattended.

It talks to supervisord by events and XML-RPC alone. ``command`` is the console script,
``loop`` its loop. ``events`` and ``inbox`` handle supervisord's events, ``watcher``, ``paths``
and ``memory`` look for the other triggers. ``roster`` has all programs, ``watched_program``
decides when one may be reloaded, ``attempts`` asks for it. ``state`` outlives the listener,
``notify`` runs the operator's commands.
"""
