"""The documentation site: Sphinx reads the Markdown of this folder and the docstrings of the code, and imports no code.

`make docs` builds it, strictly: a warning, such as a link that leads nowhere, is an error. The front page is the
README, so nothing is written twice. sphinx-autoapi makes the API reference by parsing the source: no torch is needed.
"""

import re
import sys
from pathlib import Path
from typing import Any

from sphinx.ext import napoleon
from sphinx.ext.napoleon import GoogleDocstring

DOCS = Path(__file__).resolve().parent
REPOSITORY = DOCS.parent
sys.path.insert(0, str(DOCS))

from site_text import described_parameters, links_of_page, short_signature, structured  # noqa: E402  it lies beside this file

project = "fd_scale"
copyright = "the fd_scale authors, Apache-2.0"
release = re.search(r'__version__ = "(.+?)"', (REPOSITORY / "fd_scale/__init__.py").read_text())[1]  # type: ignore[index]
extensions = ["myst_parser", "autoapi.extension"]
exclude_patterns = ["_build"]

myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]
# Docstrings put code into single backticks.
default_role = "code"

autoapi_dirs = [str(REPOSITORY / "fd_scale")]
autoapi_root = "api"
autoapi_generate_api_docs = False
autoapi_add_toctree_entry = False
autoapi_python_class_content = "both"
autodoc_member_order = "bysource"
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
suppress_warnings = [
    "autoapi.python_import_resolution",  # it does not find constants that are bound by a tuple, and shows none of them
    "ref.python",  # `bytes` in a signature is Python's, and also the name of a field
]

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
    """Google's sections, but not for fields: there `a: b` is a sentence, and no type with its description."""
    lines[:] = structured(lines)
    if what not in ("attribute", "data", "property"):
        lines[:] = GoogleDocstring(
            lines, napoleon.Config(napoleon_use_ivar=True), app, what, name, thing, options
        ).lines()


def _signature(app: Any, what: str, name: str, thing: Any, options: Any, arguments: str | None, result: str) -> Any:
    if what not in ("apifunction", "apimethod") or arguments is None:
        return None
    if what == "apifunction":  # the one event that has the parameters; the docstring is read after it
        thing.docstring += described_parameters(thing.obj["args"])
    whole = short_signature(f"{arguments} -> {result}" if result else arguments)
    return tuple(whole.split(" -> ")) if result else (whole, "")


def _skip(app: Any, what: str, name: str, thing: Any, skip: bool, options: Any) -> bool:
    """Leave out what a module imports, but for the verbs in `fd_scale.api`, and constants of which nothing is said."""
    imported = thing.imported and not str(thing.obj.get("original_path")).startswith("fd_scale.verbs.")
    return skip or imported or (thing.type == "data" and not thing.docstring)


def setup(app: Any) -> None:
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-signature", _signature)
    app.connect("source-read", _read)
    app.connect("autodoc-process-docstring", _docstring)
