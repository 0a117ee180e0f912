"""Shipped configs as their headers say: the commands that stand there, in a folder in which all lies where they expect.

A command is run as it is written, through `tasks.shipped_program`, on two ranks. A job gets the words of `smaller`
behind its own: number of steps, batch, intervals, workers of the data. Everything else is the config's.
"""

import os
import re
import shlex
import shutil
import subprocess
from itertools import takewhile
from pathlib import Path

import torch
from support.helpers import REPOSITORY
from support.session import once
from tasks.labelled import packed
from tasks.reduced import SHIPPED
from tasks.running import losses
from tasks.shipped_program import HUB, PROGRAM

from fd_scale.config import load_config, sections
from fd_scale.evaluate.config import ProbeJobConfig
from fd_scale.export import origin_of
from fd_scale.parallel.checkpoint.reader import WEIGHT, CheckpointReader
from fd_scale.parallel.checkpoint.storage import open_storage
from fd_scale.tasks.config import DistillConfig, FinetuneJobConfig

STEPS, SAVED = 3, 2
"""Of a run, and where it is resumed from."""
JOBS = {"distill": DistillConfig, "finetune": FinetuneJobConfig, "linear": ProbeJobConfig, "knn": ProbeJobConfig}
COLOURS = ("blue", "green", "red")
LARGEST_IMAGE = 336
"""Larger ones are halved, which leaves their windows: SwinV2-G at 640 px shifts windows of 40 on its first maps."""


def verb_of(path: Path) -> str | None:
    """The job that a config is of, by its sections; None for one that is of none."""
    found = sections(path)
    if "probe" in found:
        return "linear"
    return None if "run" not in found else "distill" if "teacher" in found else "finetune"


CONFIGS = [path for path in SHIPPED if verb_of(path)]


def config_of(path: Path) -> DistillConfig | FinetuneJobConfig | ProbeJobConfig:
    return load_config(JOBS[verb_of(path) or ""], path)


def reads(config: DistillConfig | FinetuneJobConfig | ProbeJobConfig) -> str:
    """The weights that it goes on from; empty without."""
    return config.probe.model if isinstance(config, ProbeJobConfig) else config.student.weights or ""


def commands(path: Path) -> list[list[str]]:
    """The words of each `fd-scale` command in the header, in order, without `fd-scale` itself.

    A config whose header starts another program is run by its verb.
    """
    header = "\n".join(takewhile(lambda line: line.startswith("#"), path.read_text().splitlines()))
    text = re.sub(r" \\\n# *", " ", header)
    found = re.findall(r"^# (?:\w+ +| {2,})fd-scale (.*)$", text, re.MULTILINE)
    words = [shlex.split(command.partition("    #")[0]) for command in found]
    if not any(str(path.relative_to(REPOSITORY)) in command for command in words):
        words.insert(0, [verb_of(path) or "", str(path.relative_to(REPOSITORY))])
    return words


def job_of(command: list[str]) -> list[str] | None:
    """The verb of a job and what stands behind it, without its launcher; None for another verb."""
    words = command[command.index("--") + 1 :] if command[0] == "launch" else command
    return words if words[0] in JOBS else None


def smaller(job: list[str]) -> list[str]:
    """What is laid over a config to take few small steps with it."""
    config = load_config(JOBS[job[0]], job[1], job[2:])
    if isinstance(config, ProbeJobConfig):
        return ["probe.workers=0", f"knn.k={[k for k in config.knn.k if k <= 20]}"]
    words = ["data.workers=0", "train.global_batch=8", "train.micro_batch=2", "run.log_every=1"]
    words += ["schedule.epochs=null", f"schedule.steps={STEPS}"]
    words += ["schedule.warmup_epochs=null", "schedule.warmup_steps=1", f"run.save_every={SAVED}"]
    if config.run.keep.last < 2:
        words.append("run.keep.last=2")  # one to go on from, beside the last
    if config.run.evaluate_every:
        words.append(f"run.evaluate_every={STEPS}")
    if config.data.view.image_size > LARGEST_IMAGE:
        words.append(f"data.view.image_size={config.data.view.image_size // 2}")
    return words


def producers() -> dict[str, Path]:
    """File -> the config whose header exports it."""
    return {command[2]: path for path in CONFIGS for command in commands(path) if command[0] == "export"}


def done(path: Path) -> Path:
    """The folder in which everything of a config's header has been done and held to what it should leave; made once."""
    return once(f"shipped_{path.parent.name}_{path.stem}", lambda folder: _do(path, folder / "work"))


