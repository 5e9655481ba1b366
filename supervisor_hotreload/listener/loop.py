"""Runs the listener's loop: one select over supervisord's events, signals and timers."""

from __future__ import annotations

import os
import select
import signal
import time
import traceback
import xmlrpc.client
from typing import Optional

from supervisor_hotreload.listener import events
from supervisor_hotreload.listener.attempts import FOLLOW_SECONDS, Attempts
from supervisor_hotreload.listener.events import Event
from supervisor_hotreload.listener.inbox import Inbox
from supervisor_hotreload.listener.log import say
from supervisor_hotreload.listener.notify import NotifyCommands
from supervisor_hotreload.listener.roster import Roster
from supervisor_hotreload.listener.rpcclient import NoAnswer, RpcClient, Unauthorized
from supervisor_hotreload.listener.state import StateFile
from supervisor_hotreload.listener.watched_program import WatchedProgram
from supervisor_hotreload.listener.watcher import Watcher

LOOK_SECONDS = 1.0
"""Between two looks at every path."""

MEMORY_SECONDS = 10.0
"""Between two looks at the memory."""

REFRESH_SECONDS = 5.0
"""Until an edit of the configuration is seen, or a reload that an operator started."""

REFRESH_PAUSE_SECONDS = 0.1
"""Between two refreshes that events ask for."""

NO_ANSWER = "supervisord does not answer, the listener goes on asking"

LOCKED_OUT = (
    "NOTHING IS RELOADED UNATTENDED: supervisord refuses this listener; what happens meanwhile is "
    "done once it gets in"
)

UNKNOWN_METHOD = 1
"""supervisor.xmlrpc.Faults.UNKNOWN_METHOD: supervisord has not loaded the plugin."""


class NoPlugin(Exception):
    """supervisord has not loaded hotreload."""


