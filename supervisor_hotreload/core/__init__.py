"""What a reload is. Nothing here touches the system: no os, time, signal, socket, supervisor.

- ``model``: phases, outcomes, faults, the settings of a program, progress
- ``protocol``: the reload as one flat generator, and what it needs of others
- ``reload``: one reload being stepped: waits, timeouts, changes of state, its log
- ``driver``: the active reloads, and those that are remembered
- ``text``: printable text, numbers with nouns, names of programs
"""
