"""Data that the project makes itself: photographs cut by the demo's own code, packed by `pack`."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny_arguments
from PIL import Image

# Started in the background of a script, or under nohup, a process ignores these and so do all that it starts; tests
# send them and expect an answer.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Two ranks with many threads each are slower than two with one, on the few cores of a test machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    """48 small JPEGs in two class folders, each with content of its own."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for number in range(48):
        target = folder / f"class_{number % 2}" / f"{number:03d}.jpg"
        target.parent.mkdir(exist_ok=True)
        coarse = random.integers(0, 255, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((60, 50), Image.Resampling.BICUBIC).save(target, quality=90)
    return folder


@pytest.fixture(scope="session")
def shards(image_folder, tmp_path_factory) -> Path:
    from fd_scale.data.pack import pack

    out = tmp_path_factory.mktemp("packed") / "shards"
    pack(image_folder, out, shard_samples=20)
    return out


@pytest.fixture(scope="session")
def teacher_file(tmp_path_factory) -> Path:
    """A tiny ViT as `file:` teacher. Random: these tests ask how a run behaves, not what it learns."""
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
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_file(model.state_dict(), path, metadata={"fd_scale_teacher": json.dumps(facts)})
    return path


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """URL of a bucket on an S3 server of this machine; programs that are started see it too."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    given = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    s3fs.S3FileSystem().mkdir("runs")
    yield "s3://runs"
    server.stop()
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.fixture
def tiny_run(shards, teacher_file, tmp_path) -> list[str]:
    """`distill` arguments of a run of eight short steps, on every code path of the big one."""
    return tiny_arguments(shards, teacher_file, tmp_path / "run")
