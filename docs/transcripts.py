"""Refresh the transcripts of the README: ``make transcripts``.

They are what ``hotreload-demo`` prints, shortened, with the paths of an installation in the place
of those of this machine. A transcript stands between two comments of its name.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

README = pathlib.Path(__file__).parent.parent / "README.rst"
DEMO = pathlib.Path(sys.executable).with_name("hotreload-demo")

OUTPUT_LINES = 3
"""Lines of a failed program's output that the README shows: the end of a traceback."""

TURNS = re.compile(r"\$ |myapp\b|dropped")
"""How the lines of the demo begin that the README shows."""

PROGRESS = re.compile(r"(\d+/\d+ workers ready|\d+ old workers? left)$")
"""What repeats itself: of several such lines the first and the last are shown."""


def run(*options: str) -> list[str]:
    """Return what the demo prints from the deploy on."""
    done = subprocess.run([DEMO, *options], capture_output=True, text=True)
    if "dropped   0 of " not in done.stdout:
        raise SystemExit(f"{done.stdout}{done.stderr}the demo has dropped a request, or failed")
    text = done.stdout[done.stdout.index("$ ln -s") :]
    text = re.sub(r"/tmp/hotreload-demo-\w+", "/srv/myapp", text)
    text = re.sub(r"\(exit status (\d+)\)", r"$ echo $?\n\1", text)
    if options:  # nothing has changed
        text = re.sub(r"\$ supervisorctl status\n.*\n", "", text)
    return text.splitlines()


def shortened(lines: list[str]) -> list[str]:
    """Return the lines that the README shows, with ``...`` for what is left out."""
    shown: list[str] = []
    for number, line in enumerate(lines):
        following = lines[number + 1] if number + 1 < len(lines) else ""
        progress = PROGRESS.search(line) and PROGRESS.search(following)
        program = line.startswith("myapp|") and all(
            later.startswith("myapp|") for later in lines[number : number + OUTPUT_LINES + 1]
        )
        if (progress and PROGRESS.search(lines[number - 1])) or program:
            if shown[-1] != "...":
                shown.append("...")
        elif TURNS.match(line) or shown[-1:] == ["$ echo $?"]:
            shown += ["", line] if line.startswith("dropped") else [line]
    return shown


def put(name: str, lines: list[str]) -> None:
    """Write a transcript between its comments in the README."""
    begin, end = f".. transcript: {name}\n", f".. end of transcript: {name}\n"
    before, _, rest = README.read_text(encoding="utf-8").partition(begin)
    after = rest.partition(end)[2]
    text = "".join(f"    {line}".rstrip() + "\n" for line in lines)
    README.write_text(f"{before}{begin}\n::\n\n{text}\n{end}{after}", encoding="utf-8")


def main() -> None:
    put("a good release", shortened(run()))
    put("a broken release", shortened(run("--broken")))


if __name__ == "__main__":
    main()
