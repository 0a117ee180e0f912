"""Memory of one rank that trains under DeepSpeed's ZeRO with AdamW: between steps, and at the peak.

Pure arithmetic on what the engine is configured with. Sources: arXiv 1910.02054 for what each stage spreads over the
ranks; DeepSpeed 0.19.8 for its buffers (`runtime/zero/stage3.py`, `stage_1_and_2.py`) and PyTorch 2.11 for the work
space of `torch.optim.AdamW`. The rules are written beside the terms, so that they can be held to another version.

Left out: memory that no tensor accounts for (kernels, communication libraries, the allocator's waste), and offload.

Letters: P parameters, N ranks, F the largest flat tensor that the optimizer updates at once, all in elements.
"""

import math
from dataclasses import dataclass

FP32 = 4

Terms = dict[str, float]
"""Bytes by what they are for."""

CONSTRUCTION, TEACHERS, STUDENT = "construction", "the teachers' pass", "the student's pass"
REDUCTION, UPDATE = "the reduction of gradients", "the update"
ALL_REDUCE = 500_000_000
"""Elements that DeepSpeed's `BF16_Optimizer` reduces at a time, whatever the JSON says: `MEMORY_OPT_ALLREDUCE_SIZE`."""


@dataclass(frozen=True)
class Sharding:
    """Settings of DeepSpeed that memory depends on, in elements where nothing else is said."""

    stage: int
    world: int
    precision: str
    reduce_bucket: int
    bucket_count: int
    """Reduce buckets that exist at once: stages 1 and 2 make two where communication overlaps."""
    prefetch: int = 0
    persistent_below: int = 0
    """Parameters that are at most so large stay gathered at stage 3."""
    max_live: int = 0
    max_reuse_distance: int = 0
    sub_group: int = 0

    @property
    def weight_bytes(self) -> int:
        return 2 if self.precision == "bf16" else FP32

    @property
    def keeps_gradients_whole(self) -> bool:
        """Whether all gradients stay on every rank, in fp32.

        They do in stage 1 with bf16, which DeepSpeed's `BF16_Optimizer` serves.
        """
        return self.stage == 1 and self.precision == "bf16"

    def share(self, elements: int) -> int:
        return math.ceil(elements / self.world)


@dataclass(frozen=True)
class Trained:
    """Parameters of a model, in elements."""

    groups: list[list[int]]
    """Of each parameter, by group of the optimizer."""
    largest_module: int
    """Parameters that one module owns itself; stage 3 gathers them together."""
    average: bool = False
    """A moving average is kept."""

    @property
    def sizes(self) -> list[int]:
        return [size for group in self.groups for size in group]

    @property
    def total(self) -> int:
        return sum(self.sizes)


@dataclass(frozen=True)
class Passes:
    """Memory that depends on the batch, in bytes; see `live_bytes`."""

    student: float
    """Peak of the student's forward and backward pass, with the targets, besides parameters and gradients."""
    teachers: Terms
    """Peak of the teachers' forward pass."""


@dataclass(frozen=True)
class RankMemory:
    steady: Terms
    """Between two steps."""
    phases: dict[str, Terms]
    """What each part of a step needs, `steady` included; and construction, before all of that is there."""
    host: Terms
    """Between two steps, in the host's memory whatever the device: on a GPU it is not the GPU's."""
    cpu_phases: dict[str, Terms]
    """What operators and communication need in a phase on a CPU, and not on a GPU."""

    @property
    def peak_phase(self) -> str:
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))

    @property
    def peak(self) -> float:
        return sum(self.phases[self.peak_phase].values())

    @property
    def cpu_phase(self) -> str:
        """Phase of `peak_on_cpu`."""
        return max(self.phases, key=self._on_cpu)

    @property
    def peak_on_cpu(self) -> float:
        """Peak in bytes of a rank that trains on a CPU, where all memory is the host's."""
        return self._on_cpu(self.cpu_phase)

    @property
    def peak_beside_gpu(self) -> float:
        """Of the host's memory, where a rank trains on a GPU: while weights are read, or between two steps."""
        reading = {**self.phases[CONSTRUCTION], **self.cpu_phases.get(CONSTRUCTION, {})}
        return max(sum(reading.values()), sum(self.host.values()))

    @property
    def saved(self) -> float:
        """Its share of a checkpoint, roughly: what the optimizer and the moving average hold."""
        return sum(self.steady.get(name, 0.0) for name in ("optimizer", "moving average"))

    def _on_cpu(self, phase: str) -> float:
        host = self.host if phase != CONSTRUCTION else {}
        return sum(sum(terms.values()) for terms in (self.phases[phase], host, self.cpu_phases.get(phase, {})))


def steady(trained: Trained, sharding: Sharding) -> Terms:
    """Compute the bytes between two steps.

    bf16: 2 bytes of weight, 4 of master weight, 8 of Adam's states. fp32: 4 of weight, 8 of states, and below stage 3
    another 4, because the optimizer then updates a copy. Gradients are summed in fp32 (4 bytes). Stage 3 keeps its part
    of them and its bucket between steps, and stage 1 in bf16 keeps all; the others make theirs in each backward pass.
    """
    weight, share = sharding.weight_bytes, sum(map(sharding.share, trained.sizes))
    master = FP32 if sharding.precision == "bf16" or sharding.stage < 3 else 0
    terms: Terms = {
        "weights": weight * (share if sharding.stage == 3 else trained.total),
        "optimizer": (master + 2 * FP32) * share,
    }
    if sharding.stage == 3:
        small = sum(size for size in trained.sizes if size <= sharding.persistent_below)
        terms["weights"] += weight * small
        terms["gradients"] = FP32 * share
        terms["reduce bucket"] = weight * sharding.reduce_bucket
    if sharding.keeps_gradients_whole:
        terms["gradients"] = FP32 * trained.total
    if trained.average:
        terms["moving average"] = FP32 * share
    return terms