def _do(path: Path, folder: Path) -> None:
    given = once("shipped_given", _given)
    for command in commands(path):
        _lay_out(command, path, folder, given)
    for command in commands(path):
        job = job_of(command)
        if job is None:
            run(command, folder)
            continue
        words = [*job, *smaller(job)]
        run(_launched(words), folder)
        config = load_config(JOBS[job[0]], job[1], words[2:])
        if isinstance(config, ProbeJobConfig):
            assert (folder / config.folder / f"{job[0]}.json").is_file()
            continue
        steps = losses(folder / config.run.folder)
        assert set(steps) == set(range(1, STEPS + 1))
        _resume(words, folder, config)
        _export(config, folder)


def _given(folder: Path) -> None:
    """Labelled images, and random weights in published formats."""
    packed(folder / "train", COLOURS, 48, seed=0)
    packed(folder / "validation", COLOURS, 21, seed=1)
    run(["publish", str(folder)], folder)


def _lay_out(command: list[str], path: Path, folder: Path, given: Path) -> None:
    """Links to what a command reads: data, published files, and what other configs' headers export."""
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    for file in sorted((given / "files").rglob("*.*")):
        _link(folder / file.relative_to(given / "files"), file)
    job = job_of(command)
    if job is None:
        for word in command[1:]:
            if word.startswith("shards/"):
                _link(folder / word, given / "validation" / "shards")
        return
    config = load_config(JOBS[job[0]], job[1], job[2:])
    if isinstance(config, ProbeJobConfig):
        data = {config.probe.train: "train", config.probe.validation: "validation"}
    else:
        data = {config.data.train: "train"}
        if isinstance(config, FinetuneJobConfig) and config.finetune.validation:
            data[config.finetune.validation] = "validation"
    for path, kind in data.items():
        _link(folder / path, given / kind / "shards")
    weights, made = reads(config), producers()
    if weights in made and made[weights] != path:
        _link(folder / weights, done(made[weights]) / "work" / weights)


def _link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_symlink():
        path.symlink_to(target)


def _launched(job: list[str]) -> list[str]:
    return ["launch", "--nproc", "2", "--", *job]


def run(command: list[str], folder: Path) -> None:
    environment = {
        **os.environ,
        HUB: str(Path(os.environ["FD_SCALE_TEST_FOLDER"]) / "shipped_given" / "hub"),
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "tests"), str(REPOSITORY)]),
    }
    ended = subprocess.run(
        [*PROGRAM, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert ended.returncode == 0, f"{shlex.join(command)}\n{ended.stderr}"


def _resume(job: list[str], folder: Path, config: DistillConfig | FinetuneJobConfig) -> None:
    """A copy is put back to its first checkpoint and started again: losses and all that is saved are equal."""
    again, run_folder = folder.parent / "again", config.run.folder
    shutil.rmtree(again, ignore_errors=True)
    shutil.copytree(folder, again, symlinks=True)
    shutil.rmtree(again / run_folder / "checkpoints" / f"step_{STEPS:08d}")
    run(_launched(job), again)
    assert losses(again / run_folder) == losses(folder / run_folder)
    ends = [CheckpointReader(open_storage(where / run_folder / "checkpoints"), STEPS) for where in (folder, again)]
    saved = CheckpointReader(open_storage(folder / run_folder / "checkpoints"), SAVED)
    whole, resumed, before = (_tensors(reader) for reader in (*ends, saved))
    assert whole.keys() == resumed.keys()
    assert not [entry for entry, tensor in whole.items() if not torch.equal(tensor, resumed[entry])]
    moved = [not torch.equal(tensor, before[entry]) for entry, tensor in whole.items() if entry[1] == WEIGHT]
    # WiSE-FT's first endpoint trains the head alone, by a decay that leaves the layers below next to nothing.
    head_alone = isinstance(config, FinetuneJobConfig) and config.finetune.layer_decay < 1e-6
    least = 1 if head_alone else 0.9 * len(moved)
    assert sum(moved) >= least, f"{sum(moved)} of {len(moved)} weights moved in the last step"


def _tensors(reader: CheckpointReader) -> dict[tuple[str, str], torch.Tensor]:
    return {(name, key): reader.read(name, key) for key in reader.keys for name in reader.names(key)}


def _export(config: DistillConfig | FinetuneJobConfig, folder: Path) -> None:
    """Whatever its header exports: the student, its average where there is one, and the classifier."""
    words = ["--classifier"] if isinstance(config, FinetuneJobConfig) else []
    for more in ([], ["--ema"]) if config.train.ema_decay else ([],):
        out = folder / "exported.safetensors"
        run(["export", config.run.folder, str(out), *words, *more], folder)
        origin = origin_of(out)
        assert (origin["step"], origin["student"]["name"], origin["ema"]) == (STEPS, config.student.name, bool(more))
        out.unlink()
