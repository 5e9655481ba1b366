"""The only code that asks the kernel. Nothing here knows a server or supervisord.

- ``world``: the seam; the unit tests replace it by a simulated system
- ``process``: processes, their children and ancestors; signals
- ``credentials``: the rights of a program's user, and looks with them
- ``descriptors``: what processes hold open; heartbeat files
- ``sockets``, ``sock_diag``: who listens and who accepts
- ``budget``, ``cache``: what a look may cost, and how long it counts
- ``endpoint``, ``exchange``, ``http_answer``: asking an address whether it serves
- ``sd_notify``: what programs report of themselves
- ``check``, ``command``, ``child``: commands that run beside the loop
- ``peek``: environments, read by children that may have to wait
- ``files``: files that a program's user owns
- ``linux``: calls that Python lacks: prctl, statx, timerfd, SO_PASSRIGHTS
"""
