"""The configuration of each task, put together from those of the parts; each part goes to its owner.

Imports no torch, so that a configuration is read and refused at once.
"""

from dataclasses import dataclass, field
from typing import Literal

from fd_scale.data.config import DataConfig, EvaluationView, MixConfig
from fd_scale.evaluate.config import TrainingProbeConfig
from fd_scale.fields import Count, NotNegative, PositiveShare
from fd_scale.models.config import StudentConfig
from fd_scale.objective.config import LossConfig, TargetConfig
from fd_scale.parallel.config import ParallelConfig
from fd_scale.teachers.config import TeacherConfig
from fd_scale.train.config import OptimConfig, RunConfig, ScheduleConfig, StartConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """What every job takes; a task adds its own sections. Each part goes to its owner."""

    run: RunConfig
    data: DataConfig
    train: TrainConfig
    schedule: ScheduleConfig
    optim: OptimConfig = OptimConfig()
    start: StartConfig = StartConfig()
    parallel: ParallelConfig = ParallelConfig()


FIRST = "teacher"
"""What the teacher of the section `teacher` is called beside those of `more_teachers`."""


@dataclass(frozen=True)
class MoreTeacherConfig(TeacherConfig):
    weight: NotNegative = 1.0
    """Of its loss, where that of the section `teacher` counts 1."""


@dataclass(frozen=True, kw_only=True)
class DistillConfig(JobConfig):
    """What `fd-scale distill` takes."""

    teacher: TeacherConfig
    more_teachers: dict[str, MoreTeacherConfig] = field(default_factory=dict)
    """Further ones by a name of yours, each with a head of its own; `target` and `loss` hold for all."""
    student: StudentConfig
    student_pixels: Literal["imagenet", "clip", "half", "teacher"] = "imagenet"
    """Pixel statistics of the student's images, of its exports and of what they are fine-tuned with. The released code
    gives every student ImageNet's, whatever its teacher sees; `teacher`: those of the section `teacher`."""
    target: TargetConfig = TargetConfig()
    loss: LossConfig = LossConfig()
    probe: TrainingProbeConfig = TrainingProbeConfig()

    @property
    def teachers(self) -> dict[str, TeacherConfig]:
        return {FIRST: self.teacher, **self.more_teachers}


@dataclass(frozen=True)
class FinetuneConfig:
    """The part of the configuration that only fine-tuning has."""

    validation: str | None = None
    """Folder of shards to validate on every `run.evaluate_every` steps; its classes are found by their names, and may
    be fewer than those of training."""
    view: EvaluationView = EvaluationView()
    batch: Count = 64
    """Images that a rank validates at a time."""
    classes: Count | None = None
    """Of the classifier; by default as many as the labels of `data.train` number."""
    norm: Literal["auto", "fresh", "kept"] = "auto"
    """Final norm: `fresh` behind the pooling, as published for a ViT, or the student's own, as for Swin."""
    head: Literal["fresh", "kept"] = "fresh"
    """`kept`: classifier, and norm behind the pooling, go on from those in `student.weights`."""
    head_classes: str | None = None
    """With a kept head of other classes: a file whose line k is the class of that head that class k goes on from, or -1
    for none. From ImageNet-22K to 1K these are 1000 lines."""
    layer_decay: PositiveShare = 1.0
    mix: MixConfig = MixConfig()
    pixels: Literal["imagenet", "clip", "half"] = "imagenet"
    """Statistics of training and validation. The released code trains every student with ImageNet's."""
    paper_compat: bool = False
    """Validate with CLIP's statistics whatever the training's, as the released code does."""


@dataclass(frozen=True, kw_only=True)
class FinetuneJobConfig(JobConfig):
    """What `fd-scale finetune` takes."""

    student: StudentConfig
    finetune: FinetuneConfig = FinetuneConfig()
