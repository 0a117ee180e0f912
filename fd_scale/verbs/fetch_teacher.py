"""`fetch-teacher`: a teacher as one file, for machines without network."""

from pathlib import Path
from typing import Annotated, Any

from fd_scale.verbs.verb import Argument, Option, verb


def _show(stated: dict[str, Any], out: str | Path, **given: Any) -> None:
    file = Path(out)
    print(f"{file}: {stated['description']}, licence {stated['licence']}, sha256 {stated['sha256']}")
    print(f"use it with teacher.spec=file:{file}")


@verb(
    "fd-scale fetch-teacher timm:vit_base_patch16_clip_quickgelu_224.openai clip_b16.safetensors\n"
    "  fd-scale fetch-teacher fd_scale:esvit_swin_base_window14@checkpoint_best.pth esvit.safetensors\n\n"
    "timm:NAME needs network; with @PATH nothing does. Architecture, pixel statistics, licence, source and a hash\n"
    "of the weights go into the file; teacher.spec=file:OUT reads it and checks the hash.",
    show=_show,
)
def fetch_teacher(
    spec: Annotated[str, Argument("timm:NAME, timm:NAME@PATH or fd_scale:NAME@PATH")],
    out: Annotated[str | Path, Argument("safetensors file to write")],
    *,
    pixels: Annotated[
        str | None,
        Option("pixel statistics of a fd_scale:NAME that does not imply them: imagenet, clip or half", "NAME"),
    ] = None,
    key: Annotated[
        str | None,
        Option("name of the tensors in PATH (default: the average, if there is one; raw: the weights without it)"),
    ] = None,
) -> dict[str, Any]:
    """Write a teacher to one file that says what it is, for machines without network.

    The file holds its architecture, statistics, licence, source and hash, and `teacher.spec=file:OUT` reads it. See
    `fd_scale.teachers.staging`.

    Returns:
        What the file says of itself.
    """
    from fd_scale.teachers.staging import fetch_teacher as fetch

    return fetch(spec, Path(out), pixels=pixels, key=key)
