"""Every command in the documentation is one that exists: verbs, options, keys, configs, tools and make targets."""

import re
import shlex
from pathlib import Path

import pytest
from docs.pages import commands, matches, pages
from support.helpers import REPOSITORY

from fd_scale.cli import parse
from fd_scale.config import load_config
from fd_scale.evaluate.probes import ProbeJobConfig
from fd_scale.tasks.distillation import DistillConfig
from fd_scale.tasks.finetuning import FinetuneJobConfig

CONFIGS = {"distill": DistillConfig, "finetune": FinetuneJobConfig, "knn": ProbeJobConfig, "linear": ProbeJobConfig}
TARGETS = set(re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))


def cases() -> list:
    return [
        pytest.param(words, id=f"{page.relative_to(REPOSITORY)}: {shlex.join(words)[:70]}")
        for page in pages()
        for words in commands(page)
        if Path(words[0]).name in ("fd-scale", "python", "make")
    ]


@pytest.mark.parametrize("words", cases())
def test_a_command_of_the_documentation_exists(words, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    program, *rest = words
    if program == "make":
        assert rest[0] in TARGETS
    elif program.endswith("python"):
        check_program(rest)
    else:
        check_verb(rest)


def check_program(words: list[str]) -> None:
    """A file or a module of this repository exists; programs of others are theirs."""
    first = words[1].replace(".", "/") if words[0] == "-m" else words[0]
    if first.split("/")[0] in ("tools", "experiments", "fd_scale"):
        assert any((REPOSITORY / name).exists() for name in (first, f"{first}.py")), words


def check_verb(words: list[str]) -> None:
    parse(words)
    if words[0] == "launch":
        check_verb(words[words.index("--") + 1 :])
    elif words[0] in CONFIGS and words[1].endswith(".yaml"):
        load_config(CONFIGS[words[0]], words[1], words[2:])


def test_an_ellipsis_stands_for_anything():
    assert matches("step 5/40  loss ...", "step 5/40  loss 0.1937  learning_rate 0.0004")
    assert not matches("step 5/40  loss ...", "step 10/40  loss 0.1562")
    assert not matches("runs/a: 4 of 4 steps are done", "runs/a: 4 of 4 steps are done and saved")
