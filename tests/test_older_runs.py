"""Runs that were stored before a key existed: they resume, and go on as they began."""

import dataclasses
from functools import partial

import pytest
import yaml
from helpers import REPOSITORY

from fd_scale.config import as_it_began, completed, load_config, resolved
from fd_scale.errors import BadInput
from fd_scale.tasks.distill import DistillConfig
from fd_scale.tasks.finetune import FinetuneJobConfig
from fd_scale.train.run_folder import RunConfig, RunFolder, differences, stored_config

STORED = {DistillConfig: "stored_distill.yaml", FinetuneJobConfig: "stored_finetune.yaml"}


def stored(owner: type) -> dict:
    return yaml.safe_load((REPOSITORY / "tests/reference" / STORED[owner]).read_text())


@pytest.mark.parametrize("owner", STORED, ids=lambda owner: owner.__name__)
def test_the_configuration_of_an_older_run_is_that_of_the_same_run_today(owner):
    file = REPOSITORY / "tests/reference" / STORED[owner]
    config = as_it_began(load_config(owner, file), stored(owner))
    assert resolved(config) == completed(owner, stored(owner))
    assert differences(stored(owner), resolved(config), partial(completed, owner)) == []
    again = as_it_began(config, resolved(config))
    assert again == config


def test_weights_of_an_older_run_are_those_it_began_with():
    config = load_config(DistillConfig, REPOSITORY / "tests/reference/stored_distill.yaml")
    assert (config.student.weights_key, config.more_teachers["own"].weights_key) == (None, None)
    began = as_it_began(config, stored(DistillConfig))
    assert (began.student.weights_key, began.more_teachers["own"].weights_key) == ("raw", "raw")
    assert began.teacher.weights_key is None  # timm took averages then as well
    assert dataclasses.replace(began, student=config.student, more_teachers=config.more_teachers) == config


def test_another_value_of_a_new_key_is_another_run(tmp_path):
    overrides = ["student.weights_key=model_ema", f"run.folder={tmp_path}"]
    config = load_config(DistillConfig, REPOSITORY / "tests/reference/stored_distill.yaml", overrides)
    folder = RunFolder(tmp_path)
    folder.config.write_text(yaml.safe_dump(stored(DistillConfig)))
    folder.metrics.write_text('{"step": 1}\n')
    there = stored_config(RunConfig(str(tmp_path)))
    assert there == stored(DistillConfig)
    began = as_it_began(config, there)
    with pytest.raises(BadInput, match=r"student\.weights_key: raw there, model_ema here"):
        folder.check(resolved(began), partial(completed, DistillConfig))


def test_a_new_run_and_a_damaged_folder_have_no_stored_configuration(tmp_path):
    assert stored_config(RunConfig(str(tmp_path / "new"))) is None
    (tmp_path / "config.yaml").write_text("a: [")
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    assert stored_config(RunConfig(str(tmp_path))) is None
