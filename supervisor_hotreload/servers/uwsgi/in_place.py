"""Judges a reload of uWSGI by the kernel, the stats server and uWSGI's own output."""

from __future__ import annotations

from typing import Any, Callable, Optional

from supervisor_hotreload.core.model import Failure, Fault, Policy, Progress, Readiness
from supervisor_hotreload.core.text import printable
from supervisor_hotreload.servers.generation import AcceptingGeneration
from supervisor_hotreload.servers.in_place import InPlaceReload
from supervisor_hotreload.servers.readiness import Verdict
from supervisor_hotreload.servers.uwsgi.stats import Stats
from supervisor_hotreload.system.world import World

BROKEN = "unable to load app"
EMPTY = "no app loaded. going in full dynamic mode"
"""What uWSGI prints when the application cannot be loaded, and when there is none."""

FIRST_ANSWER_SECONDS = 1.0
"""How long the stats server has to answer before the master is asked for a reload."""

LAST_ANSWER_SECONDS = 10.0
"""How long the stats server may be silent afterwards: it refuses while uWSGI execs itself."""


class UwsgiInPlace(InPlaceReload):
    """One reload of one uWSGI.

    The kernel says which workers accept. The stats server says which of them have an
    application; without one, uWSGI's output says that loading has failed.

    :param stats: the stats server that the master holds, if any.
    :param name: the program's.
    :param has_app: an application is configured.
    """

    forks_first = False  # a worker that finishes a request still has the socket in its epoll set

    def __init__(
        self,
        world: World,
        old: AcceptingGeneration,
        policy: Policy,
        ask: Callable[[], object],
        stats: Optional[Stats],
        name: str,
        has_app: bool,
    ) -> None:
        super().__init__(world, old, policy, ask)
        self._name = name
        self._is_chain = policy.strategy == "chain"
        self._stats = stats
        self._has_app = has_app
        self._ask_by: Optional[float] = None
        self._accepting: Verdict = Progress("")
        self._confirmed_at = 0.0

    def renew(self) -> None:
        """Ask the master for new workers; first ask a stats server what is served now."""
        self._must_live()
        if self._stats is None:
            super().renew()
        else:
            self._ask_by = self._world.now() + FIRST_ANSWER_SECONDS

    def renewed(self) -> Verdict:
        """Return Readiness when the new workers accept and have their application.

        :raises Failure: when the application could not be loaded.
        """
        if self._ask_by is not None and self._stats is not None:
            return self._ask_after(self._stats, self._ask_by)
        if self._stats is None:
            self._must_have_loaded()
        if not self._accepting:
            self._accepting, self._confirmed_at = super().renewed(), self._world.now()
            # look once more in any case: uWSGI may have printed something meanwhile
            return Progress(self._accepting.text) if self._accepting else self._accepting
        self._must_live()
        if self._stats is None:
            return self._accepting
        workers = self._stats.look()
        if workers is not None:
            self._confirmed_at = self._world.now()
            return self._judge(workers)
        if self._world.now() - self._confirmed_at > LAST_ANSWER_SECONDS:
            self._must_have_loaded()
            return self._accepting
        return Progress(f"{self._accepting.text}, the stats server is asked")

    def _ask_after(self, stats: Stats, deadline: float) -> Progress:
        """Ask the master once the stats server has said whether there is an application."""
        workers = stats.look()
        if workers is None and self._world.now() < deadline:
            return Progress("the stats server is asked what is served now")
        if workers is not None:
            self._has_app = any(worker.get("apps") for worker in workers)
            self._must_not_be_paused(workers)
        stats.close()
        self._ask_by = None
        super().renew()
        return Progress("the master was asked")

    def _must_not_be_paused(self, workers: list[dict[str, Any]]) -> None:
        """Refuse a chain reload of paused workers: their successors are paused too
        (core/master_utils.c)."""
        if self._is_chain and any(worker.get("status") == "pause" for worker in workers):
            raise Failure(
                Fault.NOT_RELOADABLE,
                f"{self._name} is paused (the stats server says so), and new workers would be "
                f"paused too; nothing was sent: resume it with 'supervisorctl signal TSTP "
                f"{self._name}'",
            )

    def _must_have_loaded(self) -> None:
        """Fail when uWSGI prints that it could not load the application (uwsgi_init_all_apps)."""
        words = (BROKEN, EMPTY) if self._has_app else (BROKEN,)
        said = next((line for line in self.output if any(word in line for word in words)), None)
        if said is not None:
            raise Failure(
                Fault.NOT_READY,
                f"uWSGI says: {printable(said.strip())[:200]}: the new code cannot be loaded, and "
                f"its workers answer with errors",
            )

    def _judge(self, workers: list[dict[str, Any]]) -> Verdict:
        """Judge the new workers that accept; the others may still load their application.

        ``accepting`` is 1 once a worker has tried to load, even without an application
        (core/uwsgi.c, uwsgi_worker_run).
        """
        live = {c.pid for c in self._world.children(self.master) if c not in self._old.children}
        new = [w for w in workers if w["pid"] in live and w.get("accepting")]
        empty = [w for w in new if not w.get("apps")]
        if empty and self._has_app:
            raise Failure(
                Fault.NOT_READY,
                f"{len(empty)} of {len(new)} new workers have no application (the stats server "
                f"says so): the new code cannot be loaded, and they answer with errors",
            )
        wanted = self._accepting.workers if isinstance(self._accepting, Readiness) else 1
        if len(new) < max(wanted, 1):
            total = max(self._old.workers, len(new))
            text = f"{len(new)}/{total} workers have their application"
            return Progress(text, len(new), total)
        return Readiness(len(new))
