"""The verbs of `fd-scale` from Python. Each imports what it needs when it is called."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal


def pack(
    source: str | Path,
    out: str | Path,
    *,
    shard_samples: int = 1000,
    seed: int = 0,
    workers: int | None = None,
    short_side: int | None = None,
    skip_bad: bool = False,
) -> Any:
    """Write images into webdataset shards with an index and a manifest.

    The source is a folder, an archive, a folder of archives, or a list; see `fd_scale.data.sources`. `workers` is the
    number of processes, by default one for each core.

    Returns:
        The `fd_scale.data.shards.Manifest`.
    """
    from fd_scale.data.pack import pack as pack_source
    from fd_scale.data.workers import default_workers

    return pack_source(
        Path(source),
        Path(out),
        shard_samples=shard_samples,
        seed=seed,
        workers=default_workers() if workers is None else workers,
        short_side=short_side,
        skip_bad=skip_bad,
        progress=_bar("image"),
    )


def index(folder: str | Path, *, workers: int | None = None, skip_bad: bool = False) -> Any:
    """Write an index and a manifest beside webdataset shards that are there already; the tars stay as they are.

    Returns:
        The `fd_scale.data.shards.Manifest`.
    """
    from fd_scale.data.index import index as index_folder
    from fd_scale.data.workers import default_workers

    count = default_workers() if workers is None else workers
    return index_folder(Path(folder), workers=count, skip_bad=skip_bad, progress=_bar("shard"))


def verify(folder: str | Path, *, workers: int | None = None) -> Any:
    """Read a packed data set again: hashes, index, and every image decoded.

    Returns:
        A list of `fd_scale.data.verify.Damage`, empty where all is whole.
    """
    from fd_scale.data.verify import verify as verify_folder
    from fd_scale.data.workers import default_workers

    return verify_folder(
        Path(folder), workers=default_workers() if workers is None else workers, progress=_bar("image")
    )


def distill(config: str | Path, overrides: Sequence[str] = ()) -> Path:
    """Distill as one rank of the process group that the environment describes; a world of one without it.

    Returns:
        The run folder.
    """
    from fd_scale.config import load_config, resolved, shipped
    from fd_scale.parallel import ranks as process_group
    from fd_scale.parallel.deepspeed_config import read_json
    from fd_scale.tasks.distill import DistillConfig
    from fd_scale.tasks.distill import distill as run

    loaded = load_config(DistillConfig, config, overrides)
    sharding = read_json(shipped(loaded.parallel.deepspeed))
    ranks = process_group.start(loaded.parallel.timeout_minutes)
    folder = run(loaded, resolved(loaded), sharding, ranks)
    process_group.finish()
    return folder


def export(
    run: str | Path,
    out: str | Path,
    *,
    step: int | None = None,
    ema: bool = False,
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
) -> Path:
    """Write the student of a run, without head, optimizer and teacher, as one safetensors file.

    The run is its folder, or a folder or URL of checkpoints.

    Returns:
        The file.
    """
    from fd_scale.export import export as export_student

    return export_student(run, Path(out), step=step, ema=ema, dtype=dtype, progress=_bar("tensor"))


def convert(
    source: str | Path,
    out: str | Path,
    *,
    student: str | None = None,
    image_size: int | None = None,
    window: int | None = None,
    pretrained_window: Sequence[int] | None = None,
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


def plan(config: str | Path, overrides: Sequence[str] = (), *, world: int = 1) -> str:
    """Parameters by part and batch arithmetic of a configuration, as text. Needs neither GPU nor data."""
    from fd_scale.config import load_config
    from fd_scale.tasks.distill import DistillConfig, plan_run

    return plan_run(load_config(DistillConfig, config, overrides), world)


def launch(
    command: Sequence[str],
    *,
    nproc: int | None = None,
    hostfile: str | Path | None = None,
    master_port: int | None = None,
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


def _bar(unit: str) -> Any:
    """A progress bar with rate and time left, where someone looks at it."""

    def progress(items: Any, total: int, label: str) -> Any:
        from tqdm import tqdm

        return tqdm(items, total=total, desc=label, unit=unit, disable=None)

    return progress
