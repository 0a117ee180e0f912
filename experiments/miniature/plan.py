"""The plan of the miniature: what it compares, and how long each arm trains. Arithmetic and names only."""

from dataclasses import dataclass
from pathlib import Path

from fd_scale.config import load_config
from fd_scale.errors import BadInput
from fd_scale.tasks.config import DistillConfig, FinetuneJobConfig

DISTILL, FINETUNE = "configs/miniature/distill.yaml", "configs/miniature/finetune.yaml"
FORWARD, TRAINED = 1, 3
"""Cost of an image in forward passes of the ViT: seen by a frozen one, and forward and backward of one that learns."""

TUNING_SEED = 0
"""Of the runs that choose among the trials. The measured runs have the seeds from 1 on."""


@dataclass(frozen=True)
class Images:
    """Number of images in each part, the same of every class; None takes what is left."""

    labelled: int | None
    """Of train/, for fine-tuning and, without their labels, for distillation and the teacher."""
    tuning: int
    """Of train/, held out: no model learns from them, and the trials are judged by them."""
    unlabelled: int | None
    """Further ones of train/, that only the teacher learns from."""
    test: int | None
    """Of test/."""


@dataclass(frozen=True)
class TeacherTraining:
    width: int
    depth: int
    heads: int
    steps: int
    batch: int
    learning_rate: float
    bank: int = 4096
    """Negatives that are remembered."""
    momentum: float = 0.99
    workers: int = 1
    save_every: int = 500
    seed: int = 0


@dataclass(frozen=True)
class Trial:
    base_lr: float
    layer_decay: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A form of the miniature: the content of `configs/miniature/{smoke,small,full}.yaml`."""

    image_size: int = 32
    patch_size: int
    student: str
    """A name of `fd_scale.models.zoo`, of the teacher's width, depth and heads."""
    images: Images
    teacher: TeacherTraining
    distill_steps: int
    finetune_steps: int
    trials: tuple[Trial, ...]
    """What is tried for each arm that starts from a teacher."""
    scratch_trials: tuple[Trial, ...]
    """What is tried for the student from scratch; as many."""
    seeds: int = 5
    """Of the measured fine-tunings."""
    distill_seeds: int = 1
    """Distillations, from different seeds. Fine-tuning of seed s starts from the distillation s modulo this."""
    distill: tuple[str, ...] = ()
    """key=value of configs/miniature/distill.yaml; likewise for fine-tuning."""
    finetune: tuple[str, ...] = ()


@dataclass(frozen=True)
class Arm:
    """One way to a fine-tuned model."""

    name: str
    label: str
    start: str
    """What its weights are at first: `scratch`, `teacher` or `distilled`."""
    extra: bool = False
    """Gets the compute of the distillation as more steps."""
    distill: tuple[str, ...] = ()
    """key=value that set this arm's distillation apart."""
    finetune: tuple[str, ...] = ()
    halved: bool = False
    """Half the steps of distillation."""

    @property
    def distillation(self) -> str:
        """Name of the arm's distillation. Arms with the same one share it."""
        return self.name if self.distill or self.halved else "fd"


SCRATCH, TEACHER, LONGER, FD = ARMS = (
    Arm("scratch", "student from scratch", "scratch"),
    Arm("teacher", "raw teacher", "teacher"),
    Arm("teacher_longer", "raw teacher, FD's compute as more steps", "teacher", extra=True),
    Arm("fd", "teacher after FD", "distilled"),
)
ABSOLUTE = ("student.position_bias=absolute",)
ABLATIONS = {
    arm.name: arm
    for arm in (
        Arm("absolute_positions", "FD, absolute positions", "distilled", distill=ABSOLUTE, finetune=ABSOLUTE),
        Arm("no_whitening", "FD, target not whitened", "distilled", distill=("target.normalise=none",)),
        Arm("no_drop_path", "FD, no drop path", "distilled", distill=("student.drop_path=0",)),
        Arm("pooled_target", "FD, target pooled", "distilled", distill=("target.kind=gap",)),
        Arm("half_epochs", "FD, half the epochs", "distilled", halved=True),
    )
}
"""Each differs from `fd` in one key."""


