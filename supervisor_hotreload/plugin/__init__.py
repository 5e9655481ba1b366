"""The part of hotreload that runs inside supervisord.

Only this room imports supervisor's internals. Nothing here may block.

- What the RPC interface calls: ``service`` (start, cancel, step), ``triggers`` (the answers
  to the event listener), ``structs`` and ``xmlrpc`` (arguments and answers).
- From a request to the steps of a reload: ``survey`` (which server runs), ``admission`` (may
  it be reloaded, and how: a Plan), ``builder`` (the steps of a Plan), ``adopter`` (the point
  of no return), ``check_command`` (an operator's command), ``starter`` (one reload from its
  beginning to its end), ``batch`` (several programs), ``report`` (sentences for operators).
- supervisord: ``supervisord`` (its programs, signals and children), ``program`` (one
  program with its generations), ``settings_file``, ``events``, ``listener_pools``,
  ``loop``, ``exit_watch``, ``notify_socket``, ``orphans``, ``record``, ``compat``, ``log``.
"""
