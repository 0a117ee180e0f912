"""Can the whole path learn? A few real images, learned by heart in shards, exported, and tested by the plain runner.

    python tools/overfit_downstream.py upernet --data data --out runs/overfit     # data/coco_mini{,_semantic}
    python tools/overfit_downstream.py htc --data data --out runs/overfit

Two processes, ZeRO-3, fp32. Prints the metric inside training and that of the plain test of the exported checkpoint on
the same images, and draws ground truth beside prediction into OUT/NAME/pictures. A sanity check of every gradient and
every weight, no benchmark: the model is tested on what it was trained on.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
IMAGES = {"upernet": 16, "htc": 8}
PLAIN = {"upernet": "upernet_swin_v2_nano.py", "htc": "htc_swin_v2_nano.py"}
METRICS = {"upernet": ("mIoU",), "htc": ("coco/bbox_mAP", "coco/segm_mAP")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(IMAGES))
    parser.add_argument("--data", type=Path, required=True, help="folder of coco_mini and coco_mini_semantic")
    parser.add_argument("--out", type=Path, default=Path("runs/overfit"))
    parser.add_argument("--iterations", type=int, help="default: the config's")
    options = parser.parse_args()
    out = (options.out / options.name).resolve()
    choose(options.data, out / "data", IMAGES[options.name])
    os.environ.update(
        COCO_MINI=str(out / "data/coco_mini"),
        COCO_MINI_SEMANTIC=str(out / "data/coco_mini_semantic"),
        OMP_NUM_THREADS="1",
    )
    configs = REPOSITORY / "downstream/configs/coco_mini"
    length = [] if options.iterations is None else ["--cfg-options", f"train_cfg.max_iters={options.iterations}"]
    began = time.monotonic()
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "fd_scale_downstream",
    ]
    config = str(configs / f"overfit_{options.name}.py")
    run([*launch, "train", config, "--work-dir", str(out / "run"), "--resume", *length])
    minutes = (time.monotonic() - began) / 60
    plain = [sys.executable, "-m", "fd_scale_downstream"]
    run([*plain, "export", str(out / "run"), str(out / "model.pth")])
    pictures = ["default_hooks.visualization.draw=True", "default_hooks.visualization.interval=1"]
    test = [*plain, "test", str(configs / PLAIN[options.name]), "--checkpoint", str(out / "model.pth")]
    kind = "SegVisualizationHook" if options.name == "upernet" else "DetVisualizationHook"
    drawing = ["--cfg-options", f"default_hooks.visualization.type={kind}", *pictures]
    run([*test, "--work-dir", str(out / "test"), *drawing])
    print(f"{options.name}: trained in {minutes:.1f} min on {IMAGES[options.name]} images")
    for metric in METRICS[options.name]:
        inside, outside = (last(out / folder, metric) for folder in ("run", "test"))
        print(f"  {metric}: {inside} inside training, {outside} by the plain test of the export")


def choose(data: Path, out: Path, count: int) -> None:
    """The images with the largest objects, as training and as validation data; the same two times, so run again."""
    shutil.rmtree(out, ignore_errors=True)
    content = json.loads((data / "coco_mini/instances_train.json").read_text())
    of_image: dict[int, list[dict]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    area = {image["id"]: image["width"] * image["height"] for image in content["images"]}

    def smallest(identity: int) -> float:
        objects = of_image[identity]
        whole = all(not entry["iscrowd"] for entry in objects)
        return min(entry["area"] for entry in objects) / area[identity] if objects and whole else -1.0

    chosen = set(sorted(of_image, key=smallest, reverse=True)[:count])
    content["images"] = [image for image in content["images"] if image["id"] in chosen]
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in chosen]
    (out / "coco_mini/images").mkdir(parents=True)
    for split in ("train", "val"):
        (out / f"coco_mini/instances_{split}.json").write_text(json.dumps(content))
        (out / "coco_mini_semantic" / split).mkdir(parents=True)
    shutil.copy(data / "coco_mini_semantic/classes.json", out / "coco_mini_semantic/classes.json")
    for image in content["images"]:
        shutil.copy(data / "coco_mini/images" / image["file_name"], out / "coco_mini/images")
        index_map = Image.open(data / "coco_mini_semantic/train" / Path(image["file_name"]).with_suffix(".png").name)
        for split in ("train", "val"):
            index_map.save(out / "coco_mini_semantic" / split / f"{Path(image['file_name']).stem}.png")
    labels = {
        int(value)
        for path in (out / "coco_mini_semantic/train").iterdir()
        for value in np.unique(np.asarray(Image.open(path)))
    }
    print(f"{count} images, {len(content['annotations'])} objects, {len(labels - {255})} classes in the maps")


def run(command: list[str]) -> None:
    print("$", " ".join(command), flush=True)
    subprocess.run(command, check=True, cwd=REPOSITORY)


def last(work_dir: Path, metric: str) -> str:
    """The last value that a log of that folder holds."""
    log = sorted(work_dir.glob("*/*.log"))[-1].read_text()
    return re.findall(rf"{re.escape(metric)}: ([-\d.]+)", log)[-1]


if __name__ == "__main__":
    main()