def load_plan(path: Path, overrides: list[str]) -> Plan:
    """Read a plan.

    Raises:
        BadInput: a key or value that is none, or a plan that would not be fair or cannot be run.
    """
    plan = load_config(Plan, path, overrides)
    if not plan.trials or len(plan.trials) != len(plan.scratch_trials):
        raise BadInput(
            f"{path}: {len(plan.trials)} trials and {len(plan.scratch_trials)} scratch_trials; every arm gets the same "
            f"number, at least one"
        )
    for key, least in (("seeds", 1), ("distill_seeds", 1), ("finetune_steps", 2), ("distill_steps", 2)):
        if getattr(plan, key) < least:
            raise BadInput(f"{path}: {key}={getattr(plan, key)}; give {least} or more")
    if plan.distill_seeds > plan.seeds:
        raise BadInput(
            f"{path}: distill_seeds={plan.distill_seeds} is more than seeds={plan.seeds}, and would be left over; "
            f"give at most {plan.seeds}"
        )
    return plan


def choose_ablations(names: str | None) -> tuple[Arm, ...]:
    """Choose arms by their names, as `a,b`. Raises BadInput for an unknown one."""
    chosen = [name for name in (names or "").split(",") if name]
    for name in chosen:
        if name not in ABLATIONS:
            raise BadInput(f"--ablations: no {name!r}; there are {','.join(ABLATIONS)}")
    return tuple(ABLATIONS[name] for name in chosen)


def trials_of(plan: Plan, arm: Arm) -> tuple[Trial, ...]:
    return plan.scratch_trials if arm.start == "scratch" else plan.trials


def distill_steps(plan: Plan, arm: Arm) -> int:
    return plan.distill_steps // 2 if arm.halved else plan.distill_steps


def finetune_steps(plan: Plan, arm: Arm) -> int:
    """Compute the steps of fine-tuning, with the compute of the distillation where the arm gets it.

    An image of a distillation passes the student forward and backward and the teacher forward; one of fine-tuning the
    student forward and backward. Teacher and student are of one size. Left out: head, loss, decoding.
    """
    if not arm.extra:
        return plan.finetune_steps
    distilled = load_config(DistillConfig, DISTILL, distill_settings(plan, FD, seed=0)).train.global_batch
    finetuned = load_config(FinetuneJobConfig, FINETUNE, plan.finetune).train.global_batch
    return plan.finetune_steps + round(plan.distill_steps * distilled * (TRAINED + FORWARD) / TRAINED / finetuned)


def distill_settings(plan: Plan, arm: Arm, seed: int) -> list[str]:
    """List `key=value` for `fd-scale distill`, but for the paths."""
    return [*_common(plan, distill_steps(plan, arm), seed), *plan.distill, *arm.distill]


def finetune_settings(plan: Plan, arm: Arm, trial: Trial, seed: int) -> list[str]:
    """List `key=value` for `fd-scale finetune`, but for paths and weights.

    The raw teacher keeps its own absolute positions; a student has the position bias that FD gives it.
    """
    steps = finetune_steps(plan, arm)
    start_settings = [*ABSOLUTE, "student.neutral_gaps=true"] if arm.start == "teacher" else []
    return [
        *_common(plan, steps, seed),
        f"run.evaluate_every={steps}",
        f"schedule.base_lr={trial.base_lr}",
        f"finetune.layer_decay={trial.layer_decay}",
        *plan.finetune,
        *start_settings,
        *arm.finetune,
    ]


def _common(plan: Plan, steps: int, seed: int) -> list[str]:
    return [
        f"data.view.image_size={plan.image_size}",
        f"student.name={plan.student}",
        f"student.patch_size={plan.patch_size}",
        f"schedule.steps={steps}",
        f"schedule.warmup_steps={steps // 10}",
        f"train.seed={seed}",
    ]
