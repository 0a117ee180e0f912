"""Test whether the whole path can learn: a few real images are learned by heart, exported, and tested.

They are learned in shards, and tested by the plain runner.

    python tools/overfit_downstream.py upernet --data data --out runs/overfit     # data/coco_mini{,_semantic}
    python tools/overfit_downstream.py htc --data data --out runs/overfit

Two processes, ZeRO-3, fp32. Prints the metric inside training and that of the plain test of the exported checkpoint on
the same images, and draws ground truth beside prediction into OUT/NAME/test/*/vis_data/vis_image. Started again, it
goes on where it was. A sanity check of every gradient and every weight, no benchmark: the model is tested on what it
was trained on.
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

IGNORED = 255  # in a map
REPOSITORY = Path(__file__).resolve().parents[1]
IMAGES = {"upernet": 16, "htc": 8}
CLASSES = {
    "upernet": ("model.decode_head.num_classes", "model.auxiliary_head.num_classes"),
    "htc": ("model.roi_head.semantic_head.num_classes",),
}
METRICS = {"upernet": ("mIoU",), "htc": ("coco/bbox_mAP", "coco/segm_mAP")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(IMAGES))
    parser.add_argument("--data", type=Path, required=True, help="folder of coco_mini and coco_mini_semantic")
    parser.add_argument("--out", type=Path, default=Path("runs/overfit"))
    parser.add_argument("--iterations", type=int, help="default: the config's")
    options = parser.parse_args()
    out = (options.out / options.name).resolve()
    pixels = choose(options.data, out / "data", IMAGES[options.name])
    os.environ.update(
        COCO_MINI=str(out / "data/coco_mini"),
        COCO_MINI_SEMANTIC=str(out / "data/coco_mini_semantic"),
        OMP_NUM_THREADS="1",
    )
    config = str(REPOSITORY / f"downstream/configs/coco_mini/overfit_{options.name}.py")
    shared = ["--cfg-options", *(f"{key}={len(pixels)}" for key in CLASSES[options.name])]
    if options.name == "upernet":
        # Else a class of few pixels is learned last; a mean over classes asks for all of them.
        weights = [round(float(weight), 2) for weight in (pixels.max() / pixels) ** 0.25]
        shared += [f"model.decode_head.loss_decode.class_weight={json.dumps(weights, separators=(',', ':'))}"]
    length = [] if options.iterations is None else [f"train_cfg.max_iters={options.iterations}"]
    began = time.monotonic()
    plain = [sys.executable, "-m", "fd_scale_downstream"]
    launch = [*plain, "launch", "--nproc", "2", "--"]
    run([*launch, "train", config, "--work-dir", str(out / "run"), "--resume", *shared, *length])
    minutes = (time.monotonic() - began) / 60
    run([*plain, "export", str(out / "run"), str(out / "model.pth")])
    pictures = ["default_hooks.visualization.draw=True", "default_hooks.visualization.interval=1"]
    test = [*plain, "test", config, "--checkpoint", str(out / "model.pth")]
    kind = "SegVisualizationHook" if options.name == "upernet" else "DetVisualizationHook"
    drawing = [f"default_hooks.visualization.type={kind}", *pictures]
    run([*test, "--work-dir", str(out / "test"), *shared, "runner_type=Runner", *drawing])
    print(f"{options.name}: trained in {minutes:.1f} min on {IMAGES[options.name]} images")
    for metric in METRICS[options.name]:
        inside, outside = (last(out / folder, metric) for folder in ("run", "test"))
        print(f"  {metric}: {inside} inside training, {outside} by the plain test of the export")


def choose(data: Path, out: Path, count: int) -> np.ndarray:
    """Choose the images with the largest objects, as training and as validation data.

    The same two times, so run again.

    Returns:
        Pixels of each class that their maps hold; these are numbered anew.
    """
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
    maps: dict[str, np.ndarray] = {}
    for image in content["images"]:
        shutil.copy(data / "coco_mini/images" / image["file_name"], out / "coco_mini/images")
        name = f"{Path(image['file_name']).stem}.png"
        maps[name] = np.asarray(Image.open(data / "coco_mini_semantic/train" / name))
    present = sorted({int(value) for index_map in maps.values() for value in np.unique(index_map)} - {IGNORED})
    anew = np.full(256, IGNORED, dtype=np.uint8)
    anew[present] = np.arange(len(present))
    for name, index_map in maps.items():
        for split in ("train", "val"):
            Image.fromarray(anew[index_map]).save(out / "coco_mini_semantic" / split / name)
    names = json.loads((data / "coco_mini_semantic/classes.json").read_text())
    of_present = {number: names[str(value)] for number, value in enumerate(present)}
    (out / "coco_mini_semantic/classes.json").write_text(json.dumps(of_present))
    print(f"{count} images, {len(content['annotations'])} objects, {len(present)} classes in the maps")
    return np.bincount(np.concatenate([anew[index_map].ravel() for index_map in maps.values()]))[: len(present)]


def run(command: list[str]) -> None:
    print("$", " ".join(command), flush=True)
    subprocess.run(command, check=True, cwd=REPOSITORY)


def last(work_dir: Path, metric: str) -> str:
    """Read the last value that a log of that folder holds."""
    log = sorted(work_dir.glob("*/*.log"))[-1].read_text()
    return re.findall(rf"{re.escape(metric)}: ([-\d.]+)", log)[-1]


if __name__ == "__main__":
    main()
