"""Measure the memory and the time of `fd-scale export` for a 3B student, on a checkpoint made by hand.

Names and shapes are those of swin_v2_giant with its head, cut over four ranks as ours are, fp32 weights and both of
AdamW's states; headers and sha256 are real. The data are zeros in sparse files, so reading costs no disk: times say
what hashing and converting cost, memory what it would be with numbers. Export runs in a process of its own; what it
adds to one that only imports the same modules is printed beside the largest tensor.

    python tools/bench_export.py            # 6 GB of disk for the student in bf16
    python tools/bench_export.py --small    # swin_v2_nano, to see that it runs
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from fd_scale.models.config import StudentConfig
from fd_scale.models.zoo import build_student
from fd_scale.objective.head import StudentWithHeads
from fd_scale.parallel.checkpoint.reader import FORMAT, RECORD, WEIGHT
from fd_scale.parallel.checkpoint.state import OPTIMIZER, share
from fd_scale.parallel.checkpoint.storage import MANIFEST, name_of
from fd_scale.parallel.checkpoint.tensor_file import TensorFileWriter
from fd_scale.parallel.ranks import Ranks

WORLD, IMAGE, TEACHER_WIDTH = 4, 224, 1024
KEYS = (WEIGHT, OPTIMIZER + "exp_avg", OPTIMIZER + "exp_avg_sq")
GIB = 2**30

IMPORT = "import resource, time; from pathlib import Path; import fd_scale.export as module"
EXPORT = "began = time.monotonic(); module.export({run!r}, Path({out!r}), dtype='bf16')"
SECONDS = "print(time.monotonic() - began)"
PEAK = "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"


def write_checkpoint(folder: Path, student: str) -> dict[str, torch.Size]:
    """Write a checkpoint of step 1 and return the shapes of its parameters."""
    with torch.device("meta"):
        model = StudentWithHeads(build_student(StudentConfig(student), IMAGE), TEACHER_WIDTH)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    step = folder / name_of(1)
    step.mkdir(parents=True)
    for rank in range(WORLD):
        who = Ranks(rank, rank, WORLD, torch.device("cpu"))
        pieces = {name: share(name, tuple(shape), who) for name, shape in shapes.items()}
        entries = {f"{key}/{name}": piece for name, piece in pieces.items() for key in KEYS if piece.elements}
        locations = {entry: [piece.start, *piece.shape] for entry, piece in entries.items()}
        with open(step / f"rank_{rank:05d}.safetensors", "wb") as file:
            plan = {entry: (torch.float32, (piece.elements,)) for entry, piece in entries.items()}
            header = TensorFileWriter(file, plan, {"places": json.dumps(locations), "scalars": "{}"})
            file.truncate(header.bytes + 4 * sum(piece.elements for piece in entries.values()))
    config = {"student": {"name": student}, "data": {"view": {"image_size": IMAGE}}}
    content = {
        "format": FORMAT,
        "step": 1,
        "world": WORLD,
        "optimizer": "AdamW",
        "metrics": {},
        "record": {"config": config},
    }
    (step / RECORD).write_text(json.dumps(content))
    (step / MANIFEST).write_text(json.dumps({"files": {path.name: facts(path) for path in step.iterdir()}}))
    return shapes


def facts(path: Path) -> dict[str, object]:
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def in_new_process(*lines: str) -> list[float]:
    """Run code in a new process and return the numbers that it prints."""
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, stdout=subprocess.PIPE, text=True)
    return [float(line) for line in done.stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    student = "swin_v2_nano" if parser.parse_args().small else "swin_v2_giant"
    with tempfile.TemporaryDirectory(prefix="fd_scale_bench_") as temporary:
        checkpoints, out = Path(temporary, "checkpoints"), Path(temporary, "student.safetensors")
        shapes = write_checkpoint(checkpoints, student)
        size = sum(path.stat().st_size for path in (checkpoints / name_of(1)).iterdir())
        (baseline,) = in_new_process(IMPORT, PEAK)
        seconds, peak = in_new_process(IMPORT, EXPORT.format(run=str(checkpoints), out=str(out)), SECONDS, PEAK)
        counts = [shape.numel() for shape in shapes.values()]
        print(
            f"{student} with its head: {sum(counts):,} parameters; the largest tensor {4 * max(counts) / GIB:.3f} GiB"
        )
        print(
            f"checkpoint of {WORLD} ranks: {size:,} bytes of zeros; its student in bf16: {out.stat().st_size:,} bytes"
        )
        print(f"peak of a process that only imports: {baseline / GIB:.3f} GiB")
        print(f"peak of export: {peak / GIB:.3f} GiB, {(peak - baseline) / GIB:.3f} GiB more, in {seconds:.1f} s")


if __name__ == "__main__":
    main()
