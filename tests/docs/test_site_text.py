"""What the site makes of Markdown and docstrings, without Sphinx."""

import importlib.util

import pytest
from support.helpers import REPOSITORY

DOCS = REPOSITORY / "docs"
specification = importlib.util.spec_from_file_location("site_text", DOCS / "site_text.py")
site_text = importlib.util.module_from_spec(specification)
specification.loader.exec_module(site_text)


def test_links_stay_inside_the_site_and_other_files_are_named():
    text = "[a](docs/secrets.md#ranks), [configs/](configs/), [how](CONTRIBUTING.md), [b](https://x.y), "
    text += "![c](docs/demo.png)"
    expected = "[a](secrets.md#ranks), `configs/`, how (`CONTRIBUTING.md`), [b](https://x.y), ![c](demo.png)"
    assert site_text.links_of_page(text, REPOSITORY, DOCS) == expected


def test_a_link_to_a_missing_file_is_refused_but_in_code():
    with pytest.raises(site_text.BrokenLink, match=r"missing\.md"):
        site_text.links_of_page("see [it](missing.md)", DOCS, DOCS)
    code = "```\n[it](missing.md)\n```"
    assert site_text.links_of_page(code, DOCS, DOCS) == code


def test_lists_and_tables_of_a_docstring_are_marked_and_sections_stay():
    table = ["Kinds.", "", "whiten  LayerNorm", "l2      length 1"]
    assert site_text.structured(table)[2:6] == ["::", "", "   whiten  LayerNorm", "   l2      length 1"]
    entries = ["width: channels", "    of the map", "blocks: the blocks"]
    assert site_text.structured(entries)[:3] == ["- **width**: channels", "  of the map", "- **blocks**: the blocks"]
    section = ["Args:", "    path: a file"]
    assert site_text.structured(section)[:2] == section


def test_a_signature_is_short_and_its_parameters_are_described():
    long = "(out: Annotated[str | pathlib.Path, Argument('new folder')], *, n: fd_scale.fields.Count = 1) -> x.Manifest"
    assert site_text.short_signature(long) == "(out: str | Path, *, n: Count=1) -> Manifest"
    fields = site_text.described_parameters([(None, "out", "Annotated[Path, Argument('new folder')]", None)])
    assert fields.strip() == ":param out: new folder."
