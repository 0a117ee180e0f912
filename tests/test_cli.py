"""The command line: help, parsing, what it imports."""

import inspect
import re
import subprocess
import sys

import pytest

from fd_scale import api
from fd_scale.cli import parse
from fd_scale.errors import BadInput
from fd_scale.verbs.verb import registered

VERBS = [verb.name for verb in registered()]


def fd_scale(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "fd_scale", *words], capture_output=True, text=True)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_helps_with_an_example_and_is_a_function(verb):
    done = fd_scale(verb, "--help")
    assert done.returncode == 0
    assert f"example:\n  fd-scale {verb}" in done.stdout
    assert inspect.getdoc(getattr(api, verb.replace("-", "_")))


def test_help_names_every_verb_and_the_exit_codes():
    text = fd_scale("--help").stdout
    assert all(re.search(rf"^    {verb}\s", text, re.MULTILINE) for verb in VERBS)
    assert "75  worth a retry" in text


@pytest.mark.real_start
def test_parsing_imports_nothing_heavy():
    """What keeps `--help` under half a second. A real start, because what it imports is the question."""
    code = (
        "import sys, fd_scale.cli as c; c.parser(); "
        "print([m for m in ('torch', 'numpy', 'PIL', 'pydantic', 'yaml', 'tqdm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_plan_prints_what_the_api_returns():
    config, overrides = "configs/miniature/finetune.yaml", ["train.global_batch=256"]
    done = fd_scale("plan", config, *overrides, "--world", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == api.plan(config, overrides, world=2).strip()
    assert "256 = 2 ranks x micro-batch 64 x 2 accumulated" in done.stdout


def test_overrides_may_stand_behind_options():
    words = ["plan", "CONFIG", "train.seed=1", "--world", "8", "train.seed=2"]
    assert parse(words).overrides == ["train.seed=1", "train.seed=2"]
    done = fd_scale("plan", "configs/demo/swin_v2.yaml", "--world", "1", "nonsense", "--wrold=2")
    assert done.returncode == 2
    assert "unrecognized arguments: nonsense --wrold=2" in done.stderr


def test_plan_counts_a_fine_tuning():
    text = api.plan("configs/finetune/clip_vit_b16.yaml", ["student.weights=null"], world=8)
    assert "norm and head of 1000" in text
    assert re.search(r"norm and head of 1000\s+770,536\n", text), text  # 768 * 1000 + 1000 + 2 * 768
    assert "global batch 2048 = 8 ranks x micro-batch 128 x 2 accumulated" in text
    with pytest.raises(BadInput, match=r"finetune\.layer_decay = 2: give a number above 0 and at most 1"):
        api.plan("configs/finetune/clip_vit_b16.yaml", ["finetune.layer_decay=2"])


def test_the_api_packs_verifies_indexes_and_plans(image_folder, tmp_path):
    manifest = api.pack(image_folder, tmp_path / "shards", shard_samples=30)
    assert (manifest.samples, len(manifest.shards)) == (48, 2)
    assert api.verify(tmp_path / "shards") == []
    (tmp_path / "shards" / "manifest.json").unlink()
    assert api.index(tmp_path / "shards").shards == manifest.shards
    assert "total" in api.plan("configs/demo/swin_v2.yaml", ["train.global_batch=32"])


def test_a_rank_that_does_not_understand_its_words_is_one_line_of_the_launcher():
    command = [sys.executable, "-m", "fd_scale", "launch", "--nproc", "1", "--", "plan"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    line = "fd-scale: the following arguments are required: CONFIG; see `fd-scale plan --help`\n"
    assert done.stderr == line


def test_no_verb_at_all_is_one_line_that_says_where_to_read_more():
    done = fd_scale()
    assert done.returncode == 2
    assert done.stderr == "fd-scale: the following arguments are required: VERB; see `fd-scale --help`\n"


def test_an_endless_word_is_not_repeated_in_full():
    done = subprocess.run([sys.executable, "-m", "fd_scale", "x" * 5000], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert len(done.stderr) < 2500
