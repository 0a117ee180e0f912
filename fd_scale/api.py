"""The verbs of `fd-scale` from Python. Each imports what it needs when it is called."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from fd_scale.fields import Count, Limit, Pixels, Processes, Range, Seed, Share, Workers, within_ranges


@within_ranges
def pack(
    source: str | Path,
    out: str | Path,
    *,
    shard_samples: Count = 1000,
    seed: Seed = 0,
    workers: Processes | None = None,
    short_side: Pixels | None = None,
    skip_bad: bool = False,
    only: str | None = None,
    force: bool = False,
) -> Any:
    """Write images into webdataset shards with an index and a manifest.

    The source is a folder, an archive, a folder of archives, or a list; see `fd_scale.data.packing.sources`. `workers`
    is the number of processes, by default one for each core. `only` takes one of the first folders, such as the split
    `train`; folders called as splits are become classes with `force` alone.

    Returns:
        The `fd_scale.data.shards.Manifest`.
    """
    from fd_scale.data.packing.pack import pack as pack_source
    from fd_scale.data.packing.workers import default_workers

    return pack_source(
        Path(source),
        Path(out),
        shard_samples=shard_samples,
        seed=seed,
        workers=default_workers() if workers is None else workers,
        short_side=short_side,
        skip_bad=skip_bad,
        only=only,
        force=force,
        progress=_bar("image"),
    )


@within_ranges
def index(folder: str | Path, *, workers: Processes | None = None, skip_bad: bool = False) -> Any:
    """Write an index and a manifest beside webdataset shards that are there already; the tars stay as they are.

    Returns:
        The `fd_scale.data.shards.Manifest`.
    """
    from fd_scale.data.packing.index import index as index_folder
    from fd_scale.data.packing.workers import default_workers

    count = default_workers() if workers is None else workers
    return index_folder(Path(folder), workers=count, skip_bad=skip_bad, progress=_bar("shard"))


@within_ranges
def verify(folder: str | Path, *, workers: Processes | None = None) -> Any:
    """Read a packed data set again: hashes, index, and every image decoded.

    Returns:
        A list of `fd_scale.data.packing.verify.Damage`, empty where all is whole.
    """
    from fd_scale.data.packing.verify import verify as verify_folder
    from fd_scale.data.packing.workers import default_workers

    return verify_folder(
        Path(folder), workers=default_workers() if workers is None else workers, progress=_bar("image")
    )


def distill(config: str | Path, overrides: Sequence[str] = ()) -> Path:
    """Distill as one rank of the process group that the environment describes; a world of one without it.

    Returns:
        The run folder.
    """
    from fd_scale.tasks.config import DistillConfig
    from fd_scale.tasks.distillation import distill as run

    return _job(DistillConfig, run, config, overrides)


def finetune(config: str | Path, overrides: Sequence[str] = ()) -> Path:
    """Fine-tune on labelled shards, as one rank of the process group that the environment describes.

    Returns:
        The run folder.
    """
    from fd_scale.tasks.config import FinetuneJobConfig
    from fd_scale.tasks.finetuning import finetune as run

    return _job(FinetuneJobConfig, run, config, overrides)


@within_ranges
def export(
    run: str | Path,
    out: str | Path,
    *,
    step: Limit | None = None,
    ema: bool = False,
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
    classifier: bool = False,
) -> Path:
    """Write the student of a run, without head, optimizer and teacher, as one safetensors file.

    The run is its folder, or a folder or URL of checkpoints. `classifier`: with that of a fine-tuning run.

    Returns:
        The file.
    """
    from fd_scale.export import export as export_student

    return export_student(
        run, Path(out), step=step, ema=ema, dtype=dtype, classifier=classifier, progress=_bar("tensor")
    )


@within_ranges
def wise_ft(
    first: str | Path,
    second: str | Path,
    validation: Sequence[str],
    *,
    alphas: Sequence[Share] | None = None,
    out: str | Path | None = None,
    batch: Count = 64,
    workers: Workers = 4,
    crop: Annotated[float, Range(0.01, 1)] | None = None,
) -> list[dict[str, Any]]:
    """Accuracy of mixtures of two exported classifiers, as one rank of the process group of the environment.

    Args:
        crop: as `finetune.view.crop`: the share of the image's short side that is looked at.

    Returns:
        One entry for each alpha (0: the first alone): `alpha`, and the accuracy by data set.
    """
    from fd_scale.data.config import EvaluationView
    from fd_scale.evaluate.wise_ft import ALPHAS
    from fd_scale.evaluate.wise_ft import wise_ft as run
    from fd_scale.parallel import ranks as process_group

    ranks = process_group.start()
    curve = run(
        Path(first),
        Path(second),
        validation,
        ranks,
        alphas=ALPHAS if alphas is None else alphas,
        out=Path(out) if out else None,
        batch=batch,
        workers=workers,
        view=EvaluationView() if crop is None else EvaluationView(crop),
    )
    process_group.finish()
    return curve


@within_ranges
def convert(
    source: str | Path,
    out: str | Path,
    *,
    student: str | None = None,
    image_size: Pixels | None = None,
    window: Count | None = None,
    pretrained_window: Sequence[Count] | None = None,
    key: str | None = None,
    neutral_gaps: bool = False,
    licence: str | None = None,
) -> Any:
    """Write published weights, from a file or `timm:NAME`, to a file like an export's. See `fd_scale.convert`.

    Returns:
        The `fd_scale.models.weights.LoadReport`.
    """
    from fd_scale.convert import convert as convert_weights

    return convert_weights(
        source,
        Path(out),
        student=student,
        image_size=image_size,
        window=window,
        pretrained_window=tuple(pretrained_window) if pretrained_window else None,
        key=key,
        neutral=neutral_gaps,
        licence=licence,
    )


@within_ranges
def plan(config: str | Path, overrides: Sequence[str] = (), *, world: Count = 1) -> str:
    """Parameters, multiply-adds, memory and batch arithmetic of a configuration, as text, without GPU or data."""
    from fd_scale.config import load_config, sections, shipped
    from fd_scale.parallel.deepspeed_config import read_json
    from fd_scale.tasks.config import DistillConfig, FinetuneJobConfig
    from fd_scale.tasks.job_plan import plan_distillation, plan_finetuning

    kind: Any = DistillConfig
    text: Callable[..., str] = plan_distillation
    if "finetune" in sections(config, overrides):
        kind, text = FinetuneJobConfig, plan_finetuning
    loaded = load_config(kind, config, overrides)
    return text(loaded, world, read_json(shipped(loaded.parallel.deepspeed)))


@within_ranges
def launch(
    command: Sequence[str],
    *,
    nproc: Processes | None = None,
    hostfile: str | Path | None = None,
    master_port: Annotated[int, Range(1, 65535)] | None = None,
) -> int:
    """Start a verb on several processes, here or on the hosts of a file.

    Returns:
        The exit code of the first rank that failed, or 0.
    """
    from fd_scale.launch import launch as start

    return start(list(command), nproc=nproc, hostfile=Path(hostfile) if hostfile else None, master_port=master_port)


def demo(out: str | Path = "runs/demo", *, images: str | Path | None = None, teacher: str = "demo") -> Path:
    """The main job on real photographs, from packing to a page that shows what the student learned.

    Returns:
        The page.
    """
    from fd_scale.demo.run import demo as run_demo

    return run_demo(Path(out), images=Path(images) if images else None, teacher=teacher)


def knn(config: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """kNN accuracy of frozen features, as one rank of the process group that the environment describes.

    Returns:
        Model, data, and the accuracy of each k; also written to `folder`/knn.json.
    """
    from fd_scale.evaluate.probes import knn as run

    return _probe(run, config, overrides)


def linear(config: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Linear probe of frozen features, as one rank of the process group that the environment describes.

    Returns:
        Model, data, and the accuracy of each learning rate; also written to `folder`/linear.json.
    """
    from fd_scale.evaluate.probes import linear as run

    return _probe(run, config, overrides)


