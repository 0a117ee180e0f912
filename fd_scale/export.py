"""Export of the student of a run: one safetensors file with what is needed to rebuild it and where it came from.

Streams from the checkpoint, one tensor in memory at a time, whatever the model and however many ranks wrote it. Left to
a later change: other formats. `write_student` serves `fd_scale.convert` as well.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fd_scale.errors import BadInput
from fd_scale.files import check_target, parse_json, refusing_full_disk, whole_file
from fd_scale.finite import all_finite
from fd_scale.lease import held
from fd_scale.models.backbone import Backbone
from fd_scale.models.classifier import Classifier
from fd_scale.models.weights.loading import load_weights
from fd_scale.models.weights.reading import read_file
from fd_scale.models.weights.sealed import PENDING, STUDENT_KEY, check_description, check_file, digest, sealed
from fd_scale.models.zoo import build_student, student_of_origin
from fd_scale.parallel.checkpoint.reader import BUFFER, WEIGHT, CheckpointReader, read_whole
from fd_scale.parallel.checkpoint.storage import checkpoints_of
from fd_scale.parallel.checkpoint.tensor_file import Plan, TensorFileWriter
from fd_scale.parallel.ema import EMA
from fd_scale.progress import Progress, silent
from fd_scale.redaction import redacted

PREFIX = "student."
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Dtype = Literal["fp32", "bf16", "fp16"]


def export(
    run: str | Path,
    out: Path,
    *,
    step: int | None = None,
    ema: bool = False,
    dtype: Dtype,
    classifier: bool = False,
    progress: Progress = silent,
) -> Path:
    """Write the student of the newest whole checkpoint, or of `step`, to `out`, and read it again to check it.

    Args:
        run: a run folder, or a folder or URL of checkpoints.
        ema: take the moving average of the weights.
        classifier: with the classifier of a fine-tuning run, its names as timm has them (`fc_norm`, `head`); loading
            the file as a student ignores it.
        progress: wraps the tensors' names while they are written.

    Returns:
        `out`

    Raises:
        BadInput: `run` holds no such whole checkpoint, or no average; `out` is no place for a file; the disk is full.
        Retry: another start writes `out`; or the run continues and removes its checkpoints faster than they are read.
    """
    check_target(out, "OUT")
    read_whole(checkpoints_of(run), step, partial(_write, out, ema, dtype, classifier, progress))
    return out


def _write(out: Path, ema: bool, dtype: Dtype, classifier: bool, progress: Progress, reader: CheckpointReader) -> None:
    config = reader.record["config"]
    keys = {name: EMA if ema and reader.has(name, EMA) else WEIGHT for name in reader.names()}  # frozen ones have none
    keys |= dict.fromkeys(reader.names(BUFFER), BUFFER)
    if classifier and "classes" not in reader.record:
        raise BadInput(f"{reader.where} is of no fine-tuning run, so it has no classifier; leave out --classifier")
    named = {name.removeprefix(PREFIX): name for name in keys if classifier or name.startswith(PREFIX)}
    if ema and EMA not in reader.keys:
        raise BadInput(f"{reader.where} holds no moving average; leave out --ema, or train with train.ema_decay")
    origin = {
        "student": config["student"],
        "image_size": config["data"]["view"]["image_size"],
        "step": reader.step,
        "ema": ema,
        **{key: value for key, value in reader.record.items() if key != "guard"},
    }
    to = DTYPES[dtype]
    plan = {
        short: (to if keys[name] != BUFFER else reader.dtype(BUFFER), reader.shape(name, keys[name]))
        for short, name in named.items()
    }

    def read(short: str) -> Tensor:
        kind, shape = plan[short]
        tensor = reader.read(named[short], keys[named[short]]).to(kind).view(shape)
        if keys[named[short]] != BUFFER and not all_finite(tensor):
            raise BadInput(
                f"{reader.where}: {short} as {dtype} holds NaN or infinity; take an earlier step with --step, or "
                f"another --dtype"
            )
        return tensor

    write_student(out, plan, origin, read, progress)


def write_student(
    out: Path,
    plan: Plan,
    origin: dict[str, Any],
    read: Callable[[str], Tensor],
    progress: Progress = silent,
) -> None:
    """Write a file for `load_student`, put in place when it is whole, and read it again to check it.

    Args:
        plan: type and shape of each tensor.
        origin: with the `student`'s configuration and its `image_size`; goes into the metadata.
        read: gives a tensor of the plan, on the host.

    Raises:
        BadInput: `out` is no place for a file, or the disk is full.
        Retry: another start writes the same file.
    """
    check_target(out, "OUT")
    plan = dict(sorted(plan.items()))  # the order in which their hash is taken
    size = sum(math.prod(shape) * kind.itemsize for kind, shape in plan.values())
    full = f"no space left for {out}, which takes {size / 1e9:.1f} GB; choose another disk"
    with refusing_full_disk(full), held(out) as lease, whole_file(out, lease) as file:
        writer = TensorFileWriter(
            file, plan, {STUDENT_KEY: sealed(redacted(origin))}
        )  # older runs may have stored secrets

        def written() -> Iterator[tuple[str, Tensor]]:
            for name in progress(plan, len(plan), f"writing {out.name}"):
                tensor = read(name)
                writer.write(name, tensor)
                yield name, tensor

        sha256 = digest(written())
        writer.finish()
        writer.amend(PENDING, sha256)
        file.flush()
        lease.check()
        check_file(Path(file.name))  # what comes back, through another program's reader, is what was sent there


def load_student(path: Path) -> tuple[Backbone, dict[str, Any]]:
    """Rebuild an exported student, in eval mode.

    One that was fine-tuned with a fresh norm behind the pooling has no final norm.

    Returns:
        The backbone, and what the file says of its origin.

    Raises:
        BadInput: not a file that `export` wrote.
    """
    origin = origin_of(path)
    student = _student(origin, path)
    load_weights(student, path, whole=True)
    return student.eval(), origin


def load_classifier(path: Path) -> tuple[Classifier, dict[str, Any]]:
    """Rebuild an exported classifier, in eval mode.

    Returns:
        The model, and what the file says of its origin.

    Raises:
        BadInput: not a file that `export` wrote with `classifier`.
    """
    origin = origin_of(path)
    tensors = read_file(path).tensors
    if "head.weight" not in tensors:
        raise BadInput(f"{path} has no classifier; write it with `fd-scale export RUN {path.name} --classifier`")
    missing = [key for key in ("classes", "norm", "pixels") if key not in origin]
    if missing:
        raise BadInput(f"{path} does not say the {missing[0]} of its classifier; export it again")
    model = Classifier(_student(origin, path), origin["classes"], origin["norm"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[name.removeprefix(PREFIX)])
    return model.eval(), origin


def origin_of(path: Path) -> dict[str, Any]:
    """Read what an export says of its origin.

    Raises:
        BadInput: any other file, or one that says something else than was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            origin = parse_json((file.metadata() or {})[STUDENT_KEY])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise BadInput(f"{path} is not a student that `fd-scale export` wrote ({error!r})") from None
    if not isinstance(origin, dict):
        raise BadInput(
            f"{path} is not a student that `fd-scale export` wrote: its metadata {STUDENT_KEY!r} is no mapping"
        )
    check_description(origin, path)
    return origin


def _student(origin: dict[str, Any], path: Path) -> Backbone:
    student = build_student(*student_of_origin(origin, path))
    if origin.get("norm") == "fresh":
        student.norm = nn.Identity()
    return student
