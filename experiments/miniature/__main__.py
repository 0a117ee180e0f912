"""The paper in miniature: does a teacher fine-tune better after feature distillation (FD) than as it is?

    images -> contrastive teacher -> FD -> trials of each arm -> seeds of each arm's best trial -> table, plot, sentence

Arms, all with the same code, data and number of trials (rate and layer decay):
    student from scratch;  raw teacher;  raw teacher with FD's compute as more steps of fine-tuning;  teacher after FD.
Trials are judged by images held out of training, never by those of the test, and the measured runs have seeds of their
own. It prints what came out, whichever way.

Every stage has a product that is not computed again, and training goes on from its last save, so the same command goes
on after a stop, a signal or `--minutes`. Plans, with their arithmetic: `configs/miniature/`. Leaves out several GPUs.

    python -m experiments.miniature --small --images cifar10.tar.xz --out runs/miniature_small  # CPU, two cores
    python -m experiments.miniature --images cifar10.tar.xz --out runs/miniature --minutes 8  # one GPU, again and again
    python -m experiments.miniature ... --ablations absolute_positions,no_whitening  # more arms, same folder
"""

import argparse
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # jobs share the cores; before torch is imported

import torch
import yaml

from experiments.miniature.jobs import Job, run_jobs
from experiments.miniature.plan import ABLATIONS, ARMS, Arm, Plan, choose_ablations, load_plan, trials_of
from experiments.miniature.report import write_report
from experiments.miniature.work import Paths, make_images, make_student, make_teacher, measure, tune
from fd_scale.config import resolved
from fd_scale.errors import BadInput
from fd_scale.exits import run_to_exit_code
from fd_scale.files import write_whole

PLAN = "plan.yaml"


def main() -> int:
    return miniature(options_of(sys.argv[1:]))


def options_of(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.miniature",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--small", action="store_true", help="for a CPU with two cores")
    form.add_argument("--smoke", action="store_true", help="a few steps of everything, to see that it runs")
    parser.add_argument(
        "--images", type=Path, required=True, help="archive or folder, train/<class>/ and test/<class>/"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the experiment")
    parser.add_argument("--minutes", type=float, help="stop after so long, saved, with exit code 0")
    parser.add_argument("--jobs", type=int, help="at a time; by default 2 on a CPU, 1 on a GPU")
    parser.add_argument("--ablations", help=f"further arms, one key apart from FD: {','.join(ABLATIONS)}")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the plan")
    return parser.parse_args(words)


def miniature(options: argparse.Namespace) -> int:
    """Run what is missing, and report when nothing is. Raises BadInput, SystemExit (a job failed)."""
    form = "small" if options.small else "smoke" if options.smoke else "full"
    plan = load_plan(Path(f"configs/miniature/{form}.yaml"), options.overrides)
    arms = (*ARMS, *choose_ablations(options.ablations))
    slots = (1 if torch.cuda.is_available() else 2) if options.jobs is None else options.jobs
    if slots < 1 or (options.minutes is not None and options.minutes <= 0):
        raise BadInput(f"--jobs {slots} --minutes {options.minutes}: give numbers above 0")
    if not options.images.exists():
        raise BadInput(f"--images {options.images} does not exist; give an archive or folder of images")
    paths = Paths(options.out)
    claim(paths.out, {"images": options.images.name, **resolved(plan)})
    jobs = list(jobs_of(plan, arms, options.images, paths))
    left = run_jobs(jobs, slots, paths.logs, options.minutes)
    if left:
        names = ", ".join(job.name for job in left[:4]) + (", ..." if len(left) > 4 else "")
        print(f"{len(left)} of {len(jobs)} jobs are left ({names}); the same command goes on", flush=True)
        return 0
    print(write_report(plan, paths, arms), end="")
    print(f"{paths.out}: table.txt, plot.png, results.json, results.csv")
    return 0


def claim(out: Path, settings: dict[str, Any]) -> None:
    """Refuse a folder that belongs to another plan: results of different ones must not be mixed. Raises BadInput."""
    file = out / PLAN
    if file.exists():
        before = yaml.safe_load(file.read_text())
        differing = [key for key in settings if before.get(key) != settings[key]]
        if differing:
            key = differing[0]
            raise BadInput(f"{out} has {key}={before.get(key)}, not {settings[key]}; give another --out for this plan")
        return
    if out.exists() and any(out.iterdir()):
        raise BadInput(f"{out} holds something else than a miniature; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_whole(file, yaml.safe_dump(settings, sort_keys=False))


def jobs_of(plan: Plan, arms: tuple[Arm, ...], images: Path, paths: Paths) -> Iterator[Job]:
    """Yield the jobs in the order in which they are taken up.

    Those that others wait for come first, then the longest of the others.
    """
    yield Job("images", paths.packed, (), partial(make_images, images, plan, paths))
    yield Job("teacher", paths.teacher, (paths.packed,), partial(make_teacher, plan, paths))
    distilled = {arm.distillation: arm for arm in arms if arm.start == "distilled"}
    for seed in range(plan.distill_seeds):
        for name, arm in distilled.items():
            product = paths.student(name, seed)
            yield Job(
                f"distill-{name}-{seed}", product, (paths.teacher,), partial(make_student, plan, paths, arm, seed)
            )
    by_length = sorted(arms, key=lambda arm: not arm.extra)
    for arm in by_length:
        start = _start(arm, paths, 0)
        for trial in range(len(trials_of(plan, arm))):
            work = partial(tune, plan, paths, arm, trial)
            yield Job(f"tune-{arm.name}-{trial}", paths.tuning(arm, trial), (start,), work)
    for arm in by_length:
        tuned = tuple(paths.tuning(arm, trial) for trial in range(len(trials_of(plan, arm))))
        for seed in range(1, plan.seeds + 1):
            needs = (*tuned, _start(arm, paths, seed % plan.distill_seeds))
            work = partial(measure, plan, paths, arm, seed)
            yield Job(f"measure-{arm.name}-{seed}", paths.measured(arm, seed), needs, work)


def _start(arm: Arm, paths: Paths, seed: int) -> Path:
    """What an arm's fine-tuning waits for."""
    return {
        "scratch": paths.packed,
        "teacher": paths.teacher,
        "distilled": paths.student(arm.distillation, seed),
    }[arm.start]


if __name__ == "__main__":
    sys.exit(run_to_exit_code(main))
