"""An event listener for tests: writes every event that it gets to the file it is given."""

from __future__ import annotations

import sys

from supervisor import childutils


def main() -> None:
    with open(sys.argv[1], "a") as out:
        while True:
            headers, payload = childutils.listener.wait()
            first = payload.partition("\n")[0]
            out.write(f"{headers['eventname']} {first}\n")
            out.flush()
            childutils.listener.ok()


main()
