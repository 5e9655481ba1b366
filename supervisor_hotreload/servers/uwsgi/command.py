"""The uWSGI that a program's command starts."""

from __future__ import annotations

import re
from typing import Optional

from supervisor_hotreload.servers.command_line import Command, behind
from supervisor_hotreload.servers.program import Program

NAME = re.compile(r"(uwsgi(-core|_(python|psgi|rack_ruby)[\d.]*)?|pyuwsgi)\Z")
"""What distributions and wheels call the program (Debian: uwsgi-core, uwsgi_python3)."""


def uwsgi_command(program: Program) -> Optional[Command]:
    """Return the uWSGI that a program's command starts, None when it starts another program."""
    return behind(program, NAME.match)
