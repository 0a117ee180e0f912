"""`convert`: published weights to a file like an export's."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fd_scale.fields import Count, Pixels
from fd_scale.verbs.verb import Argument, Option, verb

if TYPE_CHECKING:
    from fd_scale.models.weights import LoadReport


def _show(report: "LoadReport", out: str | Path, **given: Any) -> None:
    print(report)
    print(Path(out))


@verb(
    "fd-scale convert swinv2_base_patch4_window8_256.pth swin_v2_base.safetensors --licence MIT\n"
    "  fd-scale convert mae_pretrain_vit_base.pth vit_base_mae.safetensors --neutral-gaps\n"
    "  fd-scale convert timm:swinv2_tiny_window8_256.ms_in1k swin_v2_tiny.safetensors\n\n"
    "Reads Microsoft's and SimMIM's SwinV2, feature distillation's SwinV2 and ViT, DINO, DeiT, MAE, BEiT, timm's.\n"
    "The result serves as student.weights, and as weights of FDSwinV2 and FDViT.",
    show=_show,
)
def convert(
    source: Annotated[str | Path, Argument("torch or safetensors file, or timm:NAME", "IN")],
    out: Annotated[str | Path, Argument("safetensors file to write")],
    *,
    student: Annotated[str | None, Option("refuse the file unless it holds this student", "NAME")] = None,
    image_size: Annotated[
        Pixels | None, Option("size of its training images, if the file does not say it", "N")
    ] = None,
    window: Annotated[
        Count | None, Option("attention window of a SwinV2 (default: the file's, else the student's)", "N")
    ] = None,
    pretrained_window: Annotated[
        Sequence[Count] | None,
        Option("for each stage, the window that its position bias was trained with, if the file does not say it", "N"),
    ] = None,
    key: Annotated[
        str | None,
        Option(
            "name of the tensors in a file that holds several models, such as model (default: the average, such as "
            "model_ema, if there is one; raw: the weights without it)"
        ),
    ] = None,
    neutral_gaps: Annotated[
        bool, Option("fill what the file lacks with the values at which it does nothing (LayerScale 1, biases 0)")
    ] = False,
    licence: Annotated[str | None, Option("licence of the weights, for the record", "TEXT")] = None,
) -> "LoadReport":
    """Write published weights of a student as a file like an export's, and say what became of every tensor.

    See `fd_scale.convert` for the formats.

    Returns:
        The `fd_scale.models.weights.LoadReport`.
    """
    from fd_scale.convert import convert as convert_weights

    return convert_weights(
        source,
        Path(out),
        student=student,
        image_size=image_size,
        window=window,
        pretrained_window=tuple(pretrained_window) if pretrained_window else None,
        key=key,
        neutral=neutral_gaps,
        licence=licence,
    )
