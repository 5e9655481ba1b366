"""Prints what ``supervisorctl hotreload`` has to say."""

from __future__ import annotations

import xmlrpc.client
from typing import Any

from supervisor.options import split_namespec
from supervisor.supervisorctl import LSBInitExitStatuses
from supervisor.xmlrpc import Faults

from supervisor_hotreload.core.model import Fault
from supervisor_hotreload.core.text import one_line
from supervisor_hotreload.ctl.names import proposals

EXCERPT_LINES = 15
"""Lines of a failed release that are printed without -v: the end of a traceback."""

REASON_CHARACTERS = 200
"""Characters of an error that a reason has at least; it cuts a longer one."""

LATE_PHASES = ("replacing", "draining", "promoting")
"""Phases of a reload that can no longer be cancelled."""


class Screen:
    """Prints for one command, and sets its exit status.

    :param controller: supervisorctl's Controller.
    """

    def __init__(self, controller: Any) -> None:
        self._controller = controller

    def say(self, text: str) -> None:
        """Print one line. Programs have written parts of it: only printable characters pass.

        A tab becomes spaces: Ruby begins each line of a backtrace with one.
        """
        encoding = getattr(self._controller.stdout, "encoding", None) or "utf-8"
        line = one_line(text.replace("\t", "    "))
        self._controller.output(line.encode(encoding, "replace").decode(encoding))

    def fail(self, status: int = LSBInitExitStatuses.GENERIC) -> None:
        """Set the exit status of supervisorctl."""
        self._controller.exitstatus = status

    def error(self, name: str, text: str) -> None:
        """Print what is wrong with *name*. A text for supervisord's log names it as well."""
        prefix = f"{name}: "
        self.say(f"{prefix}ERROR ({text[len(prefix) :] if text.startswith(prefix) else text})")
        self.fail()

    def log(self, name: str, info: dict[str, Any]) -> None:
        """Print the lines of a reload that *info* (getReloadInfo) brings."""
        for line in info["log"]:
            self.say(f"{name}: {line['seconds']:6.2f}s  {line['text']}")

    def output(self, name: str, info: dict[str, Any], verbose: bool) -> None:
        """Print what the program has printed since the reload began.

        :param verbose: print all of it, not only the error.
        """
        lines = info["output"]
        shown = lines if verbose else excerpt(lines, info["reason"])
        for line in shown:
            self.say(f"{name}| {line}")
        if len(shown) < len(lines):
            process = self._controller.get_supervisor().getProcessInfo(name)
            logs = {process["stdout_logfile"], process["stderr_logfile"]} - {"", None}
            self.say(
                f"{name}: {len(lines) - len(shown)} more lines: supervisorctl hotreload --status "
                f"-v {name}{''.join(f', or {log}' for log in sorted(logs))}"
            )

    def fault(self, name: str, fault: xmlrpc.client.Fault) -> None:
        """Print why supervisord refuses to do something with *name*."""
        if fault.faultCode == Fault.BAD_NAME:
            self.unknown(name)
        elif fault.faultCode == Faults.UNKNOWN_METHOD:
            self.error(
                name,
                "supervisord has not loaded hotreload: add [rpcinterface:hotreload] to the file "
                "that supervisord reads, and restart supervisord",
            )
        else:
            self.error(name, fault.faultString)
        if fault.faultCode == Fault.NOT_RUNNING:
            self.fail(LSBInitExitStatuses.NOT_RUNNING)

    def unknown(self, name: str) -> None:
        """Print that no program has this *name*, and the names that may be meant."""
        programs = self._controller.get_supervisor().getAllProcessInfo()
        group, process = split_namespec(name)
        if any(info["group"] == group and process in (None, info["name"]) for info in programs):
            self.error(name, "it is an event listener; hotreload reloads programs only")
            return
        near = proposals(name, [(info["group"], info["name"]) for info in programs])
        text = f"no such {'group' if name.endswith(':*') else 'process'}"
        if near:
            *others, last = near
            choice = f"{', '.join(others)} or {last}" if others else last
            text += f"; did you mean {choice}"
        else:
            text += "; supervisorctl status has the names"
        self.error(name, text)


def is_late(info: dict[str, Any]) -> bool:
    """Return whether the reload of *info* (getReloadInfo) can no longer be cancelled."""
    in_place = info["old_pid"] == info["new_pid"]
    return info["phase"] in LATE_PHASES or (in_place and info["phase"] == "baking")


def summary(info: dict[str, Any]) -> str:
    """Return one line about the reload of *info* (getReloadInfo)."""
    now = f"generation {info['generation']} (pid {info['pid']})" if info["pid"] else "not running"
    if info["active"]:
        follows = f", pid {info['new_pid']} follows {now}" if info["new_pid"] else f", {now}"
        return f"{info['phase']} for {info['seconds']:.0f} s{follows}"
    if not info["outcome"]:
        return f"{now}, never reloaded"
    why = f": {info['reason']}" if info["reason"] else ""
    if info.get("refused"):  # an older plugin that is still loaded does not say so
        return f"{now}, last reload refused{why}"
    return f"{now}, last reload {info['outcome']} in {info['seconds']:.1f} s{why}"


def excerpt(output: list[str], reason: str) -> list[str]:
    """Return the lines of *output* that end with the error that *reason* names.

    A server goes on logging after the error. If no line of the output stands in the reason, the
    excerpt is the end of the output.
    """
    end = len(output)
    for number, line in enumerate(output, 1):
        if ": " in line and line.strip()[:REASON_CHARACTERS] in reason:
            end = number
    return output[max(0, end - EXCERPT_LINES) : end]
