"""Runs that were stored before a key existed: they resume, and go on as they began."""

import dataclasses
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.helpers import REPOSITORY
from tasks.running import losses

from fd_scale.config import as_it_began, completed, differences, load_config, resolved
from fd_scale.errors import BadInput
from fd_scale.tasks.config import DistillConfig, FinetuneJobConfig
from fd_scale.train.config import RunConfig
from fd_scale.train.run_folder import RunFolder, stored_config
from tools import make_older_run

OLDER_RUNS = REPOSITORY / "tests/reference/older_runs"
REVISIONS = sorted(folder.name for folder in OLDER_RUNS.iterdir())
STORED = {DistillConfig: "stored_distill.yaml", FinetuneJobConfig: "stored_finetune.yaml"}


def stored(owner: type) -> dict:
    return yaml.safe_load((REPOSITORY / "tests/reference" / STORED[owner]).read_text())


@pytest.mark.parametrize("owner", STORED, ids=lambda owner: owner.__name__)
def test_the_configuration_of_an_older_run_is_that_of_the_same_run_today(owner):
    file = REPOSITORY / "tests/reference" / STORED[owner]
    config = as_it_began(load_config(owner, file), stored(owner))
    assert resolved(config) == completed(owner, stored(owner))
    assert differences(owner, stored(owner), resolved(config)) == []
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
        folder.check(resolved(began), partial(differences, DistillConfig))


def test_a_new_run_and_a_damaged_folder_have_no_stored_configuration(tmp_path):
    assert stored_config(RunConfig(str(tmp_path / "new"))) is None
    (tmp_path / "config.yaml").write_text("a: [")
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    assert stored_config(RunConfig(str(tmp_path))) is None


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize("name", ["distilled", "finetuned"])
def test_a_run_of_an_earlier_revision_resumes_as_that_revision_did(revision, name, tmp_path, monkeypatch):
    """Four steps were taken by the code of then, with a checkpoint of step 2; today's goes on from there to the same
    weights.
    """
    shutil.copytree(OLDER_RUNS / revision, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    expected = losses(tmp_path / name)
    exported = {"distilled": "student.safetensors", "finetuned": "classifier.safetensors"}[name]
    then = load_file(OLDER_RUNS / revision / exported)
    Path("finetune.yaml" if name == "distilled" else exported).unlink()
    older(make_older_run.DISTILL if name == "distilled" else make_older_run.FINETUNE)
    found = losses(tmp_path / name)
    assert (found[1], found[2]) == (expected[1], expected[2])
    assert found == pytest.approx(expected, rel=1e-5)
    words = make_older_run.VERBS[[verb[1] for verb in make_older_run.VERBS].index(name)]
    older([*words[:2], "again.safetensors", *words[3:]])
    now = load_file("again.safetensors")
    assert now.keys() == then.keys()
    for key, values in then.items():
        torch.testing.assert_close(now[key], values, rtol=1e-5, atol=1e-6, msg=key)


@pytest.mark.parametrize("revision", REVISIONS)
def test_an_export_of_an_earlier_revision_is_read(revision, tmp_path):
    """With its data set of then: each image is the nearest to itself, and has the class that it has."""
    files = OLDER_RUNS / revision
    words = [f"probe.model={files}/student.safetensors", "probe.image_size=32", "knn.k=[1]", f"folder={tmp_path}"]
    words += [f"probe.{part}={files}/shards" for part in ("train", "validation")]
    assert "100.0" in older(["knn", str(REPOSITORY / "configs/linear/small.yaml"), *words])


def older(words: list[str]) -> str:
    """What today's code prints."""
    program = [sys.executable, str(REPOSITORY / "tests/support/older_program.py"), *words]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
