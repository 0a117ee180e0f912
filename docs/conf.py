"""The documentation site: Sphinx reads the Markdown of this folder and the docstrings of the code.

`make docs` builds it, strictly: a warning, such as a link that leads nowhere, is an error. The front page is the
README, so nothing is written twice. The API reference is made by sphinx-autoapi, which parses the source: no torch is
needed. Only `fd_scale.api` is imported, which imports nothing heavy; its functions are described as `help` does.
"""

import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
REPOSITORY = DOCS.parent
sys.path[:0] = [str(DOCS), str(REPOSITORY)]

from site_text import code_blocks_of_docstring, links_of_page  # noqa: E402  it lies beside this file

project = "fd_scale"
copyright = "the fd_scale authors, Apache-2.0"
release = re.search(r'__version__ = "(.+?)"', (REPOSITORY / "fd_scale/__init__.py").read_text())[1]  # type: ignore[index]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "autoapi.extension"]
exclude_patterns = ["_build"]

myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]
# Docstrings put code into single backticks.
default_role = "code"

autoapi_dirs = [str(REPOSITORY / "fd_scale")]
autoapi_root = "api"
autoapi_generate_api_docs = False
autoapi_add_toctree_entry = False
autoapi_options = ["members", "show-module-summary"]
autoapi_python_class_content = "both"
autoapi_member_order = "bysource"
autoapi_template_dir = "_templates"
autoapi_keep_files = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# autoapi looks for constants that are bound in a loop or by a tuple, and does not find them.
suppress_warnings = ["autoapi.python_import_resolution"]

html_theme = "furo"
html_title = "fd_scale"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False


def _read(app: Any, page: str, text: list[str]) -> None:
    """The front page is the README and then its own table of contents; links out of the site become names of files."""
    source = DOCS / f"{page}.md"
    if page == "index":
        text[0] = links_of_page((REPOSITORY / "README.md").read_text(), REPOSITORY, DOCS) + "\n\n" + text[0]
    elif source.exists():
        text[0] = links_of_page(text[0], source.parent, DOCS)


def _docstring(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    lines[:] = code_blocks_of_docstring(lines)


def _skip(app: Any, what: str, name: str, thing: Any, skip: bool, options: Any) -> bool:
    """What a module imports is described where it is at home."""
    return skip or getattr(thing, "imported", False)


def setup(app: Any) -> None:
    app.connect("autodoc-skip-member", _skip)
    app.connect("source-read", _read)
    app.connect("autodoc-process-docstring", _docstring, priority=100)  # before napoleon
