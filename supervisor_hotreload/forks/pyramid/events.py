"""The Pyramid events, as pyramid_forksafe names them; for `config.add_subscriber`."""
# mypy: disable-error-code="import-untyped,import-not-found,misc"
# (zope.interface ships no type information, its decorators are Any)

from __future__ import annotations

from typing import Any, Optional

from zope.interface import implementer

from ..events import ForkEvent
from .interfaces import IApplicationPostFork, IApplicationPostWorkerInit, IApplicationPreFork

__all__ = ["ApplicationPostFork", "ApplicationPostWorkerInit", "ApplicationPreFork"]


class _ApplicationEvent:
    """`registry` is the application's; `fork` is the fork event, with pids and worker."""

    def __init__(self, registry: Any, fork: Optional[ForkEvent] = None) -> None:
        self.registry = registry
        self.fork = fork


@implementer(IApplicationPreFork)
class ApplicationPreFork(_ApplicationEvent):
    """Sent in the master, just before a worker is forked."""


@implementer(IApplicationPostFork)
class ApplicationPostFork(_ApplicationEvent):
    """Sent in the worker, just after it was forked."""


@implementer(IApplicationPostWorkerInit)
class ApplicationPostWorkerInit(_ApplicationEvent):
    """Sent in the worker, when the application is initialized."""
