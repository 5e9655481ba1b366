"""Plans reloads by what supervisord's events mean for the programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Optional

from supervisor_hotreload.listener.events import Event
from supervisor_hotreload.listener.log import say
from supervisor_hotreload.listener.roster import Roster
from supervisor_hotreload.listener.watched_program import WatchedProgram

MAX_REFUSALS = 100
"""Refused requests that are remembered, so that each is logged once."""


@dataclass
class Inbox:
    """Plans a reload for each event that is a trigger of a program.

    :param refresh_soon: lets the listener ask supervisord soon how things are.
    :param refresh: asks at once, unless that has only just been done.
    """

    roster: Roster
    refresh_soon: Callable[[], None]
    refresh: Callable[[], None]
    _serial: Optional[int] = None
    _refused: set[tuple[str, str]] = field(default_factory=set)

    def take(self, event: Event, now: float) -> None:
        self._notice_lost_events(event)
        if event.name == "REMOTE_COMMUNICATION" and event.tokens.get("type") == "hotreload":
            self._on_remote_request(event.data.strip(), now)
        elif event.is_a("PROCESS_COMMUNICATION"):
            self._on_program_request(event, now)
        elif event.is_a("PROCESS_STATE") or event.is_a("PROCESS_HOTRELOAD"):
            self._on_state(event)
        for program, family, tokens in self.roster.rules:
            if event.is_a(family) and all(event.has(*token) for token in tokens.items()):
                senders = self.roster.senders(event) if event.is_a("PROCESS_HOTRELOAD") else ()
                if program not in senders:  # else its reloads would never end
                    self.roster.trigger(program, f"on = {event.name}", now)

    def _notice_lost_events(self, event: Event) -> None:
        """Notice when supervisord had to discard events. Most changes are seen without them."""
        try:
            serial = int(event.headers["poolserial"])
        except (KeyError, ValueError):
            return
        if self._serial is not None and serial > self._serial + 1:
            say(
                f"supervisord has discarded {serial - self._serial - 1} events: set a larger "
                f"buffer_size in the section of this listener"
            )
            self.refresh_soon()
        if self._serial is None or serial > self._serial:
            self._serial = serial

    def _on_remote_request(self, name: str, now: float) -> None:
        """Trigger the program that a remote event names; its sender may name any program."""
        targets = self._known(lambda: self.roster.named(name))
        if not targets:
            say(f"a remote event asks for {name!r:.100}: no such program")
        for program in targets:
            self.roster.trigger(program, "a remote event", now)

    def _on_program_request(self, event: Event, now: float) -> None:
        """Trigger the program that a program names, or the program itself if it names none.

        supervisord says in the event which program has sent it.
        """
        word, _, name = event.data.strip().partition(" ")
        if word != "hotreload":
            return  # it is for another listener
        for sender in self._known(lambda: self.roster.senders(event)):
            targets = self.roster.named(name) if name else [sender]
            allowed = [target for target in targets if self.roster.may_request(sender, target)]
            for program in allowed:
                self.roster.trigger(program, f"{sender.name} asks", now)
            if not allowed and (sender.name, name) not in self._refused:
                self._refused = {*list(self._refused)[:MAX_REFUSALS], (sender.name, name)}
                say(
                    f"{sender.name} asks for {name!r:.100}: refused: no such program names "
                    f"{sender.name} in its allow_requests_from"
                )

    def _known(self, find: Callable[[], list[WatchedProgram]]) -> list[WatchedProgram]:
        """Return what *find* finds, if need be after a refresh: a program may be new."""
        found = find()
        if not found:
            self.refresh()
            found = find()
        return found

    def _on_state(self, event: Event) -> None:
        senders = self.roster.senders(event)
        is_planned = any(not sender.is_idle for sender in senders)
        if is_planned or not senders or event.is_a("PROCESS_HOTRELOAD"):
            self.refresh_soon()
        if event.name != "PROCESS_STATE_EXITED":
            return
        for sender in senders:
            for program in self.roster.waiting_for(sender):
                if event.tokens.get("expected") == "1":
                    self.refresh_soon()  # supervisord's answer has the number of exits
                else:
                    say(f"{program.name}: after = {sender.name}: no reload: {sender.name} failed")
