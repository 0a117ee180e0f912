"""Odd values of every option and place of every verb, given as a user does."""

import pytest
from fuzz.oracle import Account, Case, tried
from fuzz.test_fuzz_values import ALONE, drawn
from fuzz.values import VALUES
from support.helpers import REPOSITORY
from support.parts import sweep

DEMO = str(REPOSITORY / "configs/demo/swin_v2.yaml")
ODD = "?"
"""Where the value goes."""
VALUES_OF_WORDS = [value for value in VALUES if "\0" not in value]


@pytest.fixture
def verbs(finished, teacher_file, image_folder, shards, tmp_path, monkeypatch) -> list[list[str]]:
    monkeypatch.chdir(tmp_path)
    run, out = str(finished[0]), str(tmp_path / "out")
    export, convert = ["export", run, f"{out}.safetensors"], ["convert", str(teacher_file), f"{out}.safetensors"]
    pack, index = ["pack", str(image_folder), out, "--workers", "1"], ["verify", str(shards)]
    launch = ["launch", "--nproc", "1", "--", "plan", DEMO]
    fetch = ["fetch-teacher", f"timm:vit_tiny_patch16_224@{teacher_file}", f"{out}.safetensors"]
    return [
        *([*export, option, ODD] for option in ("--step", "--dtype", "--ema", "--classifier")),
        *(["export", ODD, f"{out}.safetensors"], ["export", run, ODD], ["export", run, f"{ODD}.safetensors"]),
        *([*convert, option, ODD] for option in ("--student", "--image-size", "--window", "--pretrained-window")),
        *([*convert, option, ODD] for option in ("--key", "--licence", "--neutral-gaps")),
        *(["convert", ODD, f"{out}.safetensors"], ["convert", str(teacher_file), f"{ODD}.safetensors"]),
        *([*fetch, option, ODD] for option in ("--key", "--pixels")),
        *(["fetch-teacher", ODD, f"{out}.safetensors"], ["fetch-teacher", fetch[1], f"{ODD}.safetensors"]),
        *([*pack, option, ODD] for option in ("--shard-samples", "--seed", "--short-side", "--only", "--workers")),
        *(["pack", ODD, out], ["pack", str(image_folder), ODD], [*index, "--workers", ODD], ["index", ODD]),
        *(["verify", ODD], ["plan", ODD], ["plan", DEMO, ODD], ["plan", DEMO, "--world", ODD], ["distill", ODD]),
        *(["wise-ft", ODD, ODD, str(shards)], ["wise-ft", str(teacher_file), str(teacher_file), ODD]),
        *(["keys", ODD], ["knn", ODD], ["linear", ODD], ["finetune", ODD], [ODD], ["--version", ODD]),
        *(["demo", "--images", ODD], ["launch", "--hostfile", ODD, "--", "plan", DEMO], ["launch", "--nproc", ODD]),
        *(["launch", "--nnodes", ODD, *launch[1:]], ["launch", "--nnodes", "2", "--node-rank", ODD, *launch[1:]]),
        *(["launch", option, ODD, *launch[1:]] for option in ("--lost-after", "--restarts", "--elastic")),
        *(["launch", "--restarts", "1", option, ODD, *launch[1:]] for option in ("--wait-for-hosts", "--probe-every")),
        *(["launch", "--slurm", option, ODD, *launch[1:]] for option in ("--nodes", "--time", "--sbatch")),
        ["launch", "--slurm", *launch[1:4], "distill", DEMO, ODD],
        *(["launch", "--node", ODD], [*launch, ODD], ["launch", "--nproc", "1", "--master-port", ODD, "--", "plan"]),
    ]


@pytest.mark.parametrize("part", sweep(range(50), [0]))
def test_an_odd_option_ends_within_the_contract(verbs, part):
    account, draw = Account(), drawn("options", part)
    for _ in range(6):
        words, value = draw.choice(verbs), draw.choice(VALUES_OF_WORDS)
        tried(Case(f"{value[:60]!r}", [word.replace(ODD, value) for word in words], ALONE), account)
    account.close("options")
