"""`export`: the student out of a run."""

from pathlib import Path
from typing import Annotated, Literal

from fd_scale.fields import Limit
from fd_scale.progress import bar
from fd_scale.verbs.verb import Argument, Option, print_result, verb


@verb(
    "fd-scale export runs/clip_vit_b16 student.safetensors\n"
    "  fd-scale export s3://bucket/clip_vit_b16 student.safetensors --ema --dtype bf16\n\n"
    "Streams: it needs memory for the largest tensor, not for the model.",
    show=print_result,
)
def export(
    run: Annotated[str | Path, Argument("run folder, or a folder or URL of checkpoints")],
    out: Annotated[str | Path, Argument("file to write")],
    *,
    step: Annotated[Limit | None, Option("checkpoint to take (default: the newest whole one)")] = None,
    ema: Annotated[bool, Option("take the moving average (train.ema_decay) of the weights")] = False,
    dtype: Annotated[Literal["fp32", "bf16", "fp16"], Option("type of the tensors in the file")] = "fp32",
    classifier: Annotated[bool, Option("keep the classifier of a fine-tuning run")] = False,
) -> Path:
    """Write the student of a run, alone, as one safetensors file.

    Head, optimizer and teacher stay behind.

    Returns:
        The file.
    """
    from fd_scale.export import export as export_student

    return export_student(
        run, Path(out), step=step, ema=ema, dtype=dtype, classifier=classifier, progress=bar("tensor")
    )
