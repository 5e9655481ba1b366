"""pyramid_forksafe 0.2's documented examples, with nothing but the import changed."""

from __future__ import annotations

import gc
import importlib
import json
import pathlib
import re
import signal
from typing import Any

import pytest
from conftest import Start
from pyramid import testing
from pyramid.request import Request
from pyramid.response import Response
from zope.interface.verify import verifyObject

from supervisor_hotreload.forks import PostFork, events
from tests.harness.forkservers import Server, gunicorn, tool, uwsgi, write, write_recorder

PACKAGE = "supervisor_hotreload.forks.pyramid"

# The documented usage: a hook for each event, subscribed by config.add_subscriber.
SHOP = """
import json
import os
import recorder
from pyramid.config import Configurator
from pyramid.response import Response
from pyramid_forksafe.events import ApplicationPostFork
from pyramid_forksafe.events import ApplicationPostWorkerInit
from pyramid_forksafe.events import ApplicationPreFork

def hook(event):
    recorder.note(type(event).__name__, secret=event.registry.settings["secret"])

def debug(request):
    debug = dict(request.registry.pyramid_forksafe)
    debug["executed_hooks"] = sorted(debug["executed_hooks"])
    return Response(json.dumps(debug))

def main(global_config, **settings):
    config = Configurator(settings=settings)
    for event in (ApplicationPreFork, ApplicationPostFork, ApplicationPostWorkerInit):
        config.add_subscriber(hook, event)
    config.add_route("debug", "/")
    config.add_view(debug, route_name="debug")
    app = config.make_wsgi_app()
    if "MARK" in os.environ:
        from pyramid_forksafe.containers.gunicorn import mark_configured
        mark_configured(config.registry)
    return app
"""
INI = """
[app:main]
paste.app_factory = shop:main
pyramid.includes = {includes}
secret = of the settings
"""
CONFIG_PY = """
from pyramid_forksafe.containers.gunicorn import (
    pre_fork,
    post_fork,
    post_worker_init,
)
"""
WITHOUT_MASTER = "uWSGI error: you have to enable the uWSGI master process to use this module"


def switch(text: str) -> str:
    """What an app has to do: replace the package's name."""
    return text.replace("pyramid_forksafe.", f"{PACKAGE}.").replace(
        f"registry.{PACKAGE}.", "registry.pyramid_forksafe."
    )


def write_shop(
    directory: pathlib.Path, config: str = CONFIG_PY, includes: str = PACKAGE
) -> list[str]:
    """Write the app and its ini file; return gunicorn's command."""
    write_recorder(directory)
    write(directory, shop=switch(SHOP), conf=switch(config))
    (directory / "production.ini").write_text(INI.format(includes=includes))
    return gunicorn(directory, "--paste", "production.ini")[:-1]


def on_uwsgi(directory: pathlib.Path, *options: str, includes: str = PACKAGE) -> list[str]:
    write_shop(directory, includes=includes)
    ini = f"config:{directory / 'production.ini'}"
    return uwsgi(directory, "--pythonpath", str(directory), "--paste", ini, *options)


def debug_object(server: Server) -> dict[str, Any]:
    return json.loads(server.wait_for_answer())  # type: ignore[no-any-return]


def pyramid_events(server: Server) -> list[tuple[str, bool]]:
    """The Pyramid events in their order, and whether each was sent in the master."""
    received = [event for event in server.events() if event["what"].startswith("Application")]
    assert {event["secret"] for event in received} <= {"of the settings"}
    return [(event["what"], event["pid"] == server.pid) for event in received]