def _probe(run: Callable[..., dict[str, Any]], config: str | Path, overrides: Sequence[str]) -> dict[str, Any]:
    from fd_scale.config import load_config
    from fd_scale.evaluate.config import ProbeJobConfig
    from fd_scale.parallel import ranks as process_group

    loaded = load_config(ProbeJobConfig, config, overrides)
    ranks = process_group.start(loaded.timeout_minutes)
    result = run(loaded, ranks, _bar("step") if ranks.is_first else _no_bar)
    process_group.finish()
    return result


def _no_bar(items: Any, total: int, label: str) -> Any:
    return items


def _job(kind: Any, run: Callable[..., Path], config: str | Path, overrides: Sequence[str]) -> Path:
    from fd_scale.config import as_it_began, load_config, resolved, shipped
    from fd_scale.parallel import ranks as process_group
    from fd_scale.parallel.deepspeed_config import read_json
    from fd_scale.train.run_folder import stored_config

    loaded = load_config(kind, config, overrides)
    sharding = read_json(shipped(loaded.parallel.deepspeed))
    ranks = process_group.start(loaded.parallel.timeout_minutes)
    with process_group.together():
        own = stored_config(loaded.run) if ranks.is_first else None
    stored = process_group.from_first(own)
    if isinstance(stored, dict):
        loaded = as_it_began(loaded, stored)
    folder = run(loaded, resolved(loaded), sharding, ranks)
    process_group.finish()
    return folder


def fetch_teacher(spec: str, out: str | Path, *, pixels: str | None = None, key: str | None = None) -> dict[str, Any]:
    """Write a teacher to one safetensors file, with its architecture, statistics, licence, source and hash.

    `teacher.spec=file:OUT` then reads it without network. See `fd_scale.teachers.staging`.

    Returns:
        What the file says of itself.
    """
    from fd_scale.teachers.staging import fetch_teacher as fetch

    return fetch(spec, Path(out), pixels=pixels, key=key)


def teachers(pattern: str = "*") -> str:
    """The teachers of that name that can be had, as a table; each was built without memory for its weights."""
    from fd_scale.teachers.listing import rows, table

    return table(rows(pattern, _bar("teacher")))


def _bar(unit: str) -> Any:
    """A progress bar with rate and time left, where someone looks at it."""

    def progress(items: Any, total: int, label: str) -> Any:
        from tqdm import tqdm

        return tqdm(items, total=total, desc=label, unit=unit, disable=None)

    return progress
