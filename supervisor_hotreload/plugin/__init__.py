"""The part of hotreload that runs inside supervisord.

Only this room imports supervisor's internals. Nothing here may block.

- What the RPC interface calls: ``service`` (start, cancel, step), ``triggers`` (the answers
  to the event listener), ``structs`` and ``xmlrpc`` (arguments and answers).
- From a request to the steps of a reload: ``survey`` (which server runs, what serves),
  ``admission`` (may it be reloaded, and how: a Plan), ``builder`` (the steps of a Plan, the
  point of no return, an operator's commands), ``batch`` (several programs), ``capture`` (what
  a program prints).
- supervisord: ``supervisord`` (its programs and events), ``program`` (one program; it lists its
  parts), ``settings_file``, ``events``, ``listener_pools``, ``option_hooks``, ``loop``,
  ``notify_socket``, ``orphans``, ``record``, ``recovery``, ``compat``, ``log``.
"""