ALL = [
    ("ApplicationPreFork", True),
    ("ApplicationPostFork", False),
    ("ApplicationPostWorkerInit", False),
]
ALL_HOOKS = [
    ["containers.gunicorn.post_fork", "ApplicationPostFork"],
    ["containers.gunicorn.post_worker_init", "ApplicationPostWorkerInit"],
    ["containers.gunicorn.pre_fork", "ApplicationPreFork"],
]


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["", "preload"])
def test_gunicorn_sends_the_three_events(
    options: tuple[str, ...], tmp_path: pathlib.Path, start: Start
) -> None:
    server = start([*write_shop(tmp_path), *options], MARK="1")
    assert debug_object(server) == {
        "status": "gunicorn mark_configured",
        "environment": "gunicorn",
        "autoconfigure.log": ["uWSGI not available", "gunicorn mark_configured"],
        "executed_hooks": ALL_HOOKS,
    }
    assert pyramid_events(server) == ALL


def test_a_single_hook_is_enough(tmp_path: pathlib.Path, start: Start) -> None:
    config = "from pyramid_forksafe.containers.gunicorn import post_fork\n"
    server = start(write_shop(tmp_path, config))
    server.wait_for_answer()
    assert pyramid_events(server) == [("ApplicationPostFork", False)]


def test_the_include_of_the_container_alone(tmp_path: pathlib.Path, start: Start) -> None:
    server = start(write_shop(tmp_path, includes=f"{PACKAGE}.containers.gunicorn"))
    debug = debug_object(server)
    assert debug["autoconfigure.log"] == []
    assert debug["executed_hooks"] == ALL_HOOKS
    assert pyramid_events(server) == ALL


@pytest.mark.parametrize("hooks", ["", CONFIG_PY], ids=["install", "hooks and install"])
def test_the_generic_hooks_serve_pyramid_too(
    hooks: str, tmp_path: pathlib.Path, start: Start
) -> None:
    generic = "from supervisor_hotreload.forks.gunicorn import install\ninstall(globals())\n"
    server = start([*write_shop(tmp_path, hooks + generic), "--preload"])
    server.wait_for_answer()
    assert pyramid_events(server) == ALL, "each event once"


def test_the_generic_hooks_do_not_load_the_app_in_the_master(
    tmp_path: pathlib.Path, start: Start
) -> None:
    generic = "from supervisor_hotreload.forks.gunicorn import install\ninstall(globals())\n"
    server = start(write_shop(tmp_path, generic))
    server.wait_for_answer()
    assert pyramid_events(server) == ALL[1:]
    server.signal(signal.SIGTERM)
    assert server.wait_for_exit() == 0


UWSGI_CONFIGURED = {
    "status": "uWSGI hook configured",
    "environment": "uWSGI",
    "autoconfigure.log": ["uWSGI available", "uWSGI hook configured"],
    "executed_hooks": [["containers.uwsgi.post_fork_hook", "ApplicationPostFork"]],
}


@pytest.mark.parametrize("includes", [PACKAGE, f"{PACKAGE}.containers.uwsgi"])
@pytest.mark.parametrize("options", [(), ("--lazy-apps",)], ids=["", "lazy-apps"])
def test_uwsgi_sends_post_fork(
    options: tuple[str, ...], includes: str, tmp_path: pathlib.Path, start: Start
) -> None:
    server = start(on_uwsgi(tmp_path, "--master", *options, includes=includes))
    assert debug_object(server) == UWSGI_CONFIGURED
    assert pyramid_events(server) == [("ApplicationPostFork", False)]


def test_uwsgi_without_its_master_is_said(tmp_path: pathlib.Path, start: Start) -> None:
    server = start(on_uwsgi(tmp_path))
    assert debug_object(server) == {
        "status": "uWSGI error",
        "environment": None,
        "autoconfigure.log": [WITHOUT_MASTER],
        "executed_hooks": [],
    }
    assert WITHOUT_MASTER in server.log
    assert pyramid_events(server) == []


WAITRESS = """
import logging
from pyramid.paster import get_app
logging.basicConfig(level=logging.INFO)
application = get_app("production.ini")
"""


