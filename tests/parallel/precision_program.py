"""What `test_teacher_precision.py` runs on every rank: `precision_program.py SPEC:SIZE...`, assertions inside."""

import copy
import sys

import torch
from parallel.engines import MICRO

from fd_scale.exits import run_to_exit_code
from fd_scale.models.precision import cast, fit_buffers
from fd_scale.parallel import ranks as process_group
from fd_scale.parallel.engine import frozen_engine
from fd_scale.teachers.config import TeacherConfig
from fd_scale.teachers.sources import build_teacher

FROM_FP32 = 0.02
"""Relative, in the mean square: tokens of few blocks in bf16, which has three digits. Twice the largest measured."""


def main() -> None:
    ranks = process_group.start(timeout_minutes=2)
    torch.manual_seed(ranks.rank)
    for word in sys.argv[1:]:
        spec, _, size = word.rpartition(":")
        teacher = build_teacher(TeacherConfig(spec), int(size))
        images = torch.randn(MICRO, 3, int(size), int(size))
        exact = teacher(images)
        whole = cast(copy.deepcopy(teacher), ranks.device, torch.bfloat16)(images.bfloat16())
        sharded = frozen_engine(fit_buffers(teacher, torch.bfloat16), MICRO, ranks, "bf16")(images.bfloat16())
        assert torch.equal(sharded, whole), f"{spec}: sharded and whole teachers differ"
        away = float((whole.float() - exact).norm() / exact.norm())
        assert away < FROM_FP32, f"{spec}: {away:.3f} away from fp32"


if __name__ == "__main__":
    sys.exit(run_to_exit_code(main))
