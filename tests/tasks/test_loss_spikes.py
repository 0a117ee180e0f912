"""A loss that really explodes, in runs on two processes and on one: said, and stopped where that is asked for."""

import json
from pathlib import Path

from tasks.running import losses, run

CALM = 21
STEPS = 24


def exploding(arguments: list[str]) -> list[str]:
    """The weights stand still for 21 steps, and step 22 throws them far away: step 23 is the first to see that."""
    return [
        *arguments,
        "train.micro_batch=4",
        "run.save_every=10",
        f"schedule.steps={STEPS}",
        f"schedule.warmup_steps={CALM - 1}",  # and the cosine begins at the base rate, with one step more of 0
        "schedule.warmup_base_lr=0",
        "schedule.base_lr=0",
        "schedule.min_base_lr=437",  # at step 22 a seventh of it, 1 for a batch of 8: what Adam moves weights by
    ]


def logged(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_spike_stops_before_the_weights_where_asked_and_the_same_command_goes_on_without_the_guard(
    tiny_run, tmp_path
):
    folder = tmp_path / "run"
    arguments = exploding(tiny_run)
    code, errors = run([*arguments, "train.spike.action=stop"])
    assert code == 2, errors
    (line,) = [entry for entry in errors.splitlines() if entry.startswith("fd-scale: ")]
    assert f"the loss spikes at step {CALM + 2}: " in line
    assert "shard-00000" in line
    assert max(losses(folder)) == CALM + 1
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step_00000010", "step_00000020"]

    code, errors = run([*arguments, "train.spike.action=stop"], nproc=1)  # the history of losses resumes as well
    assert code == 2, errors
    assert f"the loss spikes at step {CALM + 2}: " in errors

    code, errors = run([*arguments, "train.spike.action=stop", "train.spike.ratio=null"])
    assert code == 0, errors
    assert "resuming from" in errors
    values = losses(folder)
    assert set(values) == set(range(1, STEPS + 1))
    assert values[CALM + 2] > 5 * values[CALM + 1]
    assert logged(folder)[-1]["loss_spikes"] == 0


def test_a_spike_is_warned_of_and_counted_and_the_run_goes_on(tiny_run, tmp_path):
    code, errors = run(exploding(tiny_run), nproc=1)
    assert code == 0, errors
    warnings = [entry for entry in errors.splitlines() if entry.startswith("warning: the loss spikes at step ")]
    counts = {entry["step"]: entry["loss_spikes"] for entry in logged(tmp_path / "run")}
    assert len(counts) == STEPS
    assert counts[CALM + 1] == 0
    assert counts[CALM + 2] == 1
    assert counts[STEPS] == len(warnings)
    assert warnings[0].startswith(f"warning: the loss spikes at step {CALM + 2}: ")
    log = (tmp_path / "run" / "logs" / "rank_00000.log").read_text()
    assert log.count("WARNING the loss spikes") == len(warnings)
