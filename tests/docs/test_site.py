"""The documentation site is built as `make docs` builds it: strictly, without network and torch."""

import re
import subprocess
import sys

import pytest
from support.helpers import REPOSITORY

DOCS = REPOSITORY / "docs"


def build(source, out) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "sphinx", "--builder", "html", "--fail-on-warning", "--quiet", source, out]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True)


@pytest.mark.exhaustive
@pytest.mark.real_start
def test_the_site_is_built_without_a_warning(tmp_path):
    """Started for real: the tool belongs to no program of ours, and the warm server does not have it."""
    pytest.importorskip("sphinx", reason="the site needs the packages of `make docs`")
    done = build(DOCS, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    front = (tmp_path / "site" / "index.html").read_text()
    assert "demo.png" in front
    for page in DOCS.rglob("*.md"):
        if "_build" not in page.parts:
            assert (tmp_path / "site" / page.relative_to(DOCS)).with_suffix(".html").is_file(), page
    reference = (tmp_path / "site" / "api" / "verbs.html").read_text()
    assert "Write images into webdataset shards" in reference
    # No network: whatever a page loads lies beside it.
    for page in (tmp_path / "site").rglob("*.html"):
        assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"(?:https?:)?//", page.read_text()), page
