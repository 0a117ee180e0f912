"""`wise-ft`: mixtures of two classifiers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from fd_scale.exits import is_first_rank
from fd_scale.fields import Count, Range, Share, Workers
from fd_scale.verbs.verb import Argument, Option, verb


def _show(curve: list[dict[str, Any]], **given: Any) -> None:
    if is_first_rank():
        for entry in curve:
            shares = "  ".join(f"{name} {share:.2%}" for name, share in entry.items() if name != "alpha")
            print(f"  alpha {entry['alpha']:<5g} {shares}")


@verb("fd-scale wise-ft probe.safetensors finetuned.safetensors shards/imagenet-val shards/imagenet-v2", show=_show)
def wise_ft(
    first: Annotated[str | Path, Argument("file written by `fd-scale export --classifier`: alpha 0")],
    second: Annotated[str | Path, Argument("another file of the same architecture: alpha 1")],
    validation: Annotated[Sequence[str], Argument("labelled shards; the first set chooses for --out", "SHARDS")],
    *,
    alphas: Annotated[
        Sequence[Share] | None, Option("shares of SECOND to measure (default: 0, 0.1 ... 1)", "SHARE")
    ] = None,
    out: Annotated[str | Path | None, Option("write the best mixture", "FILE")] = None,
    batch: Annotated[Count, Option("images that a rank validates at a time", "N")] = 64,
    workers: Annotated[Workers, Option("decoding processes of a rank", "N")] = 4,
    crop: Annotated[
        Annotated[float, Range(0.01, 1)] | None,
        Option("share of the short side that is looked at (default: that of finetune.view.crop)", "SHARE"),
    ] = None,
) -> list[dict[str, Any]]:
    """Measure the accuracy of mixtures of two classifiers' weights (WiSE-FT).

    Runs as one rank of the process group that the environment describes.

    Returns:
        One entry for each alpha (0: the first alone): `alpha`, and the accuracy by data set.
    """
    from fd_scale.data.config import EvaluationView
    from fd_scale.evaluate.wise_ft import wise_ft as run
    from fd_scale.parallel import ranks as process_group

    ranks = process_group.start()
    curve = run(
        Path(first),
        Path(second),
        validation,
        ranks,
        alphas=alphas,
        out=Path(out) if out else None,
        batch=batch,
        workers=workers,
        view=EvaluationView() if crop is None else EvaluationView(crop),
    )
    process_group.finish()
    return curve
