from __future__ import annotations

from supervisor_hotreload.wrapper import main

main()
