"""The interfaces of the Pyramid events, as pyramid_forksafe names them."""
# mypy: disable-error-code="import-untyped,import-not-found,misc"
# (zope.interface ships no type information, its classes are Any)

from __future__ import annotations

from zope.interface import Attribute, Interface

__all__ = ["IApplicationPostFork", "IApplicationPostWorkerInit", "IApplicationPreFork"]


class IApplicationPreFork(Interface):
    """Sent in the master, just before a worker is forked."""

    registry = Attribute("The application's registry")


class IApplicationPostFork(Interface):
    """Sent in the worker, just after it was forked."""

    registry = Attribute("The application's registry")


class IApplicationPostWorkerInit(Interface):
    """Sent in the worker, when the application is initialized."""

    registry = Attribute("The application's registry")
