"""The factors of the matrix, what the product refuses by design, and the rows of both kinds."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

from matrix.pairs import Pair, Row, completed, covering_rows, name_of, pairs_of

IMAGE_SIZE = 64
GLOBAL_BATCH = 8
CALIBRATION_STEPS = 2
CLASSES = 12
"""Of the classifiers and projections of the teachers that have one."""

STUDENT_STRIDES = {"swin_v2": 16, "vit": 16, "timm_vit": 16, "timm_convnext": 32}
STUDENT_PREFIX = {"swin_v2": 0, "vit": 1, "timm_vit": 1, "timm_convnext": 0}


@dataclass(frozen=True)
class Outline:
    """What must be known of a teacher to say whether a row fits together."""

    stride: int
    width: int
    prefix: int
    classifier: bool


TEACHERS = {
    "dino": Outline(16, 192, 1, classifier=False),
    "clip": Outline(16, 192, 1, classifier=True),
    "dinov3": Outline(16, 192, 5, classifier=False),
    "beit": Outline(16, 192, 1, classifier=True),
    "swin": Outline(16, 192, 0, classifier=True),
    "timm_swin_v2": Outline(16, 192, 0, classifier=True),
    "timm_swin_v2_cr": Outline(16, 192, 0, classifier=True),
    "convnext": Outline(32, 160, 0, classifier=True),
    "resnet": Outline(32, 128, 0, classifier=True),
    "own_vit": Outline(16, 192, 1, classifier=False),
    "own_swin_v2": Outline(16, 192, 0, classifier=False),
}

# Factor -> value -> what it says on the command line; PATHS stands for the folder with the files of this test.
OVERRIDES: dict[str, dict[str, list[str]]] = {
    "student": {
        "swin_v2": ["student.name=swin_v2_nano", "student.residual_norm_init=1.0"],
        "vit": ["student.name=vit_nano"],
        "timm_vit": ["student.name=timm:test_vit"],
        "timm_convnext": ["student.name=timm:test_convnext"],
    },
    "position_bias": {
        "own_bias": [],
        **{bias: [f"student.position_bias={bias}"] for bias in ("absolute", "per_block", "shared")},
    },
    "teacher": {name: [f"teacher.spec=file:FOLDER/{name}.safetensors"] for name in TEACHERS},
    "precision": {precision: [f"parallel.precision={precision}"] for precision in ("fp32", "bf16")},
    "stage": {f"zero{stage}": [f"parallel.deepspeed=FOLDER/zero{stage}.json"] for stage in (1, 2, 3)},
    "placement": {"replicated": ["teacher.sharded=false"], "sharded": ["teacher.sharded=true"]},
    "recompute": {
        "keep": ["parallel.recompute=none"],
        "recompute": ["parallel.recompute=all"],
        "every_2": ["parallel.recompute=every 2"],
        "budget": ["parallel.recompute=0.001 GiB"],
    },
    "target": {
        "map": ["target.kind=feature_map"],
        "map_only": ["target.kind=feature_map", "target.prefix=drop"],
        "resized": ["target.kind=feature_map", "target.resize=bilinear"],
        "gap": ["target.kind=gap"],
        "logits": ["target.kind=logits"],
    },
    "normalise": {name: [f"target.normalise={name}"] for name in ("whiten", "l2", "none", "standardise", "phi_s")},
    "loss": {name: [f"loss.kind={name}"] for name in ("smooth_l1", "mse", "cosine")},
    "average": {"no_ema": [], "ema": ["train.ema_decay=0.28"]},
    "accumulation": {
        "one_micro": [f"train.micro_batch={GLOBAL_BATCH // 2}"],
        "two_micros": [f"train.micro_batch={GLOBAL_BATCH // 4}"],
    },
}
FACTORS = {factor: tuple(values) for factor, values in OVERRIDES.items()}


def tokens_of_an_image(student: str, teacher: str, target: str) -> int:
    """Tokens that face each other, without those that enlarging the teacher's map adds."""
    if target in ("gap", "logits"):
        return 1
    same = STUDENT_PREFIX[student] == TEACHERS[teacher].prefix
    prefix = STUDENT_PREFIX[student] if same and target != "map_only" else 0
    return (IMAGE_SIZE // max(STUDENT_STRIDES[student], TEACHERS[teacher].stride)) ** 2 + prefix


def has_no_covariance(student: str, teacher: str, target: str, normalise: str) -> bool:
    if normalise != "phi_s":
        return False
    width = CLASSES if target == "logits" else TEACHERS[teacher].width
    return CALIBRATION_STEPS * GLOBAL_BATCH * tokens_of_an_image(student, teacher, target) < width


@dataclass(frozen=True)
class Refusal:
    """Values of some factors that do not go together, and the words of the line that says so."""

    factors: tuple[str, ...]
    holds: Callable[..., bool]
    line: str

    def of(self, row: Row) -> bool:
        """A value that is still missing refuses nothing."""
        return all(factor in row for factor in self.factors) and self.holds(*(row[factor] for factor in self.factors))


REFUSALS = [
    Refusal(
        ("student", "position_bias"),
        lambda student, bias: student == "swin_v2" and bias == "absolute",
        "student position_bias 'absolute' is for a ViT; swin_v2_nano takes 'per_block' or 'shared'",
    ),
    Refusal(
        ("student", "position_bias"),
        lambda student, bias: student.startswith("timm") and bias != "own_bias",
        "student position_bias is a key of SwinV2 and ViT; a timm model has its own: remove it",
    ),
    Refusal(
        ("student", "recompute"),
        lambda student, recompute: student != "swin_v2" and recompute == "budget",
        "does not say what its blocks keep; use 'all' or for example 'every 2'",
    ),
    Refusal(
        ("teacher", "target"),
        lambda teacher, target: target == "logits" and not TEACHERS[teacher].classifier,
        "has neither classifier nor projection, so target.kind=logits asks for nothing; set target.kind to feature_map",
    ),
    Refusal(
        ("student", "teacher", "target"),
        lambda student, teacher, target: (
            target in ("map", "map_only") and STUDENT_STRIDES[student] != TEACHERS[teacher].stride
        ),
        "or set target.resize=bilinear",
    ),
    Refusal(
        ("student", "teacher", "target", "normalise"),
        has_no_covariance,
        "raise target.calibration_steps or train.global_batch",
    ),
]


BOUND = {factor for refusal in REFUSALS for factor in refusal.factors}


def refusals_of(row: Row) -> list[Refusal]:
    return [refusal for refusal in REFUSALS if refusal.of(row)]


@cache
def matrix() -> tuple[dict[str, Row], dict[str, Row]]:
    """By name: rows that train, with every pair that such a row can hold; and rows that are refused, each for one
    reason, with every other pair and every reason.
    """
    trained, impossible = covering_rows(FACTORS, lambda row: not refusals_of(row), BOUND)
    refused: list[Row] = []
    shuffled = random.Random(0)

    def add_refused(start: Row, reasons: list[Refusal]) -> None:
        rows = (completed(start, FACTORS, partial(for_one_reason, reason), BOUND, {}, shuffled) for reason in reasons)
        row = next(row for row in rows if row is not None)
        refused.append({factor: row[factor] for factor in FACTORS})

    for pair in impossible:
        if not any(pair in pairs_of(row) for row in refused):
            add_refused(dict(pair), REFUSALS)
    for reason in REFUSALS:
        if not any(reason.of(row) for row in refused):
            add_refused({}, [reason])
    return {name_of(row): row for row in trained}, {name_of(row): row for row in refused}


def for_one_reason(reason: Refusal, row: Row) -> bool:
    """Whether a row, in which values may still be missing, is or can become one that is refused for that alone."""
    is_open = not all(factor in row for factor in reason.factors)
    return set(refusals_of(row)) <= {reason} and (is_open or reason.of(row))


def spread(rows: dict[str, Row], count: int) -> list[str]:
    """Names of rows that hold many different values and pairs."""
    chosen: list[str] = []
    values: set[tuple[str, str]] = set()
    pairs: set[Pair] = set()
    while len(chosen) < count:
        left = [name for name in rows if name not in chosen]
        # A value that none of them has counts as much as five pairs: of teachers there are more values than rows.
        best = max(left, key=lambda name: 5 * len(rows[name].items() - values) + len(pairs_of(rows[name]) - pairs))
        chosen.append(best)
        values |= rows[best].items()
        pairs |= pairs_of(rows[best])
    return chosen


def overrides(row: Row) -> list[str]:
    """What a row says on the command line."""
    return [word for factor, value in row.items() for word in OVERRIDES[factor][value]]
