"""Keeps an exception inside hotreload-run from ending it while its server lives."""

from __future__ import annotations

import traceback
from typing import Callable, Optional, TypeVar

Result = TypeVar("Result")


def described(error: Exception) -> str:
    """Return the kind, the text and the place of an exception inside hotreload-run."""
    frames = traceback.extract_tb(error.__traceback__)
    place = ""
    if frames:
        module = frames[-1].filename.rpartition("/")[2]
        place = f" (in {frames[-1].name}, {module} line {frames[-1].lineno})"
    return f"an error inside hotreload-run: {type(error).__name__}: {error}{place}"


class ErrorBoundary:
    """Runs the steps of the loop. A step that raises is reported, and the loop goes on.

    :param report: called with one sentence; the same sentence is not reported twice in a row.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._last = ""
        self.has_caught = False
        """A step has raised: it has to be tried again, even if nothing else happens."""

    def run(self, step: Callable[[], Result], again: bool = False) -> Optional[Result]:
        """Return what *step* returns, None when it raises.

        :param again: try a second time: nobody else would ask for this step again.
        """
        try:
            return step()
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the server
            self.has_caught = True
            text = described(error)
            if text != self._last:
                self._last = text
                self._report(text)
        return self.run(step) if again else None