class Listener:
    """Runs the event listener.

    :param state: path of the state file, '' for one in supervisord's own directory.
    """

    def __init__(self, rpc: RpcClient, state: str = "", stdin: int = 0, stdout: int = 1) -> None:
        self._state_path = state
        self._state: Optional[StateFile] = None
        self._roster = Roster(rpc, say)
        self._watcher = Watcher(say)
        self._notify_commands = NotifyCommands()
        self._attempts = Attempts(
            rpc, self._roster, self._watcher, self._notify_commands, self._save
        )
        self._inbox = Inbox(self._roster, self._refresh_soon, self._refresh_again)
        self._stream = events.Stream()
        self._in, self._out = stdin, stdout
        self._rejected = ""  # the serial of the event that was sent back
        self._hup = False
        self._complaint = ""
        self._refreshed_at = 0.0
        self._unseen = 0.0
        self._look_at = self._memory_at = self._refresh_at = 0.0

    def run(self) -> None:
        """Run until supervisord closes our standard input, or TERM or INT comes.

        :raises NoPlugin: when supervisord has not loaded the plugin.
        :raises ProtocolError: when supervisord sends something else than an event.
        """
        wake, waker = os.pipe()
        for end in (wake, waker):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        try:
            self._run_until_ended(wake)
        finally:
            self._notify_commands.close()

    def _run_until_ended(self, wake: int) -> None:
        while True:
            self._do_what_is_due(time.monotonic())
            readable, _, _ = select.select([wake, self._in], [], [], self._pause())
            if wake in readable:
                numbers = os.read(wake, 64)
                if signal.SIGTERM in numbers or signal.SIGINT in numbers:
                    return
                self._hup |= signal.SIGHUP in numbers
            if self._in in readable and not self._read():
                return

    def _pause(self) -> float:
        """Return the seconds until there is something to do."""
        times = [self._look_at, self._memory_at, self._refresh_at]
        if self._state is None:
            times = [self._refresh_at]
        for program in self._roster.programs.values():
            when = program.next_attempt()
            if when is not None:
                times.append(when)
        return max(0.0, min(times) - time.monotonic())

    # -- supervisord's events

    def _read(self) -> bool:
        """Take the events that supervisord has written; return False at the end of its pipe."""
        data = os.read(self._in, 1 << 16)
        if not data:
            return False
        self._stream.feed(data)
        while True:
            event = self._stream.next()
            if event is None:
                return True
            try:
                os.write(self._out, self._answer(event) + events.READY)
            except BrokenPipeError:
                return False

    def _answer(self, event: Event) -> bytes:
        """Take *event* and return the answer; after a first FAIL supervisord sends it again."""
        serial = event.headers.get("serial", "")
        try:
            self._inbox.take(event, time.monotonic())
            self._save()
        except Exception:  # noqa: BLE001 - without an answer supervisord sends no other event
            say(f"an error inside the listener, in {event.name}: {traceback.format_exc()}")
            if serial != self._rejected:
                self._rejected = serial
                return events.FAIL
        return events.OK

    def _refresh_soon(self) -> None:
        self._refresh_at = min(self._refresh_at, self._refreshed_at + REFRESH_PAUSE_SECONDS)

    # -- what is due

    def _do_what_is_due(self, now: float) -> None:
        if now >= self._refresh_at:
            self._refresh(now)
        if self._state is None:
            return
        if self._hup:
            self._hup = False
            self._on_hup(now)
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            for program in self._roster.programs.values():
                self._roster.dirty |= self._watcher.look(program, now, self._unseen)
            self._unseen = 0.0
            self._notify_commands.look(now)
        if now >= self._memory_at:
            self._memory_at = now + MEMORY_SECONDS
            for program in self._roster.programs.values():
                self._roster.dirty |= self._watcher.check_memory(program, now)
        for program in list(self._roster.programs.values()):
            when = program.next_attempt()
            if when is not None and now >= when:
                self._try(program, now)
        self._save()

    def _try(self, program: WatchedProgram, now: float) -> None:
        """Refresh what is known, then ask for the planned reload of *program*."""
        if not self._refresh(now):
            program.hold = now + LOOK_SECONDS
        elif program.name in self._roster.programs:
            self._attempts.try_reload(program, now)
        self._refresh_at = min(self._refresh_at, now + FOLLOW_SECONDS)

    def _on_hup(self, now: float) -> None:
        if not self._roster.sighup:
            say("HUP: nothing is reloaded, 'reload_on_sighup' in [rpcinterface:hotreload] is empty")
        for name in self._roster.sighup:
            programs = self._roster.named(name)
            if not programs:
                say(f"reload_on_sighup = {name}: no such program")
            for program in programs:
                self._roster.trigger(program, "HUP to the listener", now)

    def _refresh(self, now: float) -> bool:
        """Ask supervisord how things are; return False when it does not answer.

        :raises NoPlugin: when it has not loaded the plugin.
        """
        self._refreshed_at = now
        self._refresh_at = now + REFRESH_SECONDS
        try:
            self._roster.refresh(now)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == UNKNOWN_METHOD:
                raise NoPlugin from None
            return self._complain(f"{NO_ANSWER}: {fault.faultString}", now)
        except Unauthorized as error:
            return self._complain(f"{LOCKED_OUT}: {error}", now)
        except NoAnswer as error:
            return self._complain(f"{NO_ANSWER}: {error}", now)
        self._complaint = ""
        if self._state is None:
            self._begin(now)
        for program in self._roster.programs.values():
            self._attempts.follow(program, now)
            if program.row["active"] or program.attempt is not None:
                self._refresh_at = now + FOLLOW_SECONDS
        return True

    def _refresh_again(self) -> None:
        """Ask supervisord now, unless that has only just been done."""
        now = time.monotonic()
        if now - self._refreshed_at > REFRESH_PAUSE_SECONDS:
            self._refresh(now)

    def _complain(self, text: str, now: float) -> bool:
        if text != self._complaint:
            self._complaint = text
            say(text)
        self._refresh_at = now + LOOK_SECONDS
        return False

    def _begin(self, now: float) -> None:
        """Take over what an earlier listener has saved, and ask supervisord for events."""
        self._state = StateFile(self._state_path or self._roster.state_file, say)
        if not self._roster.restore(self._state.read(), now):
            self._unseen = self._roster.listener_age
        self._roster.dirty = True
        os.write(self._out, events.READY)

    def _save(self) -> None:
        if self._roster.dirty and self._state is not None:
            self._roster.dirty = False
            self._state.write(self._roster.dump())
