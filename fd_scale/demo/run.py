"""`fd-scale demo`: the whole job on a small machine, stage by stage; a finished stage is used again.

photographs -> crops -> shards -> distillation on two processes -> student -> proof -> page
"""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fd_scale.data.packing.pack import pack
from fd_scale.data.packing.workers import default_workers
from fd_scale.demo.photos import Photograph, photographs, write_crops
from fd_scale.errors import BadInput
from fd_scale.export import export
from fd_scale.files import check_folder, write_whole
from fd_scale.launch import launch
from fd_scale.launch.environment import default_nproc
from fd_scale.progress import bar
from fd_scale.redaction import redacted, without_secrets

CONFIG = "configs/demo/swin_v2.yaml"
SETTINGS = "demo.txt"


def demo(out: Path, *, images: Path | None = None, teacher: str, overrides: Sequence[str] = ()) -> Path:
    """Run what is missing in `out` and prove that the student learned.

    Args:
        images: folder of photographs; those of installed packages by default.
        teacher: spec, see `fd_scale.teachers`.
        overrides: `key=value` of the distillation's config.

    Returns:
        The page.

    Raises:
        BadInput: `out` belongs to a demo of other settings; too few or broken photographs; or the student explains
            no more of its target than a baseline does.
        SystemExit: the distillation failed, having said why; with its exit code.
    """
    taken = photographs(images)
    _claim(out, [f"images: {images or 'packages'}", f"teacher: {teacher}", *overrides])
    page = out / "index.html"
    if page.exists():
        print(f"{page} stands already; remove {out} to start again", file=sys.stderr)
        return page
    crops, shards, run, student = out / "crops", out / "shards", out / "run", out / "student.safetensors"
    _stage("cutting crops", crops, lambda: write_crops(taken, crops))
    _stage("packing shards", shards, lambda: _pack(crops / "train", shards))
    _stage("distilling on two processes", student, lambda: _distill(shards, run, student, teacher, overrides))
    _stage("measuring and drawing", page, lambda: _prove(crops, run, student, taken, page))
    return page


def _claim(out: Path, settings: list[str]) -> None:
    """One folder, one demo: stages of other photographs or another teacher must not be mixed."""
    file = out / SETTINGS
    text = redacted("\n".join(settings) + "\n")
    check_folder(out, "--out")
    if file.exists():
        there = file.read_text(errors="replace")
        if without_secrets(there) != without_secrets(text):
            before = there.strip().replace("\n", ", ")
            raise BadInput(f"{out} holds a demo of {before}; give another --out for this one")
        return
    if out.exists() and any(out.iterdir()):
        raise BadInput(f"{out} holds something else than a demo; give another --out")
    write_whole(file, text)


def _stage(label: str, product: Path, make: Callable[[], object]) -> None:
    if product.exists():
        print(f"-- {label}: re-using {product}", file=sys.stderr)
        return
    print(f"-- {label}", file=sys.stderr)
    began = time.monotonic()
    make()
    print(f"   {product}, {time.monotonic() - began:.0f} s", file=sys.stderr)


def _pack(crops: Path, shards: Path) -> None:
    pack(crops, shards, shard_samples=250, workers=default_workers(), progress=bar("image"))


def _distill(shards: Path, run: Path, student: Path, teacher: str, overrides: Sequence[str]) -> None:
    settings = [f"data.train={shards}", f"run.folder={run}", f"teacher.spec={teacher}", *overrides]
    # Two processes on a CPU; a GPU serves one.
    code = launch(["distill", CONFIG, *settings], nproc=max(2, default_nproc()) if _on_cpu() else None)
    if code:
        raise SystemExit(code)
    export(run, student, dtype="fp32", progress=bar("tensor"))


def _prove(crops: Path, run: Path, student: Path, taken: list[Photograph], page: Path) -> None:
    from fd_scale.demo.evaluate import evaluate
    from fd_scale.demo.page import write_page

    proof = evaluate(crops, run, student, [photograph.path for photograph in taken if photograph.held_out][:4])
    print(proof.as_text(), file=sys.stderr)
    write_page(page, run, proof)
    if not proof.learned:
        page.rename(page.with_name("failed.html"))
        raise BadInput(f"the student does not beat every baseline; see {page.with_name('failed.html')}")


def _on_cpu() -> bool:
    import torch

    return not torch.cuda.is_available()
