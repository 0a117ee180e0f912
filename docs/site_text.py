"""What the site makes of Markdown and docstrings that are written to be read as they are, without a site."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)")
IMAGE = re.compile(r"!\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
FENCE = re.compile(r"^\s*(```|~~~)")
ELSEWHERE = re.compile(r"[a-z]+:|#")
SECTIONS = ("Args:", "Attributes:", "Raises:", "Returns:", "Yields:", "Example:", "Note:")


class BrokenLink(Exception):
    """A link to a file that does not exist."""


def links_of_page(text: str, folder: Path, docs: Path) -> str:
    """Links as the site needs them: to pages and pictures of `docs` from there, and other files of ours by name.

    Args:
        folder: where the page lies, and what its links are relative to.

    Raises:
        BrokenLink: the file does not exist.
    """
    page_folder = folder if folder.is_relative_to(docs) else docs
    lines = []
    fenced = False
    for line in text.split("\n"):
        if FENCE.match(line):
            fenced = not fenced
        if not fenced:
            for pattern in (IMAGE, LINK):
                line = pattern.sub(lambda match: _link(match, folder, docs, page_folder), line)
        lines.append(line)
    return "\n".join(lines)


def _link(match: re.Match[str], folder: Path, docs: Path, page_folder: Path) -> str:
    target = match["target"]
    if ELSEWHERE.match(target):
        return match[0]
    path, hash_, anchor = target.partition("#")
    file = (folder / path).resolve()
    if not file.exists():
        raise BrokenLink(f"{match[0]} in {folder}: there is no {file}")
    if file.is_relative_to(docs) and file.is_file():
        return match[0].replace(f"({target})", f"({os.path.relpath(file, page_folder)}{hash_}{anchor})")
    name = os.path.relpath(file, docs.parent)
    if match["text"].strip("`").rstrip("/") == name:
        return f"`{match['text'].strip('`')}`"
    return f"{match['text']} (`{name}`)"


def code_blocks_of_docstring(lines: list[str]) -> list[str]:
    """The docstring with its indented blocks (tables, trees, lists) marked as literal, as reStructuredText wants it."""
    return list(_marked(lines))


def _marked(lines: list[str]) -> Iterator[str]:
    in_section = in_block = False
    for number, line in enumerate(lines):
        indented = line.startswith(" ")
        if line.strip() and not indented:
            if in_block:
                yield ""
            in_block, in_section = False, line.strip() in SECTIONS
        elif indented and not in_section and not in_block and line.strip():
            if not (number and lines[number - 1].strip() == "" and _before(lines, number).endswith("::")):
                yield from ("", "::", "")
            in_block = True
        yield line


def _before(lines: list[str], number: int) -> str:
    return next((line.rstrip() for line in reversed(lines[:number]) if line.strip()), "")
