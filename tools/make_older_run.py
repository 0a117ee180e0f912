"""Make `tests/reference/older_runs/REVISION/`: runs and exports of an earlier revision, for today's code to read.

Its code comes out of the repository's history, and writes a packed data set, a distillation and a fine-tuning of four
steps, each with its checkpoint of step 2, and an export of both at their end.

    python -m tools.make_older_run bca56c1 tests/reference/older_runs/bca56c1
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = [
    "data.train=shards",
    "data.view.image_size=32",
    "train.global_batch=4",
    "train.micro_batch=4",
    "schedule.steps=4",
    "schedule.warmup_steps=1",
    "run.save_every=2",
    "run.log_every=1",
    "run.tensorboard=false",
]
DISTILL = [
    "distill",
    "distill.yaml",
    *SHARED,
    "run.folder=distilled",
    "teacher.spec=demo",
    "student.drop_path=0.2",
    "train.ema_decay=0.5",
]
FINETUNE = [
    "finetune",
    "finetune.yaml",
    *SHARED,
    "run.folder=finetuned",
    "data.workers=0",
    "parallel.precision=fp32",
    "student.name=swin_v2_nano",
    "student.weights=student.safetensors",
    "finetune.validation=shards",
    "finetune.batch=4",
]
VERBS = [
    ["pack", "images", "shards"],
    DISTILL,
    ["export", "distilled", "student.safetensors"],
    FINETUNE,
    ["export", "finetuned", "classifier.safetensors", "--classifier"],
]
KEPT = [
    "shards",
    "distill.yaml",
    "finetune.yaml",
    "distilled",
    "finetuned",
    "student.safetensors",
    "classifier.safetensors",
]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("revision", help="whose code writes the files")
    parser.add_argument("out", type=Path, help="folder of the fixture, such as tests/reference/older_runs/bca56c1")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        code, folder = Path(work) / "code", Path(work) / "run"
        for path in (code, folder):
            path.mkdir()
        archive = subprocess.run(
            ["git", "archive", options.revision], cwd=REPOSITORY, stdout=subprocess.PIPE, check=True
        )
        subprocess.run(["tar", "x", "-C", code], input=archive.stdout, check=True)
        write_images(folder / "images")
        shutil.copy(code / "configs/demo/swin_v2.yaml", folder / "distill.yaml")
        shutil.copy(code / "configs/finetune/small.yaml", folder / "finetune.yaml")
        for words in VERBS:
            program = [sys.executable, str(REPOSITORY / "tests/support/older_program.py"), *words]
            subprocess.run(program, cwd=folder, env={**os.environ, "PYTHONPATH": str(code)}, check=True)
        for run in ("distilled", "finetuned"):
            shutil.rmtree(folder / run / "checkpoints/step_00000004")
            shutil.rmtree(folder / run / "logs")
            forget_machine(folder / run / "environment.json", options.revision)
        shutil.rmtree(options.out, ignore_errors=True)
        options.out.mkdir(parents=True)
        for name in KEPT:
            shutil.move(folder / name, options.out / name)
    return 0


def write_images(folder: Path) -> None:
    """Write eight images of 40 x 40 pixels in two classes."""
    generator = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (folder / name).mkdir(parents=True)
        for number in range(4):
            coarse = Image.fromarray(generator.integers(0, 255, (6, 6, 3), dtype=np.uint8))
            coarse.resize((40, 40), Image.Resampling.BICUBIC).save(folder / name / f"{number}.jpg", quality=60)


def forget_machine(record: Path, revision: str) -> None:
    """Remove from the record of a start what is true of one machine alone."""
    starts = json.loads(record.read_text())
    for start in starts:
        start["host"] = "localhost"
        start["command"][0] = "older_program.py"
        start["git"] = {"revision": revision, "changed": False}
    record.write_text(json.dumps(starts, indent=1))


if __name__ == "__main__":
    sys.exit(main())
