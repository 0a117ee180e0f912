"""What the site makes of Markdown and docstrings that are written to be read as they are, without a site."""

import ast
import os
import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)")
IMAGE = re.compile(r"!\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
FENCE = re.compile(r"^\s*(```|~~~)")
ELSEWHERE = re.compile(r"[a-z]+:|#")
SECTIONS = ("Args:", "Attributes:", "Raises:", "Returns:", "Yields:", "Example:", "Note:")

COLUMNS = re.compile(r"\S {2,}\S")
"""In a table that is laid out with blanks."""
ENTRY = re.compile(r"(\w+): (?=\S)")
"""The beginning of a line that says what a name means."""


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


def structured(lines: list[str]) -> list[str]:
    """A docstring with its lists, tables and trees marked as reStructuredText wants it; Google's sections stay."""
    result: list[str] = []
    in_section = False
    for block in _blocks(lines):
        if not block[0].startswith(" "):
            in_section = block[0].strip() in SECTIONS
        result += [*(block if in_section else _marked(block)), ""]
    return result


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    """Runs of lines without an empty one in between."""
    block: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            block.append(line)
        elif block:
            yield block
            block = []


def _marked(block: list[str]) -> list[str]:
    if any(COLUMNS.search(line) for line in block):
        return _literal(block)
    if sum(ENTRY.match(line) is not None for line in block) > 1 and ENTRY.match(block[0]):
        return [ENTRY.sub(r"- **\1**: ", line) if ENTRY.match(line) else f"  {line.strip()}" for line in block]
    indented = next((number for number, line in enumerate(block) if line.startswith(" ")), None)
    if indented is None:
        return block
    before, inside = block[:indented], block[indented:]
    after = next((number for number, line in enumerate(inside) if not line.startswith(" ")), len(inside))
    inside, rest = inside[:after], inside[after:]
    marked = textwrap.dedent("\n".join(inside)).split("\n") if inside[0].lstrip().startswith("- ") else _literal(inside)
    return [*before, "", *marked, "", *(_marked(rest) if rest else [])]


def _literal(lines: list[str]) -> list[str]:
    return ["::", "", *(f"   {line}" for line in lines)]


def short_signature(signature: str) -> str:
    """`(source: Annotated[pathlib.Path, Argument("...")])` as `(source: Path)`: types by their last names alone."""
    tree = ast.parse(f"def f{signature}: ...")
    return ast.unparse(_ShortTypes().visit(tree)).partition("def f")[2].rpartition(":")[0]


class _ShortTypes(ast.NodeTransformer):
    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        return ast.Name(node.attr)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        self.generic_visit(node)
        annotated = isinstance(node.value, ast.Name) and node.value.id == "Annotated"
        return node.slice.elts[0] if annotated and isinstance(node.slice, ast.Tuple) else node


def described_parameters(arguments: Iterable[tuple[str | None, str | None, str | None, str | None]]) -> str:
    """Fields for the end of a docstring: what parameters are for, where their annotations say it.

    Args:
        arguments: kind, name, annotation and default of each, as sphinx-autoapi reads them.
    """
    fields = []
    for _, name, annotation, _ in arguments:
        said = re.search(r"(?:Argument|Option)\((['\"])(.*?)\1", annotation or "")
        if said:
            fields.append(f":param {name}: {said[2]}.")
    return "\n\n" + "\n".join(fields) + "\n" if fields else ""
