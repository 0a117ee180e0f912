"""Fine-tuning's speed beside timm's own training script, and what layer-wise decay costs under ZeRO-3.

    python tools/bench_finetune.py timm --clone pytorch-image-models     # images/s of both, in turns, and their ratio
    python tools/bench_finetune.py groups                                # seconds a step, with and without layer decay

`timm`: the same model, images, batch, augmentation, mixing, loss, optimizer and layer decay, one process each, fp32.
Its script is run as it is, with the timm of its clone. `groups`: SwinV2 on two ZeRO-3 processes; layer decay makes two
parameter groups for each depth, and DeepSpeed walks over them.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from fd_scale import api
from fd_scale.demo.photos import photographs, write_crops

REPOSITORY = Path(__file__).resolve().parents[1]
WARM_UP = 5
"""Steps that do not count."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("timm", "groups"))
    parser.add_argument("--clone", type=Path, help="of github.com/huggingface/pytorch-image-models")
    parser.add_argument("--model", default="vit_tiny_patch16_224", help="timm's name")
    parser.add_argument("--size", type=int, default=96, help="pixels of the views")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    if options.what == "timm" and not (options.clone and (options.clone / "train.py").is_file()):
        parser.error("--clone must name a clone of pytorch-image-models")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        write_crops(photographs(None), data / "crops", count=(options.steps + 1) * options.batch)
        api.pack(data / "crops/train", data / "shards")
        print(f"{options.turns} turns of {options.steps} steps of {options.batch} images, {options.size} px")
        (beside_timm if options.what == "timm" else groups)(options, data)


def beside_timm(options: argparse.Namespace, data: Path) -> None:
    ours, theirs = [], []
    for turn in range(options.turns):
        student = [
            f"student.name=timm:{options.model}",
            "student.position_bias=null",
            "student.residual_norm_init=null",
        ]
        ours.append(
            our_rate(options, data, data / f"run{turn}", ["parallel.deepspeed=deepspeed_configs/zero1.json", *student])
        )
        theirs.append(timms_rate(options, data))
        print(f"turn {turn}: fd_scale {ours[-1]:.1f} images/s, timm's train.py {theirs[-1]:.1f}", flush=True)
    mine, other = statistics.median(ours), statistics.median(theirs)
    print(f"{options.model}: fd_scale {mine:.1f} : timm's train.py {other:.1f} images/s, ratio {mine / other:.2f}")


def groups(options: argparse.Namespace, data: Path) -> None:
    rates: dict[float, list[float]] = {1.0: [], 0.8: []}
    for turn in range(options.turns):
        for decay, found in rates.items():
            found.append(
                our_rate(options, data, data / f"run{turn}_{decay}", [f"finetune.layer_decay={decay}"], nproc=2)
            )
        print(f"turn {turn}: {rates[1.0][-1]:.1f} images/s without, {rates[0.8][-1]:.1f} with layer decay", flush=True)
    without, with_decay = (statistics.median(found) for found in rates.values())
    print(f"layer decay on two ZeRO-3 processes: {with_decay:.1f} : {without:.1f} images/s, {with_decay / without:.2f}")


def our_rate(options: argparse.Namespace, data: Path, run: Path, changed: list[str], nproc: int = 1) -> float:
    """Measure the images a second of `fd-scale finetune`: the median over steps."""
    command = [
        *(sys.executable, "-m", "fd_scale", "launch", "--nproc", str(nproc), "--", "finetune"),
        str(REPOSITORY / "configs/finetune/small.yaml"),
        f"data.train={data / 'shards'}",
        f"data.view.image_size={options.size}",
        "data.workers=1",
        f"run.folder={run}",
        "run.evaluate_every=null",
        "run.log_every=1",
        "run.save_every=100000",
        "run.tensorboard=false",
        "finetune.validation=null",
        "finetune.layer_decay=0.8",
        "student.drop_path=0.1",
        f"train.global_batch={options.batch}",
        f"train.micro_batch={options.batch // nproc}",
        f"schedule.steps={options.steps}",
        "schedule.warmup_steps=1",
        "schedule.base_lr=1e-4",
        "parallel.recompute=none",
        *changed,
    ]
    subprocess.run(command, check=True, capture_output=True, text=True, env=one_thread())
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return statistics.median(entry["images_per_second"] for entry in entries[WARM_UP:])


def timms_rate(options: argparse.Namespace, data: Path) -> float:
    """Measure the images a second of timm's script, as it prints them: the median over steps."""
    command = [
        *(sys.executable, str(options.clone / "train.py"), "--device", "cpu", "--data-dir", str(data / "crops")),
        *("--train-split", "train", "--val-split", "heldout", "--model", options.model, "--epochs", "1"),
        *("--img-size", str(options.size), "--model-kwargs", f"img_size={options.size}"),
        *("-b", str(options.batch), "-j", "1", "--log-interval", "1"),
        *("--aa", "rand-m9-mstd0.5-inc1", "--mixup", "0.8", "--cutmix", "1.0", "--smoothing", "0.1"),
        *("--reprob", "0.25", "--drop-path", "0.1", "--opt", "adamw", "--lr", "1e-5", "--layer-decay", "0.8"),
        *("--clip-grad", "5", "--weight-decay", "0.05", "--train-interpolation", "bicubic", "--no-prefetcher"),
        *("--num-classes", str(len(list((data / "crops/train").iterdir()))), "--output", str(data / "timm")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=one_thread())
    rates = [float(found) for found in re.findall(r"Time: [\d.]+s, +([\d.]+)/s", done.stdout + done.stderr)]
    if len(rates) <= WARM_UP:
        sys.exit(f"timm's script came to nothing:\n{done.stderr[-2000:]}")
    return statistics.median(rates[WARM_UP : options.steps])


def one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


if __name__ == "__main__":
    main()
