"""Table, plot and a plain sentence from what was measured.

An interval is that of Student's t for the mean of the differences of two arms that share their seeds. It covers what
the seed of fine-tuning changes (and of distillation, where each seed has its own), and neither the choice of the images
nor the training of the one teacher that all arms share.
"""

import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from scipy.stats import t as student_t

from experiments.miniature.plan import FD, LONGER, SCRATCH, TEACHER, Arm, Plan, trials_of
from experiments.miniature.work import Paths, best_trial

CONFIDENCE = 0.95
Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Difference:
    """Difference of two arms, `first` minus `second`, in points of accuracy. The interval is None of a single seed."""

    first: str
    second: str
    mean: float
    low: float | None
    high: float | None
    seeds: int


def paired_difference(first: tuple[str, Sequence[float]], second: tuple[str, Sequence[float]]) -> Difference:
    """Compare two arms, (name, accuracy by seed in points) each, in the same order of seeds."""
    gaps = [a - b for a, b in zip(first[1], second[1], strict=True)]
    mean, low, high = statistics.fmean(gaps), None, None
    if len(gaps) > 1:
        error = statistics.stdev(gaps) / len(gaps) ** 0.5
        half = float(student_t.ppf((1 + CONFIDENCE) / 2, len(gaps) - 1)) * error
        low, high = mean - half, mean + half
    return Difference(first[0], second[0], mean, low, high, len(gaps))


def verdict(difference: Difference, labels: Mapping[str, str]) -> str:
    """Say in one sentence no more than the interval does."""
    first, second = labels[difference.first], labels[difference.second]
    opening = first[0].upper() + first[1:]
    gap, low, high = difference.mean, difference.low, difference.high
    if low is None or high is None:
        return f"{opening} against {second}: {gap:+.2f} points of one seed, which says nothing about chance."
    interval = f"{gap:+.2f} points, {CONFIDENCE:.0%} interval {low:+.2f} to {high:+.2f}, {difference.seeds} seeds"
    if low > 0:
        return f"{opening} is better than {second} here: {interval}."
    if high < 0:
        return f"{opening} is worse than {second} here: {interval}."
    return f"No difference is shown between {first} and {second}: {interval}."


def write_report(plan: Plan, paths: Paths, arms: Sequence[Arm]) -> str:
    """Write results.json, results.csv, table.txt and plot.png; return the table."""
    results = {
        arm.name: [json.loads(paths.measured(arm, seed).read_text()) for seed in range(1, plan.seeds + 1)]
        for arm in arms
    }
    points = {name: [100 * record["accuracy"] for record in records] for name, records in results.items()}
    differences = [paired_difference((a, points[a]), (b, points[b])) for b, a in combinations(points, 2)]
    tried = {
        arm.name: [json.loads(paths.tuning(arm, trial).read_text()) for trial in range(len(trials_of(plan, arm)))]
        for arm in arms
    }
    labels = {arm.name: arm.label for arm in arms}
    chosen = {arm.name: tried[arm.name][best_trial(plan, paths, arm)] for arm in arms}
    text = as_text(points, results, chosen, differences, labels, plan)
    everything = {
        "plan": asdict(plan),
        "measured": results,
        "tuning": tried,
        "differences": [asdict(difference) for difference in differences],
    }
    (paths.out / "results.json").write_text(json.dumps(everything, indent=1) + "\n")
    (paths.out / "results.csv").write_text(as_csv([record for records in results.values() for record in records]))
    (paths.out / "table.txt").write_text(text)
    draw(points, labels, paths.out / "plot.png")
    return text


def as_text(
    points: Mapping[str, Sequence[float]],
    results: Mapping[str, Records],
    chosen: Mapping[str, Mapping[str, Any]],
    differences: Sequence[Difference],
    labels: Mapping[str, str],
    plan: Plan,
) -> str:
    wide = max(map(len, labels.values()))
    lines = [f"{'arm':{wide}}  {'rate':>8} {'decay':>5} {'steps':>6} {'tuning':>7} {'test':>7} {'sd':>5}  by seed"]
    for name, values in points.items():
        best, spread = chosen[name], statistics.stdev(values) if len(values) > 1 else float("nan")
        lines.append(
            f"{labels[name]:{wide}}  {best['base_lr']:8.2g} {best['layer_decay']:5g} {results[name][0]['steps']:6d} "
            f"{100 * best['accuracy']:7.2f} {statistics.fmean(values):7.2f} {spread:5.2f}  "
            + " ".join(f"{value:.2f}" for value in values)
        )
    lines += ["", f"differences of the mean over {plan.seeds} seeds, paired, {CONFIDENCE:.0%} t interval, in points"]
    for difference in differences:
        if difference.low is None or difference.high is None:
            interval = "no interval of one seed"
        else:
            interval = f"[{difference.low:+.2f}, {difference.high:+.2f}]"
        lines.append(f"{labels[difference.first]} - {labels[difference.second]}: {difference.mean:+.2f} {interval}")
    lines += ["", *conclusion(differences, labels), *_reach(plan)]
    return "\n".join(lines) + "\n"


def conclusion(differences: Sequence[Difference], labels: Mapping[str, str]) -> list[str]:
    """Say what came out for FD, the hardest comparison first, whichever way; then for each ablation of it."""
    of = {(difference.first, difference.second): difference for difference in differences}
    told = [of[FD.name, other.name] for other in (LONGER, TEACHER, SCRATCH)]
    ablations = [difference for difference in differences if difference.second == FD.name]
    return [verdict(difference, labels) for difference in [*told, *ablations]]


def _reach(plan: Plan) -> list[str]:
    distillations = (
        "one distillation" if plan.distill_seeds == 1 else f"{plan.distill_seeds} distillations, by fine-tuning seed"
    )
    return [
        f"Reach: one teacher, {distillations}, one draw of the images; {len(plan.trials)} trials for each arm, chosen "
        f"on images held out of training and not those of the test."
    ]


def as_csv(records: Records) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue()


def draw(points: Mapping[str, Sequence[float]], labels: Mapping[str, str], path: Path) -> None:
    """Draw each arm's seeds and mean at the left, and what FD gains on the others, with intervals, at the right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 1.5 + 0.55 * len(points)), layout="constrained")
    for row, values in enumerate(points.values()):
        left.plot(values, [row] * len(values), "o", color="tab:blue", alpha=0.5)
        left.plot(statistics.fmean(values), row, "|", color="black", markersize=18)
    left.set_yticks(range(len(points)), [labels[name] for name in points])
    left.invert_yaxis()
    left.set_xlabel("test accuracy, %")
    after_fd = (FD.name, points[FD.name])
    gains = [paired_difference(after_fd, (name, values)) for name, values in points.items() if name != FD.name]
    for row, gain in enumerate(gains):
        if gain.low is not None and gain.high is not None:
            right.plot([gain.low, gain.high], [row, row], color="black")
        right.plot(gain.mean, row, "o", color="black")
    right.axvline(0, color="grey", linewidth=0.8)
    right.set_yticks(range(len(gains)), [labels[gain.second] for gain in gains])
    right.set_ylim(len(gains) - 0.5, -0.5)
    right.set_xlabel(f"gain of FD over it, points ({CONFIDENCE:.0%})")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
