"""Shipped configs of fine-tuning and probing: they load, build, ask for the published groups, and none is forgotten."""

import re
from pathlib import Path

import pytest
import torch
from support.helpers import REPOSITORY

from fd_scale.batch_plan import plan_batch
from fd_scale.config import load_config
from fd_scale.evaluate.config import ProbeJobConfig
from fd_scale.models.classifier import Classifier
from fd_scale.models.zoo import build_student
from fd_scale.parallel.deepspeed_config import read_json, resolve
from fd_scale.tasks.config import FinetuneJobConfig
from fd_scale.tasks.finetuning import norm_of
from fd_scale.train.optimizer import parameter_groups

FINETUNE = sorted((REPOSITORY / "configs/finetune").glob("*.yaml"))
LINEAR = sorted((REPOSITORY / "configs/linear").glob("*.yaml"))
DISTILL = sorted((REPOSITORY / "configs/distill").glob("*.yaml"))
JSONS = sorted((REPOSITORY / "deepspeed_configs").glob("*.json"))


def stem(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", FINETUNE, ids=stem)
def test_every_finetune_config_builds_its_classifier_and_goes_with_every_json(path):
    config = load_config(FinetuneJobConfig, path)
    with torch.device("meta"):
        student = build_student(config.student, config.data.view.image_size)
        model = Classifier(student, 1000, norm_of(config))
    groups = parameter_groups(model, 0.05, config.finetune.layer_decay)
    assert {group["lr_scale"] for group in groups} == {
        config.finetune.layer_decay**step for step in range(model.last_depth + 1)
    }
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    batch = plan_batch(config.train.global_batch, config.train.micro_batch, 2)
    for file in JSONS:
        resolve(read_json(file), config.parallel, batch, config.optim.clip)


@pytest.mark.parametrize("path", LINEAR, ids=stem)
def test_every_probe_config_loads(path):
    assert load_config(ProbeJobConfig, path).probe.model


@pytest.mark.parametrize("path", [*FINETUNE, *LINEAR], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_config_says_where_it_comes_from(path):
    header = [line.split()[1] for line in path.read_text().splitlines() if line.startswith("# ") and line.split()[1:]]
    assert {"source", "row" if path.stem != "small" else "source", "launch", "cost", "status"} <= set(header)


def test_the_table_of_published_rows_names_every_config_that_has_one_and_no_other_file():
    named = set(re.findall(r"configs/\w+/\w+\.yaml", (REPOSITORY / "docs/reproduction.md").read_text()))
    of_a_row = {
        path.relative_to(REPOSITORY).as_posix()
        for path in (*FINETUNE, *LINEAR, *DISTILL)
        if re.search(r"^# row +(?! |none$)", path.read_text(), re.MULTILINE)
    }
    assert named == of_a_row


@pytest.mark.parametrize("path", [*FINETUNE, *LINEAR, *DISTILL], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_launch_line_names_its_own_config(path):
    launched = re.findall(r"(distill|finetune|linear|knn) configs/(\S+)", path.read_text().partition("\n# cost")[0])
    assert launched
    assert {name for _, name in launched} == {f"{path.parent.name}/{path.name}"}
