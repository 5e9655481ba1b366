"""Lists all programs, as the plugin in supervisord reports them (hotreload.getTriggers)."""

from __future__ import annotations

from typing import Any, Callable

from supervisor_hotreload.core.text import matches
from supervisor_hotreload.listener.events import Event
from supervisor_hotreload.listener.rpcclient import RpcClient
from supervisor_hotreload.listener.watched_program import WatchedProgram
from supervisor_hotreload.system.process import boot_id

Rule = tuple[WatchedProgram, str, dict[str, str]]
"""A program, an event that reloads it, and the tokens that the event has to have."""


class Roster:
    """Knows the programs and what is planned for them.

    ``dirty`` is true when the state file has to be written.

    :param say: logs what is wrong in the configuration, once for each edit.
    """

    def __init__(self, rpc: RpcClient, say: Callable[[str], None]) -> None:
        self.programs: dict[str, WatchedProgram] = {}
        self.sighup: list[str] = []
        self.state_file = ""
        self.listener_age = 0.0
        self.dirty = False
        self._rpc = rpc
        self._say = say
        self._revision = ""
        self._instance = ""
        self._errors: list[str] = []

    def refresh(self, now: float) -> None:
        """Ask supervisord for what has changed.

        :raises NoAnswer, xmlrpc.client.Fault: when it does not answer.
        """
        answer = self._rpc.call("hotreload.getTriggers", self._revision)
        self._revision = answer["revision"]
        if "names" in answer:
            self._take(answer, now)

    def _take(self, answer: dict[str, Any], now: float) -> None:
        self._instance, self.sighup = answer["instance"], answer["sighup"]
        self.state_file = answer["state_file"]
        self.listener_age = answer["listener_age"]
        for error in answer["errors"]:
            if error not in self._errors:
                self._say(f"bad setting: {error}")
        self._errors = answer["errors"]
        known = self.programs
        self.programs = {name: known.get(name) or WatchedProgram(name) for name in answer["names"]}
        for row in answer["programs"]:
            program = self.programs[row["name"]]
            program.row = row
            program.born = now - row["age"] if row["age"] else 0.0

    @property
    def rules(self) -> list[Rule]:
        """Return what ``on`` says of every program."""
        return [
            (program, condition["event"], condition["tokens"])
            for program in self.programs.values()
            for condition in program.setting("on", [])
        ]

    def trigger(self, program: WatchedProgram, cause: str, now: float) -> None:
        """Plan a reload of *program* for an event, after ``settle`` seconds of quiet."""
        self.dirty |= program.trigger(cause, now, program.settle)

    # -- names

    def named(self, name: str) -> list[WatchedProgram]:
        """Return the programs that *name* means; ``all`` means those that look like gunicorn."""
        if name == "all":
            return [program for program in self.programs.values() if program.row["likely"]]
        return [program for program in self.programs.values() if _means(name, program)]

    def senders(self, event: Event) -> list[WatchedProgram]:
        """Return the program, or none, to which supervisord says that an event belongs."""
        name = event.tokens.get("groupname"), event.tokens.get("processname")
        programs = self.programs.values()
        return [p for p in programs if (p.row["group"], p.row["process"]) == name]

    def waiting_for(self, sender: WatchedProgram) -> list[WatchedProgram]:
        """Return the programs that are reloaded ``after`` *sender*."""
        programs = self.programs.values()
        return [p for p in programs if any(_means(n, sender) for n in p.setting("after", []))]

    def may_request(self, sender: WatchedProgram, target: WatchedProgram) -> bool:
        """Tell whether *sender* may ask for a reload of *target*."""
        allowed = target.setting("allow_requests_from", [])
        return sender is target or any(_means(name, sender) for name in allowed)

    def is_group_busy(self, program: WatchedProgram) -> bool:
        """Tell whether another program of its group is being reloaded.

        A reload whose old generation drains for long does not count.
        """
        return any(
            (member.row["active"] or member.attempt is not None) and not member.row["drains_on"]
            for member in self.group_members(program)
        )

    def group_members(self, program: WatchedProgram) -> list[WatchedProgram]:
        """Return the other programs of its group."""
        programs = self.programs.values()
        return [p for p in programs if p.group == program.group and p is not program]

    def new_exits(self, program: WatchedProgram, now: float) -> list[tuple[str, bool]]:
        """Return the programs in its ``after`` that have exited as expected since the last look.

        :return: names, each with whether the exit is older than the running generation.
        """
        found = []
        for exits in program.row["after"]:
            key = f"after {exits['name']}"
            before = program.stamps.get(key)
            program.stamps[key] = [self._instance, exits["count"]]
            if before is None:
                continue
            seen = before[1] if before[:1] == [self._instance] and len(before) == 2 else 0
            if not isinstance(seen, int) or exits["count"] > seen:
                found.append((exits["name"], now - exits["ago"] < program.born))
        return found

    # -- the state file

    def dump(self) -> dict[str, Any]:
        return {
            "boot": boot_id(),
            "instance": self._instance,
            "programs": {name: program.dump() for name, program in self.programs.items()},
        }

    def restore(self, saved: dict[str, Any], now: float) -> bool:
        """Take over what an earlier listener has saved.

        :return: whether a listener has worked for this supervisord before.
        """
        programs = saved.get("programs")
        same_boot = saved.get("boot") == boot_id()
        same_supervisord = same_boot and saved.get("instance") == self._instance
        if not isinstance(programs, dict):
            return False
        for name, program in list(self.programs.items()):
            if name not in programs:
                continue
            restored = WatchedProgram(name, program.row, program.born)
            try:
                restored.restore(programs[name], now, same_boot, same_supervisord)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                self._say(f"{name}: the state file makes no sense and is ignored: {error!r}")
            else:
                self.programs[name] = restored
        return same_supervisord


def _means(name: str, program: WatchedProgram) -> bool:
    return matches(name, program.row["group"], program.row["process"])
