"""Every kind of file that is read back, damaged in every way: detected or without consequences, by the contract."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzz.damage import BYTES, KINDS, damaged
from fuzz.oracle import Account, Case, tried
from fuzz.test_fuzz_values import ALONE, drawn
from PIL import Image
from support.helpers import REPOSITORY
from support.parts import sweep
from support.session import once
from tasks.running import copied, in_folder

from fd_scale.api import export
from fd_scale.models.config import StudentConfig
from fd_scale.models.init import initialise_all
from fd_scale.models.zoo import build_student
from fd_scale.parallel.checkpoint.storage import open_storage

DEMO = REPOSITORY / "configs/demo/swin_v2.yaml"
Prepared = tuple[Path, list[str]]
"""The file to damage, and arguments of a verb that reads it."""


class Kinds:
    """One method for each kind of file."""

    def __init__(self, folder: Path, finished: tuple[Path, list[str]], shards: Path, teacher: Path):
        self.folder, self.finished, self.shards, self.teacher = folder, finished, shards, teacher

    def config(self) -> Prepared:
        shutil.copyfile(DEMO, file := self.folder / "config.yaml")
        return file, ["plan", str(file)]

    def base_of_a_config(self) -> Prepared:
        shutil.copyfile(DEMO, file := self.folder / "base.yaml")
        (self.folder / "top.yaml").write_text("base: base.yaml\n")
        return file, ["plan", str(self.folder / "top.yaml")]

    def deepspeed_json(self) -> Prepared:
        shutil.copyfile(REPOSITORY / "deepspeed_configs/zero3.json", file := self.folder / "zero.json")
        return file, ["plan", str(DEMO), f"parallel.deepspeed={file}"]

    def config_of_a_run(self) -> Prepared:
        return self._resumed("config.yaml")

    def environment_of_a_run(self) -> Prepared:
        return self._resumed("environment.json")

    def metrics_of_a_run(self) -> Prepared:
        return self._resumed("metrics.jsonl")

    def manifest_of_a_checkpoint(self) -> Prepared:
        return self._exported("manifest.json")

    def record_of_a_checkpoint(self) -> Prepared:
        return self._exported("checkpoint.json")

    def tensors_of_a_checkpoint(self) -> Prepared:
        return self._exported("rank_00001.safetensors")

    def config_of_a_run_that_is_exported(self) -> Prepared:
        run = copied(self.finished[0], self.folder / "run")
        return run / "config.yaml", ["export", str(run), str(self.folder / "out.safetensors")]

    def an_export(self) -> Prepared:
        made = once("fuzz_export", lambda folder: export(self.finished[0], folder / "student.safetensors"))
        shutil.copyfile(made / "student.safetensors", file := self.folder / "student.safetensors")
        return file, self._probed(str(file))

    def a_teacher(self) -> Prepared:
        shutil.copyfile(self.teacher, file := self.folder / "teacher.safetensors")
        return file, self._probed(f"file:{file}")

    def published_weights(self) -> Prepared:
        def make(folder: Path) -> None:
            model = build_student(StudentConfig("vit_tiny"), 32)
            initialise_all(model, 0)
            torch.save({"model": model.state_dict(), "epoch": 3}, folder / "weights.pth")

        shutil.copyfile(once("fuzz_weights", make) / "weights.pth", file := self.folder / "weights.pth")
        return file, ["convert", str(file), str(self.folder / "out.safetensors"), "--image-size", "32"]

    def a_hostfile(self) -> Prepared:
        (file := self.folder / "hosts").write_text("localhost slots=1\n# more\nlocalhost slots=2\n")
        return file, ["launch", "--hostfile", str(file), "--", "plan", str(DEMO)]

    def a_list(self) -> Prepared:
        self._image("a.png"), self._image("b.png")
        (file := self.folder / "list.csv").write_text("path,label\na.png,1\nb.png,2\n")
        return file, ["pack", str(file), str(self.folder / "out"), "--workers", "1"]

    def an_image(self) -> Prepared:
        self._image("images/x/a.png"), self._image("images/y/b.jpg")
        return self.folder / "images/y/b.jpg", ["pack", str(self.folder / "images"), str(self.folder / "out")]

    def an_archive(self) -> Prepared:
        self._image("images/x/a.png"), self._image("images/y/b.jpg")
        file = Path(shutil.make_archive(str(self.folder / "images"), "zip", self.folder / "images"))
        return file, ["pack", str(file), str(self.folder / "out"), "--workers", "1"]

    def manifest_of_shards(self) -> Prepared:
        return self._shards("manifest.json")

    def index_of_shards(self) -> Prepared:
        return self._shards(next(path.name for path in sorted(self.shards.iterdir()) if path.suffix == ".idx"))

    def a_shard(self) -> Prepared:
        return self._shards(next(path.name for path in sorted(self.shards.iterdir()) if path.suffix == ".tar"))

    def _resumed(self, name: str) -> Prepared:
        """Of a run that was killed behind its third checkpoint, and continues on one process."""
        run = copied(self.finished[0], self.folder / "run")
        steps = open_storage(run / "checkpoints").steps()
        shutil.rmtree(run / "checkpoints" / f"step_{steps[-1]:08d}")
        return run / name, [*in_folder(self.finished[1], run), "data.workers=0", "run.tensorboard=false"]

    def _exported(self, name: str) -> Prepared:
        run = copied(self.finished[0], self.folder / "run")
        step = open_storage(run / "checkpoints").steps()[-1]
        arguments = ["export", str(run), str(self.folder / "out.safetensors")]
        return run / "checkpoints" / f"step_{step:08d}" / name, arguments

    def _probed(self, model: str) -> list[str]:
        settings = [f"folder={self.folder / 'out'}", f"probe.model={model}", "probe.image_size=32", "probe.workers=0"]
        settings += [f"probe.train={self.shards}", f"probe.validation={self.shards}"]
        settings += ["probe.precision=fp32", "knn.k=[1]"]
        return ["knn", str(REPOSITORY / "configs/linear/clip_vit_b16.yaml"), *settings]

    def _shards(self, name: str) -> Prepared:
        shutil.copytree(self.shards, copy := self.folder / "shards")
        arguments = self._probed(f"file:{self.teacher}")
        return copy / name, [word.replace(str(self.shards), str(copy)) for word in arguments]

    def _image(self, name: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(len(name)).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)


NAMES = [name for name in vars(Kinds) if not name.startswith("_")]
TABLE = [(name, how, seed) for name in NAMES for how in BYTES for seed in range(2)]
TABLE += [(name, how, 0) for name in NAMES for how in KINDS]


@pytest.mark.parametrize("part", sweep(range(70), [0]))
def test_a_damaged_file_ends_within_the_contract(finished, shards, teacher_file, tmp_path, monkeypatch, part):
    account = Account()
    for number, (name, how, seed) in enumerate(drawn("files", part).sample(TABLE, 6)):
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.chdir(folder)
        prepare: Callable[[], Prepared] = getattr(Kinds(folder, finished, shards, teacher_file), name)
        file, arguments = prepare()
        damaged(file, how, seed) if how in BYTES else KINDS[how](file)
        tried(Case(f"{name}: {how} ({seed})", arguments, {**ALONE, "FD_SCALE_SSH": "false"}), account)
        monkeypatch.chdir(tmp_path)
        shutil.rmtree(folder)
    account.close("files")