def test_a_server_that_does_not_fork_is_said(tmp_path: pathlib.Path, start: Start) -> None:
    write_shop(tmp_path)
    write(tmp_path, serve=WAITRESS)
    server = start(
        [tool("waitress-serve"), f"--unix-socket={tmp_path / 'web.sock'}", "serve:application"]
    )
    assert debug_object(server) == {
        "status": "attempting auto-configure",
        "environment": None,
        "autoconfigure.log": ["uWSGI not available"],
        "executed_hooks": [],
    }
    assert "a server that does not fork sends none" in server.log
    assert pyramid_events(server) == []


# Every public name of pyramid_forksafe 0.2.0.
NAMES = {
    "": ["includeme", "registry_setup"],
    ".events": ["ApplicationPostFork", "ApplicationPostWorkerInit", "ApplicationPreFork"],
    ".interfaces": ["IApplicationPostFork", "IApplicationPostWorkerInit", "IApplicationPreFork"],
    ".containers.gunicorn": ["mark_configured", "post_fork", "post_worker_init", "pre_fork"],
    ".containers.uwsgi": ["configure", "includeme"],
    ".debugtoolbar": ["includeme"],
    ".debugtoolbar.panels.forksafe": ["PyramidForksafeDebugPanel"],
}


@pytest.mark.parametrize("module", NAMES)
def test_the_names_are_kept(module: str) -> None:
    found = importlib.import_module(PACKAGE + module)
    assert [name for name in NAMES[module] if not callable(getattr(found, name))] == []


@pytest.mark.parametrize("name", NAMES[".events"])
def test_an_event_has_its_registry_and_interface(name: str) -> None:
    event = getattr(importlib.import_module(f"{PACKAGE}.events"), name)("a registry")
    assert event.registry == "a registry"
    interface = getattr(importlib.import_module(f"{PACKAGE}.interfaces"), f"I{name}")
    assert verifyObject(interface, event)


@pytest.mark.parametrize("included", [True, False])
def test_the_toolbar_has_a_panel(included: bool) -> None:
    with testing.testConfig() as config:
        config.add_settings({"debugtoolbar.includes": [f"{PACKAGE}.debugtoolbar"]})
        config.include("pyramid_debugtoolbar")
        if included:
            config.include(PACKAGE)
            config.registry.pyramid_forksafe["<script>"] = "<b>"
        config.add_view(lambda request: Response("<html><head></head><body>OK</body></html>"))
        app = config.make_wsgi_app()
        page = Request.blank("/", remote_addr="127.0.0.1").get_response(app).text
        link = re.search(r'href="http://localhost(/_debug_toolbar/\d+)"', page)
        assert link, page
        toolbar = Request.blank(link[1], remote_addr="127.0.0.1").get_response(app).text
    assert '<li class="" id="pDebugPanel-Forksafe">' in toolbar
    assert re.search(r"<h3>\s*Forksafe\s*</h3>", toolbar)
    shown = "attempting auto-configure" if included else "<pre>None</pre>"
    assert shown in toolbar
    assert ("&lt;script&gt;" in toolbar) == included
    assert "<b>" not in toolbar


def test_a_registry_that_is_gone_is_forgotten() -> None:
    gc.collect()  # those of other tests
    before = len(events._subscriptions[PostFork])
    with testing.testConfig() as config:
        config.include(PACKAGE)
        app = config.make_wsgi_app()
        assert len(events._subscriptions[PostFork]) == before + 1
    del app, config
    gc.collect()
    assert len(events._subscriptions[PostFork]) == before


def test_an_app_in_middleware_gets_its_events(tmp_path: pathlib.Path, start: Start) -> None:
    command = write_shop(tmp_path)
    shop = (tmp_path / "shop.py").read_text()
    wrapped = "return lambda environ, start_response: app(environ, start_response)"
    (tmp_path / "shop.py").write_text(shop.replace("return app\n", f"{wrapped}\n"))
    server = start(command)
    server.wait_for_answer()
    assert pyramid_events(server) == ALL
