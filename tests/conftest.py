"""Data that the project makes itself: photographs cut by the demo's own code, packed by `pack`."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.helpers import tiny_arguments
from support.session import once

pytest_plugins = ["support.budget", "support.session"]

# Started in the background of a script, or under nohup, a process ignores these and so do all that it starts; tests
# send them and expect an answer.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Two ranks with many threads each are slower than two with one, on the few cores of a test machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def image_folder() -> Path:
    """48 small JPEGs in two class folders, each with content of its own."""
    return once("images", _write_images)


def _write_images(folder: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(48):
        target = folder / f"class_{number % 2}" / f"{number:03d}.jpg"
        target.parent.mkdir(exist_ok=True)
        coarse = random.integers(0, 255, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((60, 50), Image.Resampling.BICUBIC).save(target, quality=90)


@pytest.fixture(scope="session")
def shards(image_folder) -> Path:
    from fd_scale.data.packing.pack import pack

    return once("shards", lambda folder: pack(image_folder, folder / "shards", shard_samples=20)) / "shards"


@pytest.fixture(scope="session")
def teacher_file() -> Path:
    """A tiny ViT as `file:` teacher. Random: these tests ask how a run behaves, not what it learns."""
    return once("teacher", _write_teacher) / "teacher.safetensors"


def _write_teacher(folder: Path) -> None:
    import timm
    import torch
    from safetensors.torch import save_file

    kwargs = {"img_size": 32, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 0}
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", **kwargs)
    facts = {
        "timm_model": "vit_tiny_patch16_224",
        "timm_kwargs": kwargs,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "licence": "none",
    }
    metadata = {"fd_scale_teacher": json.dumps(facts)}
    save_file(model.state_dict(), folder / "teacher.safetensors", metadata=metadata)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """URL of an S3 server on this machine, with an empty bucket `runs`."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server, monkeypatch) -> str:
    """URL of a bucket there; programs that are started see it too."""
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    if not files.exists("runs"):
        files.mkdir("runs")
    return "s3://runs"


@pytest.fixture
def tiny_run(shards, teacher_file, tmp_path) -> list[str]:
    """`distill` arguments of a run of eight short steps, on every code path of the big one."""
    return tiny_arguments(shards, teacher_file, tmp_path / "run")
