"""`demo`: the whole job on a small machine."""

from pathlib import Path
from typing import Annotated

from fd_scale.verbs.verb import Option, print_result, verb


@verb("fd-scale demo --images ~/Pictures", show=print_result)
def demo(
    out: Annotated[str | Path, Option("folder of the demo", "FOLDER")] = "runs/demo",
    *,
    images: Annotated[str | Path | None, Option("your photographs (default: those of packages)", "FOLDER")] = None,
    teacher: Annotated[
        str,
        Option("for example timm:vit_small_patch16_224.dino, which needs network; demo: the small one shipped", "SPEC"),
    ] = "demo",
) -> Path:
    """Run the whole job on real photographs in minutes: pack, distill, export, proof, page.

    The page shows what the student learned.

    Returns:
        The page.
    """
    from fd_scale.demo.run import demo as run_demo

    return run_demo(Path(out), images=Path(images) if images else None, teacher=teacher)
