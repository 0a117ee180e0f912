"""What is said of the keys of a configuration: at every field, in docs/configuration.md, and by `fd-scale keys`."""

import dataclasses
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
import yaml
from support.helpers import REPOSITORY

from fd_scale import api
from fd_scale.config import load_config, validated
from fd_scale.config_keys import RENEW, REQUIRED, Key, as_markdown, as_yaml, descriptions, keys_of
from fd_scale.evaluate.config import ProbeJobConfig
from fd_scale.tasks.config import DistillConfig, FinetuneJobConfig
from fd_scale.verbs.verb import jobs

TASKS = {name: job.config_type() for name, job in jobs().items()}


def every(keys: tuple[Key, ...]) -> Iterator[Key]:
    for key in keys:
        yield key
        yield from every(key.keys)


@pytest.mark.parametrize("task", TASKS)
def test_every_key_has_a_description_whose_first_sentence_stands_alone(task):
    for key in every(keys_of(TASKS[task])):
        assert key.description, f"{key.path}: write a docstring beneath the field"
        first = re.split(r"[.;](?:\s|$)", key.description)[0]
        assert re.match(r"[A-Zk`]", first), f"{key.path}: {first!r} does not begin as a sentence does"
        assert not re.match(r"(Of|For|From|In|With|As|By|To) ", first), f"{key.path}: {first!r} lacks its noun"
        assert len(first.split()) > 2, f"{key.path}: {first!r} says too little"
        assert key.description.endswith("."), f"{key.path}: the last sentence has no end"


def test_a_field_without_a_docstring_has_no_description():
    assert descriptions(Told) == {"said": "It is said.", "inherited": "It is said as well."}
    assert [key.description for key in keys_of(Told)] == ["It is said as well.", "", "It is said."]


@dataclasses.dataclass
class Before:
    inherited: int = 1
    """It is said as well."""


@dataclasses.dataclass
class Told(Before):
    silent: int = 1
    said: int = 1
    """It is said."""


def test_the_page_is_what_the_dataclasses_say():
    page = (REPOSITORY / "docs/configuration.md").read_text()
    assert page == as_markdown(TASKS), f"docs/configuration.md is not what the dataclasses say; run `{RENEW}`"
    for key in every(keys_of(TASKS["distill"])):
        assert f"`{key.path}" in page


def test_type_range_default_and_what_may_differ_are_told():
    entries = as_markdown({"distill": DistillConfig})
    for line in (
        "- **`data.workers`** · whole number from 0 to 1024 · default `4` · *may differ*\n",
        "- **`run.folder`** · text · *required* · *may differ*\n",
        "- **`optim.betas`** · list of 2 numbers of at least 0 and below 1 · default `[0.9, 0.999]`\n",
        "- **`loss.kind`** · `smooth_l1` or `mse` or `cosine` · default `smooth_l1`\n",
        "- **`train.seed`** · whole number from 0 to 9223372036854775807 · default `0`\n",
    ):
        assert line in entries


@pytest.mark.parametrize("task", TASKS)
def test_what_keys_prints_is_a_configuration_once_the_required_keys_are_filled(task, tmp_path):
    required = {
        key.path: 8 if key.kind.startswith("whole number") else "x"
        for key in every(keys_of(TASKS[task]))
        if not key.keys and key.default is REQUIRED and "NAME" not in key.path
    }
    file = tmp_path / "all.yaml"
    file.write_text(as_yaml(task, TASKS[task]))
    assert "NAME" not in str(yaml.safe_load(file.read_text()))
    config = load_config(TASKS[task], file, [f"{path}={value}" for path, value in required.items()])
    least: dict = {key.path: {} for key in keys_of(TASKS[task]) if key.keys and key.default is REQUIRED}
    for path, value in required.items():
        *sections, last = path.split(".")
        section = least
        for name in sections:
            section = section.setdefault(name, {})
        section[last] = value
    assert config == validated(TASKS[task], least)


def test_a_section_by_name_is_told_as_it_is_written():
    text = as_yaml("distill", DistillConfig)
    described = text[text.index("\n# NAME:\n") : text.index("\n\n# The model that is trained.")]
    example = re.sub(r"(?m)^# ", "", described)
    assert yaml.safe_load(example)["NAME"] == {
        "spec": None,
        "weights_key": None,
        "pixels": None,
        "sharded": False,
        "weight": 1.0,
    }


def test_keys_prints_one_task_or_all_of_them():
    assert api.keys("finetune") == as_yaml("finetune", FinetuneJobConfig)
    assert [list(each) for each in yaml.safe_load_all(api.keys())] == [
        [field.name for field in dataclasses.fields(owner)] for owner in TASKS.values()
    ]


MISTAKES = {
    "distill nofile.yaml": "no such config: nofile.yaml",
    "finetune configs/finetune/small.yaml train.sede=1": "unknown key `train.sede`; did you mean `train.seed`?",
    "distill configs/demo/swin_v2.yaml data.workers=-1": "data.workers = -1: give a whole number from 0 to 1024",
    "plan configs/demo/swin_v2.yaml optim.clipp=1": "unknown key `optim.clipp`",
    "linear configs/linear/small.yaml probe.pool=max": "probe.pool = 'max'",
    "distill configs/demo/swin_v2.yaml parallel.deepspeed=no.json": "parallel.deepspeed: no.json cannot be read",
    "keys disitll": "no task 'disitll'",
    "keys": None,
}


@pytest.mark.real_start
@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_in_a_configuration_is_told_without_torch(words):
    """What makes the answer come in under a second. A real start, because what it imports is the question."""
    code = (
        "import sys, fd_scale.cli\n"
        "try:\n    fd_scale.cli.main(sys.argv[1:])\n"
        "finally:\n    print(*sorted({'torch', 'numpy', 'timm', 'deepspeed'} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words.split()], cwd=REPOSITORY, capture_output=True, text=True)
    *lines, heavy = done.stderr.split("\n")[:-1]
    assert heavy == ""
    if MISTAKES[words]:
        assert done.returncode == 2
        assert MISTAKES[words] in lines[0]
    else:
        assert done.returncode == 0
        assert lines == []


def test_probes_share_one_configuration():
    assert TASKS["knn"] is TASKS["linear"] is ProbeJobConfig
