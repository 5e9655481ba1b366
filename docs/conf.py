"""The Sphinx build of these pages: ``make docs``.

The pages link to each other by file name (``servers.rst``), so that the links work where a git
host shows the files as they lie. Here each such link becomes a link to the built page, and one
that leads nowhere is a warning. ``make docs`` treats warnings as errors.
"""

from __future__ import annotations

import pathlib
import posixpath
import re
from typing import Any
from urllib.parse import urlsplit

from docutils import nodes
from sphinx.util import logging

HERE = pathlib.Path(__file__).parent
PACKAGE = HERE.parent / "supervisor_hotreload"

project = "supervisor_hotreload"
release = re.search(  # type: ignore[union-attr] # a package without a version is an error here
    r'^__version__ = "(.+)"$', (PACKAGE / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE
).group(1)
version = release
exclude_patterns = ["_build", "examples"]
html_theme = "alabaster"
html_theme_options = {"page_width": "1080px", "nosidebar": False}
html_show_copyright = False
html_copy_source = False

logger = logging.getLogger(__name__)


def link_pages(app: Any, doctree: nodes.document, page: str) -> None:
    """Turn each link to a file of the repository into one to the page that is made of it."""
    for node in doctree.findall(nodes.reference):
        target = urlsplit(node.get("refuri", ""))
        if target.scheme or target.netloc or not target.path.endswith(".rst"):
            continue
        # the README and the changes are included from the folder above
        name = posixpath.basename(target.path)[: -len(".rst")].lower()
        name = {"readme": "index"}.get(name, name)
        if name not in app.env.found_docs:
            logger.warning("no page for the link %s", target.geturl(), location=node)
            continue
        node["refuri"] = app.builder.get_relative_uri(page, name)
        if target.fragment:
            if target.fragment not in app.env.get_doctree(name).ids:
                logger.warning("no section for the link %s", target.geturl(), location=node)
            node["refuri"] += f"#{target.fragment}"


def setup(app: Any) -> dict[str, bool]:
    """Connect the links."""
    app.connect("doctree-resolved", link_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