def rank_memory(
    trained: Trained, sharding: Sharding, passes: Passes, teachers: Terms, loading: float, saving_copy: bool
) -> RankMemory:
    """Compute the memory of a rank between steps, in each phase of a step, and on the host.

    Args:
        teachers: the frozen weights, in the precision and sharding that they have in training.
        loading: the host's peak while the teachers are read, which is before the student is built.
        saving_copy: checkpoints are copied to the host and written while training continues.
    """
    always: Terms = {**steady(trained, sharding), **teachers}
    phases: dict[str, Terms] = {
        # Below stage 3 the student is built whole and in fp32.
        CONSTRUCTION: {"student, whole": FP32 * trained.total if sharding.stage < 3 else 0},
        TEACHERS: {**always, **passes.teachers},
        STUDENT: {**always, "activations": passes.student},
        UPDATE: {**always, **_gradients(trained, sharding), **_updating(trained, sharding)},
    }
    cpu_phases: dict[str, Terms] = {
        # The teachers wait in fp32 until the student is built.
        CONSTRUCTION: {"teachers, read": loading},
        # Tensor by tensor, AdamW makes the root and then the denominator; on a GPU it works in one.
        UPDATE: {"AdamW's second temporary": FP32 * max(flats(trained, sharding))},
    }
    if sharding.keeps_gradients_whole:
        phases[REDUCTION] = {**always, **_reducing_whole(trained, sharding)}
    else:
        filled = min(sharding.reduce_bucket, trained.total)
        held = _held_in_backward(trained, sharding)
        # A bucket that is full is reduced. The activations of the blocks that filled it are gone by then.
        left = passes.student * (1 - filled / trained.total)
        phases[STUDENT] |= held
        phases[REDUCTION] = {**always, "activations": left, **held, **_reducing(trained, sharding)}
        # gloo reduces a copy of what it is given.
        cpu_phases[REDUCTION] = {"copy in gloo": sharding.weight_bytes * filled}
    share = sum(map(sharding.share, trained.sizes))
    host: Terms = {"copy of a checkpoint": FP32 * (3 + trained.average) * share} if saving_copy else {}
    return RankMemory(always, phases, host, cpu_phases)


def flats(trained: Trained, sharding: Sharding) -> list[int]:
    """List the elements of the flat tensors that a rank's optimizer updates one after another."""
    if sharding.stage < 3:
        return [sharding.share(sum(group)) for group in trained.groups]
    found: list[int] = []
    for group in trained.groups:
        filled = 0
        for size in group:
            filled += sharding.share(size)
            if filled >= sharding.sub_group:
                found.append(filled)
                filled = 0
        found += [filled] if filled else []
    return found


def gathered(trained: Trained, sharding: Sharding) -> int:
    """Compute how many elements of whole parameters stage 3 holds at once.

    Small ones, which it never lets go, are not counted.

    A module's own are there while it runs, the next ones are fetched meanwhile, and what has run is kept if it is
    needed again within `max_reuse_distance`: at the turn from forward to backward, half that distance lies on either
    side.
    """
    large = sum(size for size in trained.sizes if size > sharding.persistent_below)
    wanted = sharding.max_reuse_distance // 2 + sharding.prefetch + trained.largest_module
    return min(large, wanted, max(sharding.max_live, trained.largest_module))


def _gradients(trained: Trained, sharding: Sharding) -> Terms:
    """Made in each backward pass, where they are not kept: one flat fp32 tensor for each group."""
    made = sharding.stage < 3 and not sharding.keeps_gradients_whole
    return {"gradients": FP32 * sharding.share(trained.total)} if made else {}


def _reducing_whole(trained: Trained, sharding: Sharding) -> Terms:
    """The backward pass's own gradients, and an fp32 copy of those that are reduced together, and that copy in bf16."""
    return {
        "gradients in bf16": sharding.weight_bytes * trained.total,
        "reducing": (FP32 + sharding.weight_bytes) * min(ALL_REDUCE, trained.total),
    }


def _held_in_backward(trained: Trained, sharding: Sharding) -> Terms:
    """Whole parameters at stage 3, and the buckets of the other stages."""
    if sharding.stage < 3:
        return _buckets(sharding)
    return {"gathered parameters": sharding.weight_bytes * gathered(trained, sharding)}


def _reducing(trained: Trained, sharding: Sharding) -> Terms:
    """Gradients on their way to the ranks that own them.

    Stage 3 cuts the bucket into the ranks' parts in a copy, and makes this rank's part fp32.
    """
    if sharding.stage < 3:
        return _gradients(trained, sharding)
    weight, filled = sharding.weight_bytes, min(sharding.reduce_bucket, trained.total)
    return {"reducing": weight * filled + (FP32 * sharding.share(filled) if weight < FP32 else 0)}


def _buckets(sharding: Sharding) -> Terms:
    """Of stages 1 and 2, made anew in each backward pass."""
    return {"reduce buckets": sharding.weight_bytes * sharding.reduce_bucket * sharding.bucket_count}


def _updating(trained: Trained, sharding: Sharding) -> Terms:
    """AdamW's root of the second moment, as large as the flat tensor; and that tensor's gradient, where it is copied.

    Stage 3 copies always, the others in fp32, where the gradients lie in pieces. Stage 1 then still has its buckets, of
    which the gradients of other ranks' parameters are views.
    """
    largest = max(flats(trained, sharding))
    copied = sharding.stage == 3 or sharding.precision == "fp32"
    held = _buckets(sharding) if sharding.stage == 1 and sharding.precision == "fp32" else {}
    return {"optimizer's work space": FP32 * largest * (2 if copied else 1), **held}
