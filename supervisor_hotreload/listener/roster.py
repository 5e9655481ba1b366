"""Every program, as the plugin in supervisord tells (hotreload.getTriggers)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Callable

from supervisor_hotreload.core.text import matches
from supervisor_hotreload.listener.events import Event
from supervisor_hotreload.listener.program import Program
from supervisor_hotreload.listener.rpcclient import Server
from supervisor_hotreload.system.process import boot_id

Rule = tuple[Program, str, dict[str, str]]


class Roster:
    """The programs and what is planned for them.

    ``dirty`` tells that there is something for the state file.

    :param say: told what is wrong in the configuration, once a change.
    """

    def __init__(self, server: Server, say: Callable[[str], None]) -> None:
        self.programs: dict[str, Program] = {}
        self.rules: list[Rule] = []
        self.sighup: list[str] = []
        self.state_file = ""
        self.listener_age = 0.0
        self.dirty = False
        self._server = server
        self._say = say
        self._revision = ""
        self._instance = ""
        self._errors: list[str] = []

    def refresh(self, now: float) -> None:
        """Ask for what has changed.

        :raises NoAnswer, xmlrpc.client.Fault: when supervisord does not tell.
        """
        answer = self._server.call("hotreload.getTriggers", self._revision)
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
        self.programs = {name: known.get(name) or Program(name) for name in answer["names"]}
        for row in answer["programs"]:
            program = self.programs[row["name"]]
            program.row = row
            program.born = now - row["age"] if row["age"] else 0.0
        self._index()

    def _index(self) -> None:
        """Gather the conditions that every event is held against."""
        self.rules = [
            (program, condition["event"], condition["tokens"])
            for program in self.programs.values()
            for condition in program.setting("on", [])
        ]

    def fire(self, program: Program, cause: str, now: float) -> None:
        """Let an event reload *program* once it is quiet."""
        self.dirty |= program.fire(cause, now, program.settle)

    # -- names

    def named(self, name: str) -> list[Program]:
        """Return the programs that *name* means; ``all`` means those that look like gunicorn."""
        if name == "all":
            return [program for program in self.programs.values() if program.row["likely"]]
        return [program for program in self.programs.values() if _means(name, program)]

    def sender(self, event: Event) -> Iterator[Program]:
        """Return the program that supervisord says an event is of."""
        group, process = event.tokens.get("groupname"), event.tokens.get("processname")
        for program in self.programs.values():
            if (program.row["group"], program.row["process"]) == (group, process):
                yield program

    def waiting_for(self, sender: Program) -> Iterator[Program]:
        """Return the programs that are reloaded ``after`` *sender*."""
        for program in self.programs.values():
            if any(_means(name, sender) for name in program.setting("after", [])):
                yield program

    def may_ask(self, sender: Program, target: Program) -> bool:
        """Tell whether *sender* may ask for a reload of *target*."""
        allowed = target.setting("allow_requests_from", [])
        return sender is target or any(_means(name, sender) for name in allowed)

    def busy_mate(self, program: Program) -> bool:
        """Tell whether another program of its group is being reloaded.

        One whose old generation drains for long holds up no other.
        """
        return any(
            (mate.row["active"] or mate.attempt is not None) and not mate.row["drains_on"]
            for mate in self.mates(program)
        )

    def mates(self, program: Program) -> Iterable[Program]:
        others = self.programs.values()
        return [mate for mate in others if mate.group == program.group and mate is not program]

    # -- exits

    def exits(self, program: Program, now: float) -> list[tuple[str, bool]]:
        """Return the programs it waits for that have exited as expected since the last look.

        :return: names, each with whether its running generation began later.
        """
        found = []
        for told in program.row["after"]:
            key = f"after {told['name']}"
            before = program.stamps.get(key)
            program.stamps[key] = [self._instance, told["count"]]
            if before is None:
                continue
            seen = before[1] if before[:1] == [self._instance] and len(before) == 2 else 0
            if not isinstance(seen, int) or told["count"] > seen:
                found.append((told["name"], now - told["ago"] < program.born))
        return found

    # -- the state file

    def dump(self) -> dict[str, Any]:
        return {
            "boot": boot_id(),
            "instance": self._instance,
            "programs": {name: program.dump() for name, program in self.programs.items()},
        }

    def restore(self, saved: dict[str, Any], now: float) -> bool:
        """Take what an earlier listener has left.

        :return: whether a listener has worked for this supervisord before.
        """
        programs = saved.get("programs")
        boots = saved.get("boot") == boot_id()
        same = boots and saved.get("instance") == self._instance
        if not isinstance(programs, dict):
            return False
        for name, program in list(self.programs.items()):
            if name not in programs:
                continue
            restored = Program(name, program.row, program.born)
            try:
                restored.restore(programs[name], now, boots, same)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                self._say(f"{name}: what an earlier listener has left makes no sense: {error!r}")
            else:
                self.programs[name] = restored
        self._index()
        return same


def _means(name: str, program: Program) -> bool:
    return matches(name, program.row["group"], program.row["process"])
