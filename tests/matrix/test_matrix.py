"""Every pair of values of the configuration in real runs on two processes, against a plain loop of PyTorch.

A row that trains ends with the losses, gradient norms, weights and average of `matrix.reference`; any other ends with
one line and exit 2. `matrix.rows` says what varies and what is refused, `matrix.pairs` how the rows are chosen.
"""

import json
import math
from pathlib import Path

import pytest
from matrix.files import write
from matrix.pairs import Row
from matrix.reference import STEPS, Weights, reference
from matrix.rows import matrix, overrides, refusals_of, spread
from safetensors.torch import load_file
from support.parts import sweep
from support.session import once
from tasks.running import run
from torch import Tensor

from fd_scale.api import export
from fd_scale.parallel.checkpoint.reader import CheckpointReader
from fd_scale.parallel.checkpoint.storage import checkpoints_of

TRAINED, REFUSED = matrix()
COMPUTED_BY = ("student", "position_bias", "teacher", "target", "normalise", "loss")
"""Factors that say what is computed. The others say how, and change nothing but rounding."""

# Relative: of the loss in each step; of the gradient's norm; and of the weights, as a share
# of the way that they went. Only the loss sees a wrong model and only the norm a wrong scale, which AdamW takes away.
# Rounding in bf16 is the processor's: after two steps it makes 2.4 % on one without units for bf16, 4.1 % on one with.
LOSS = {"fp32": (1e-5, 1e-4, 1e-4), "bf16": (0.01, 0.03, 0.06)}
NORM = {"fp32": 1e-4, "bf16": 0.2}
WEIGHTS = {"fp32": 1e-3, "bf16": 0.3}


@pytest.fixture(scope="session")
def files() -> Path:
    return once("matrix", write)


def run_row(row: Row, files: Path, shards: Path, folder: Path) -> tuple[int, str]:
    config = Path(__file__).parent / "run.yaml"
    words = [word.replace("FOLDER", str(files)) for word in overrides(row)]
    return run(["distill", str(config), f"data.train={shards}", f"run.folder={folder}", *words])


# Names are given once more as ids, because pytest numbers values that it finds long.
@pytest.mark.parametrize("name", sweep(TRAINED, spread(TRAINED, 8)), ids=list(TRAINED))
def test_every_pair_of_values_computes_what_a_plain_loop_in_fp32_does(name, files, shards, tmp_path):
    row = TRAINED[name]
    folder, precision = tmp_path / "run", row["precision"]
    code, errors = run_row(row, files, shards, folder)
    assert code == 0, errors
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    # Axes of nearly equal variance are a matter of rounding: where that is bf16's, the run says which it took.
    rotation = saved_rotation(folder) if precision == "bf16" and row["normalise"] == "phi_s" else None
    wanted = reference(*(row[factor] for factor in COMPUTED_BY), files, shards, rotation)

    differences = {
        "loss": relative([entry["loss"] for entry in logged], wanted.losses),
        "norm": relative([entry["gradient_norm"] for entry in logged], wanted.gradient_norms),
        "weights": distance(load_file(export(folder, tmp_path / "s.safetensors")), wanted.after, wanted.before),
    }
    if row["average"] == "ema":
        average = load_file(export(folder, tmp_path / "average.safetensors", ema=True))
        differences["average"] = distance(average, wanted.average, wanted.before)
    print(json.dumps({"row": name, **differences}))

    assert [entry["learning_rate"] for entry in logged] == pytest.approx(wanted.rates, rel=1e-12)
    assert all(difference <= most for difference, most in zip(differences["loss"], LOSS[precision], strict=True))
    assert all(difference <= NORM[precision] for difference in differences["norm"])
    assert all(differences[kind] <= WEIGHTS[precision] for kind in ("weights", "average") if kind in differences)


def saved_rotation(folder: Path) -> Tensor:
    """(C, C) of the first teacher's PHI-S."""
    flat = CheckpointReader(checkpoints_of(folder), STEPS).read("teacher.phi_s.rotation", "task")
    return flat.view(2 * [math.isqrt(flat.numel())])


def relative(values: list[float], wanted: list[float]) -> list[float]:
    return [abs(value / right - 1) for value, right in zip(values, wanted, strict=True)]


def distance(weights: Weights, wanted: Weights, before: Weights) -> float:
    """From weights to those wanted, as a share of the way from where they began; Euclidean, over all of them."""
    assert weights.keys() == wanted.keys()
    error = sum(float((weights[name] - wanted[name]).square().sum()) for name in wanted)
    way = sum(float((wanted[name] - before[name]).square().sum()) for name in wanted)
    return (error / way) ** 0.5


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", REFUSED, ids=list(REFUSED))
def test_values_that_do_not_go_together_are_refused_with_one_line(name, files, shards, tmp_path):
    (reason,) = refusals_of(REFUSED[name])
    code, errors = run_row(REFUSED[name], files, shards, tmp_path / "run")
    assert code == 2, errors
    (line,) = [line for line in errors.splitlines() if line.startswith("fd-scale: ")]
    assert reason.line in line
    assert "Traceback" not in errors
