from __future__ import annotations

from supervisor_hotreload.wrapper.entry import main

main()
