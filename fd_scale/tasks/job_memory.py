"""Memory of a job's rank: what its configuration says, handed to the arithmetic of `fd_scale.memory`."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from fd_scale.batch_plan import plan_batch
from fd_scale.live_bytes import peak_of_evaluation, peak_of_training
from fd_scale.memory import Passes, RankMemory, Sharding, Terms, Trained, rank_memory
from fd_scale.models.config import StudentConfig
from fd_scale.parallel.deepspeed_config import zero_settings
from fd_scale.parallel.recompute import apply_recompute
from fd_scale.tasks.config import JobConfig
from fd_scale.tasks.job import compute_dtype
from fd_scale.teachers.teacher import Teacher
from fd_scale.train.optimizer import parameter_groups


def job_memory(
    config: JobConfig,
    sharding: dict[str, Any],
    world: int,
    build: Callable[[], Any],
    layer_decay: float = 1.0,
    teachers: dict[str, tuple[Teacher, bool]] | None = None,
) -> RankMemory:
    """Compute the memory of a rank of a job, for its micro-batch.

    Args:
        sharding: content of the DeepSpeed JSON.
        build: makes the model that is trained, without drop path, whose draws are not counted.
        teachers: outlines by name, and whether each is sharded.

    Raises:
        BadInput: the recomputation does not suit the student.
    """
    teachers = teachers or {}
    zero = read_sharding(config, sharding, world)
    batch = plan_batch(config.train.global_batch, config.train.micro_batch, world)
    size, dtype = config.data.view.image_size, compute_dtype(config.parallel)
    images = (batch.micro_batch, 3, size, size)
    with torch.device("meta"):
        model = build().train()
    trained = Trained(
        [[p.numel() for p in group["params"]] for group in parameter_groups(model, 1.0, layer_decay)],
        max(sum(p.numel() for p in module.parameters(recurse=False)) for module in model.modules()),
        config.train.ema_decay is not None,
    )
    apply_recompute(model.student, config.parallel.recompute)
    frozen, read = _of_teachers(teachers, zero)
    steps, save_every = config.schedule.steps, config.run.save_every
    passes = Passes(
        peak_of_training(model, images, dtype) + _targets(teachers, images),
        {f"{name}, activations": peak_of_evaluation(each, images, dtype) for name, (each, _) in teachers.items()},
    )
    more_than_last = steps is None or steps > save_every
    return rank_memory(trained, zero, passes, frozen, read, config.run.save_in_background and more_than_last)


def read_sharding(config: JobConfig, sharding: dict[str, Any], world: int) -> Sharding:
    """Read the settings of the DeepSpeed JSON that memory depends on, with DeepSpeed's own defaults."""
    zero = zero_settings(sharding)
    return Sharding(
        stage=int(zero.stage),
        world=world,
        precision=config.parallel.precision,
        reduce_bucket=int(zero.reduce_bucket_size),
        bucket_count=2 if zero.overlap_comm and zero.stage < 3 else 1,
        prefetch=int(zero.prefetch_bucket_size),
        persistent_below=int(zero.param_persistence_threshold),
        max_live=int(zero.max_live_parameters),
        max_reuse_distance=int(zero.max_reuse_distance),
        sub_group=int(zero.sub_group_size),
    )


def undropped(student: StudentConfig) -> StudentConfig:
    """Configuration of the student without drop path, whose draws come from outside."""
    return replace(student, drop_path=0.0)


def _of_teachers(teachers: dict[str, tuple[Teacher, bool]], zero: Sharding) -> tuple[Terms, float]:
    """Their weights in training, and the host's peak while they are read, one after another."""
    terms: Terms = {}
    waiting = peak = 0.0
    for name, (teacher, sharded) in teachers.items():
        tensors = [*teacher.parameters(), *teacher.buffers()]
        terms[name] = sum(
            value.numel() * (zero.weight_bytes if value.is_floating_point() else value.itemsize) for value in tensors
        ) / (zero.world if sharded else 1)
        size_in_bytes = sum(value.nbytes for value in tensors)
        peak = max(peak, waiting + 2 * size_in_bytes)  # the file's tensors and the model's
        waiting += size_in_bytes
    return terms, max(peak, waiting)


def _targets(teachers: dict[str, tuple[Teacher, bool]], images: tuple[int, ...]) -> float:
    """What the teachers say of a micro-batch, in fp32."""
    total = 0
    for teacher, _ in teachers.values():
        height, width = teacher.grid(images[2], images[3])
        tokens = 1 if teacher.logits else teacher.num_prefix_tokens + height * width
        total += 4 * images[0] * tokens * teacher.width
    return total
