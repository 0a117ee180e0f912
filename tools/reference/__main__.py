"""Make `tests/reference/`: what published code computes, for our models, loaders and recipes to be held to.

Runs the code of two repositories from clones, at whatever commit they stand on, and keeps numbers only: a safetensors
file for each case with weights under their published names, inputs, outputs and gradients, and a JSON beside it with
the repository, the commit, the seed, the versions of torch and timm, and the error of the published code in fp32.

    git clone https://github.com/microsoft/Swin-Transformer clones/Swin-Transformer
    git clone https://github.com/SwinTransformer/Feature-Distillation clones/Feature-Distillation
    pip install --target published timm==0.4.12 yacs 'scipy<1.14'
    PYTHONPATH=published python -m tools.reference clones tests/reference

The three packages are what that code was written for: its schedulers are those of timm 0.4.12, and its tables are
resized by a function that SciPy 1.14 took away. It runs unchanged but for two things: loaders of teachers that would
download give tiny ones, and in fp64 runs nothing is rounded to fp32 (`reference/upstream.py`).
"""

import argparse
import json
import sys
from pathlib import Path

import scipy
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from tools.reference import backbones, recipes, remaps, step
from tools.reference.upstream import Clone

TIMM = "0.4.12"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.reference", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clones", type=Path, help="folder with Swin-Transformer and Feature-Distillation")
    parser.add_argument("out", type=Path, help="folder of the fixtures; tests/reference")
    options = parser.parse_args()
    if timm.__version__ != TIMM or version(scipy.__version__) >= (1, 14):
        print(f"needs timm {TIMM} and SciPy before 1.14, not {timm.__version__} and {scipy.__version__}; see its head")
        return 2
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    make_all(options.clones, options.out)
    return 0


def version(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def make_all(clones: Path, out: Path) -> None:
    def clone(repository: str) -> Clone:
        return Clone(repository, clones / repository.partition("/")[2])

    for name, case in backbones.CASES.items():
        write(out, name, clone(case.repository), *backbones.run_case(case, clone(case.repository)))
    for name in step.TEACHERS:
        write(out, name, clone(step.REPOSITORY), *step.run_step(name, clone(step.REPOSITORY)))
    for name, make in remaps.MAKERS.items():
        write(out, name, clone(remaps.REPOSITORY), make(clone(remaps.REPOSITORY)), {})
    write(out, "fd_recipes", clone(recipes.REPOSITORY), *recipes.run_recipes(clone(recipes.REPOSITORY)))


def write(out: Path, name: str, clone: Clone, tensors: dict[str, Tensor], facts: dict) -> None:
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, out / f"{name}.safetensors")
    source = {"repository": clone.repository, "commit": clone.commit, "seed": backbones.SEED}
    versions = {"torch": torch.__version__, "timm": timm.__version__, "scipy": scipy.__version__}
    (out / f"{name}.json").write_text(json.dumps({**source, **versions, **facts}, indent=1) + "\n")
    print(f"{name}: {len(tensors)} tensors of {clone.repository} at {clone.commit[:12]}")


if __name__ == "__main__":
    sys.exit(main())
