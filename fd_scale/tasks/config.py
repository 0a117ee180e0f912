"""The configuration of each task, put together from those of the parts; each part goes to its owner.

Imports no torch, so that a configuration is read and refused at once.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from fd_scale.data.config import DataConfig, EvaluationView, MixConfig
from fd_scale.evaluate.config import TrainingProbeConfig
from fd_scale.fields import Count, MayDiffer, NotNegative, PositiveShare
from fd_scale.models.config import StudentConfig
from fd_scale.objective.config import LossConfig, TargetConfig
from fd_scale.parallel.config import ParallelConfig
from fd_scale.teachers.config import TeacherConfig
from fd_scale.train.config import OptimConfig, RunConfig, ScheduleConfig, StartConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """Configuration that every training job takes; a task adds its own sections."""

    run: Annotated[RunConfig, MayDiffer()]
    """Where the run leaves what it did, and how often."""
    data: DataConfig
    """The images, their order and their view."""
    train: TrainConfig
    """The batch, the seed, the moving average, and what guards the loss."""
    schedule: ScheduleConfig
    """The length of the run and its learning rate: a linear warm-up to the peak, then half a cosine to the minimum."""
    optim: OptimConfig = OptimConfig()
    """AdamW, and the clipping of the gradient."""
    start: StartConfig = StartConfig()
    """What a run without checkpoints of its own begins with. By default it begins with weights drawn at random, or
    those of `student.weights`."""
    parallel: ParallelConfig = ParallelConfig()
    """How the model is spread over the ranks, and in what it is computed."""


FIRST = "teacher"
"""What the teacher of the section `teacher` is called beside those of `more_teachers`."""


@dataclass(frozen=True)
class MoreTeacherConfig(TeacherConfig):
    weight: NotNegative = 1.0
    """Weight of this teacher's loss, where the loss of the section `teacher` has weight 1."""


@dataclass(frozen=True, kw_only=True)
class DistillConfig(JobConfig):
    """Configuration of `fd-scale distill`."""

    teacher: TeacherConfig
    """The frozen model that the student learns from."""
    more_teachers: dict[str, MoreTeacherConfig] = field(default_factory=dict)
    """Further teachers by a name of yours, made of letters, digits and _. The student has a head for each; `target` and
    `loss` hold for all."""
    student: StudentConfig
    """The model that is trained."""
    student_pixels: Literal["imagenet", "clip", "half", "teacher"] = "imagenet"
    """Pixel statistics of the student's images, of its exports and of what they are fine-tuned with; `teacher` takes
    those of the section `teacher`. The released code gives every student ImageNet's, whatever its teacher sees."""
    target: TargetConfig = TargetConfig()
    """What the student is asked to match, the same for all teachers."""
    loss: LossConfig = LossConfig()
    """How the difference between prediction and target counts."""
    probe: TrainingProbeConfig = TrainingProbeConfig()
    """kNN accuracy of the student's features during training, every `run.evaluate_every` steps, logged as `knn`.
    `run.keep.best=knn run.keep.best_is=highest` keeps the best checkpoint."""

    @property
    def teachers(self) -> dict[str, TeacherConfig]:
        return {FIRST: self.teacher, **self.more_teachers}


@dataclass(frozen=True)
class FinetuneConfig:
    validation: str | None = None
    """Folder of labelled shards to validate on every `run.evaluate_every` steps. Its classes are found by their names,
    and may be fewer than those of training."""
    view: EvaluationView = EvaluationView()
    """The view of an image in validation."""
    batch: Count = 64
    """Images that a rank validates at a time."""
    classes: Count | None = None
    """Number of classes of the classifier; null takes as many as the labels of `data.train` number."""
    norm: Literal["auto", "fresh", "kept"] = "auto"
    """The final norm: `fresh` is a new one behind the pooling, as published for a ViT; `kept` is the student's own, as
    published for Swin; `auto` chooses by the student."""
    head: Literal["fresh", "kept"] = "fresh"
    """Where the classifier starts: `fresh` draws it at random; `kept` takes it, and the norm behind the pooling, from
    `student.weights`."""
    head_classes: str | None = None
    """File that matches the classes to those of a kept head with other ones. Line k is the class of that head from
    which class k starts, or -1 for none; from ImageNet-22K to 1K these are 1000 lines."""
    layer_decay: PositiveShare = 1.0
    """Factor of the learning rate from each layer to the one below it, the head having the full rate; 1 gives all the
    same."""
    mix: MixConfig = MixConfig()
    """Mixup, cutmix, label smoothing and random erasing; by default those of the published recipe."""
    pixels: Literal["imagenet", "clip", "half"] = "imagenet"
    """Pixel statistics of training and validation. The released code trains every student with ImageNet's."""
    paper_compat: bool = False
    """Whether to validate with CLIP's pixel statistics whatever those of training, as the released code does."""


@dataclass(frozen=True, kw_only=True)
class FinetuneJobConfig(JobConfig):
    """Configuration of `fd-scale finetune`."""

    student: StudentConfig
    """The model that is fine-tuned."""
    finetune: FinetuneConfig = FinetuneConfig()
    """The classifier, its validation, and what only fine-tuning has."""
