"""``hotreload-run``: a command whose pid never changes, for use without the plugin.

`options` reads the command line, `entry` sets the scene, `run` is the loop,
`served` knows what runs now, `child` starts a copy of it, `overlap` reloads
what cannot re-exec, `listeners` tells who accepts, `files` writes in
folders of others; `signals`, `sockets`,
`notify`, `reports`, `check`, `keeper`, `upgrade` and `handover` are what their names say.
"""
