"""What supervisord's events mean for the programs."""

from __future__ import annotations

from typing import Callable, Optional

from supervisor_hotreload.listener.events import Event
from supervisor_hotreload.listener.log import say
from supervisor_hotreload.listener.program import Program
from supervisor_hotreload.listener.roster import Roster

REFUSALS = 100
"""Refused requests that are remembered, so that each is logged once."""


class Inbox:
    """Lets programs fire for the events that reload them.

    :param prompt: called when supervisord should be asked soon how things are.
    :param refresh: asks it now, unless that has only just been done.
    """

    def __init__(
        self, roster: Roster, prompt: Callable[[], None], refresh: Callable[[], None]
    ) -> None:
        self._roster = roster
        self._prompt = prompt
        self._refresh = refresh
        self._serial: Optional[int] = None
        self._refused: set[tuple[str, str]] = set()

    def take(self, event: Event, now: float) -> None:
        self._count(event)
        if event.name == "REMOTE_COMMUNICATION" and event.tokens.get("type") == "hotreload":
            self._request_from_afar(event.data.strip(), now)
        elif event.is_a("PROCESS_COMMUNICATION"):
            self._request_of_program(event, now)
        elif event.is_a("PROCESS_STATE") or event.is_a("PROCESS_HOTRELOAD"):
            self._state_of_program(event)
        for program, family, tokens in self._roster.rules:
            if event.is_a(family) and all(event.says(*token) for token in tokens.items()):
                senders = self._roster.sender(event) if event.is_a("PROCESS_HOTRELOAD") else ()
                if program not in senders:  # its reload would be followed by its reload
                    self._roster.fire(program, f"on = {event.name}", now)

    def _count(self, event: Event) -> None:
        """Notice when supervisord had to throw events away; most is found out without them."""
        try:
            serial = int(event.headers["poolserial"])
        except (KeyError, ValueError):
            return
        if self._serial is not None and serial > self._serial + 1:
            say(
                f"supervisord has discarded {serial - self._serial - 1} events: set a larger "
                f"buffer_size in the section of this listener"
            )
            self._prompt()
        if self._serial is None or serial > self._serial:
            self._serial = serial

    def _request_from_afar(self, name: str, now: float) -> None:
        """Who may use supervisord's XML-RPC may ask for any program."""
        targets = self._known(lambda: self._roster.named(name))
        if not targets:
            say(f"a remote event asks for {name!r:.100}: no such program")
        for program in targets:
            self._roster.fire(program, "a remote event", now)

    def _request_of_program(self, event: Event, now: float) -> None:
        """A program asks, for itself if it names none; supervisord tells who it is."""
        word, _, name = event.data.strip().partition(" ")
        if word != "hotreload":
            return  # another listener's
        for sender in self._known(lambda: list(self._roster.sender(event))):
            targets = self._roster.named(name) if name else [sender]
            allowed = [target for target in targets if self._roster.may_ask(sender, target)]
            for program in allowed:
                self._roster.fire(program, f"{sender.name} asks", now)
            if not allowed and (sender.name, name) not in self._refused:
                self._refused = {*list(self._refused)[:REFUSALS], (sender.name, name)}
                say(
                    f"{sender.name} asks for {name!r:.100}: refused, 'allow_requests_from' of no "
                    f"such program names it"
                )

    def _known(self, find: Callable[[], list[Program]]) -> list[Program]:
        """Return what *find* finds; it may be a program that has just been added."""
        found = find()
        if not found:
            self._refresh()
            found = find()
        return found

    def _state_of_program(self, event: Event) -> None:
        senders = list(self._roster.sender(event))
        planned = [sender for sender in senders if not sender.idle]
        if planned or not senders or event.is_a("PROCESS_HOTRELOAD"):
            self._prompt()
        if event.name != "PROCESS_STATE_EXITED":
            return
        for sender in senders:
            for program in self._roster.waiting_for(sender):
                if event.tokens.get("expected") == "1":
                    self._prompt()  # the plugin has counted it
                else:
                    say(f"{program.name}: after = {sender.name}: it failed, no reload")
