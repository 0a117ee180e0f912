"""Commands of the documentation: the `sh` blocks of a page.

A `text` block right behind one is what its commands print.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.helpers import REPOSITORY

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ASSIGNMENT = re.compile(r"^(\w+)=(\"[^\"]*\"|\S*)$", re.DOTALL)


@dataclass
class Block:
    commands: str
    printed: list[str]
    """Lines that must come, in any order; `...` stands for anything."""


def pages() -> list[Path]:
    """Every page whose commands people copy."""
    roots = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "tests" / "README.md"]
    return roots + [page for page in sorted((REPOSITORY / "docs").rglob("*.md")) if "_build" not in page.parts]


def blocks(page: Path) -> list[Block]:
    """The `sh` blocks of a page, in order."""
    found: list[Block] = []
    end = 0
    text = page.read_text()
    for fence in FENCE.finditer(text):
        language, body = fence.groups()
        between = text[end : fence.start()].strip()
        if language == "sh":
            found.append(Block(body, []))
        elif language == "text" and found and not between and not found[-1].printed:
            found[-1].printed = [line for line in body.splitlines() if line.strip(". ")]
        end = fence.end()
    return found


def commands(page: Path) -> Iterator[list[str]]:
    """The commands of a page as words: variables that it sets are filled in, comments and `|| ...` are left out."""
    variables: dict[str, str] = {}
    for block in blocks(page):
        text = re.sub(r"<<'EOF'.*?^EOF$", "", block.commands, flags=re.MULTILINE | re.DOTALL).replace("\\\n", " ")
        for line in re.findall(r"(?:\"[^\"]*\"|[^\n\"])+", text):
            if assigned := ASSIGNMENT.match(line.strip()):
                variables[assigned[1]] = assigned[2].strip('"')
                continue
            line = re.sub(r"\$(\w+)", lambda name: variables.get(name[1], name[0]), line)
            line = re.split(r" (?:\|\||&&|\||>) | &$", line)[0]
            if words := shlex.split(line, comments=True):
                yield words


def matches(expected: str, line: str) -> bool:
    """Whether a line is the expected one, in which `...` stands for anything."""
    return re.fullmatch(".*".join(map(re.escape, expected.split("..."))), line) is not None
