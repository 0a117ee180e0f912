"""MMSegmentation and MMDetection through FDStrategy, on real processes: the same steps, resuming, export, refusals."""

import json
import os
import subprocess
import sys
import time

import psutil
import pytest

pytest.importorskip("mmcv", reason="MMSegmentation and MMDetection are absent: make setup-downstream")

from downstream.mini_data import write_mini_data
from support.helpers import REPOSITORY
from support.parts import sweep

from fd_scale.launch import launch
from fd_scale.lease import Lease, holding
from fd_scale.models.vit import SIZES

CONFIGS = REPOSITORY / "downstream/configs/coco_mini"
UPERNET, HTC, HTC_WITHOUT_SEMANTIC = (
    CONFIGS / f"{name}_zero3.py" for name in ("upernet", "htc", "htc_without_semantic")
)
PROGRAM = (sys.executable, "-m", "downstream.program")


@pytest.fixture(scope="module", autouse=True)
def _data(tmp_path_factory):
    data = write_mini_data(tmp_path_factory.mktemp("data"), images=4)
    given = {
        "COCO_MINI": str(data[0]),
        "COCO_MINI_SEMANTIC": str(data[1]),
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "tests"), os.environ.get("PYTHONPATH", "")]),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, value)
        yield


@pytest.mark.parametrize(
    ("config", "stage", "nproc", "accumulation"),
    [(UPERNET, 3, 2, 1), (UPERNET, 2, 2, 1), (HTC, 3, 2, 1), (HTC, 1, 1, 2), (HTC_WITHOUT_SEMANTIC, 3, 2, 1)],
)
def test_a_step_in_shards_equals_the_plain_one(config, stage, nproc, accumulation, tmp_path):
    words = ["one_step", str(config), str(tmp_path), str(stage), str(accumulation)]
    assert launch(words, nproc=nproc, program=PROGRAM) == 0


BEIT = """
_base_ = {base!r}
norm = dict(norm_cfg=dict(_delete_=True, type="FDSyncBN"))
model = dict(
    backbone=dict(_delete_=True, type="FDViT", name="vit_nano", image_size=64, pyramid="beit", drop_path=0.0),
    decode_head=dict(in_channels=[WIDTH] * 4, **norm),
    auxiliary_head=dict(in_channels=WIDTH, **norm),
)
"""


@pytest.mark.parametrize("stage", sweep([1, 2, 3], [3]))
def test_a_step_with_beits_pyramid_and_statistics_of_all_ranks_equals_the_plain_one(stage, tmp_path):
    """The norm behind the last block is not trained, and heads wait for each other in the middle of a pass."""
    config = tmp_path / "beit.py"
    width = SIZES["vit_nano"].width
    config.write_text(BEIT.format(base=str(UPERNET)).replace("WIDTH", str(width)))
    assert launch(["one_step", str(config), str(tmp_path), str(stage)], nproc=2, program=PROGRAM) == 0


BF16 = [(config, stage) for config in (UPERNET, HTC) for stage in (1, 2, 3)]


@pytest.mark.parametrize(("config", "stage"), sweep(BF16, [(UPERNET, 3), (HTC, 3)]))
def test_bf16_gives_the_loss_of_fp32_but_for_rounding(config, stage, tmp_path):
    assert launch(["bf16", str(config), str(tmp_path), str(stage)], nproc=2, program=PROGRAM) == 0


def test_bf16_keeps_the_statistics_of_batch_norms(tmp_path):
    config = tmp_path / "batch_norm.py"
    norm = "dict(norm_cfg=dict(_delete_=True, type='BN'))"
    config.write_text(f"_base_ = {str(UPERNET)!r}\nmodel = dict(decode_head={norm}, auxiliary_head={norm})\n")
    assert launch(["bf16", str(config), str(tmp_path), "3"], nproc=2, program=PROGRAM) == 0


def test_validation_on_two_ranks_counts_each_image_once_where_they_do_not_divide(tmp_path):
    assert launch(["validation", str(UPERNET), str(tmp_path)], nproc=2, program=PROGRAM) == 0


def test_a_stop_request_saves_and_resume_equals_uninterrupted(tmp_path):
    assert launch(["interrupted", str(UPERNET), str(tmp_path)], nproc=2, program=PROGRAM) == 0


def test_a_rank_that_hangs_ends_the_run_with_75_and_stacks(tmp_path, capfd):
    assert launch(["hangs", str(UPERNET), str(tmp_path)], nproc=2, program=PROGRAM) == 75
    (line,) = [entry for entry in capfd.readouterr().err.splitlines() if entry.startswith("fd-scale: ")]
    assert "gave no sign of life for 0.3 minutes" in line
    assert "with a higher strategy.watchdog_minutes if it was only slow" in line
    assert "in hang_here" in (tmp_path / "rank_00001.stacks").read_text()
    assert "in train_step" in (tmp_path / "rank_00000.stacks").read_text()  # where the other one waited


def command(verb: str, *words: object, nproc: int | None = None) -> list[str]:
    start = [sys.executable, "-m"]
    if nproc:
        start += ["torch.distributed.run", "--standalone", "--nproc_per_node", str(nproc), "-m"]
    return [*start, "fd_scale_downstream", verb, *map(str, words)]


def run(words: list[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def metric(output: str, name: str) -> str:
    lines = [line for line in output.splitlines() if f"  {name}: " in line or f" {name}: " in line]
    return lines[-1].split(f"{name}: ")[1].split()[0]


def options(batch_size: int) -> list[str]:
    return [
        "--cfg-options",
        f"train_dataloader.batch_size={batch_size}",
        "train_cfg.max_iters=6",
        "train_cfg.val_interval=6",
        "default_hooks.checkpoint.interval=1",
        "default_hooks.logger.interval=1",
        "strategy.ema_decay=0.5",
        "strategy.keep.last=9",
    ]


def test_killed_on_two_resumed_on_one_exported_and_tested_by_the_plain_runner(tmp_path):
    work = tmp_path / "run"
    training = [UPERNET, "--work-dir", work]
    process = subprocess.Popen(
        command("train", *training, *options(1), nproc=2),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    saved = work / "checkpoints/step_00000002"
    end = time.monotonic() + 300
    while not saved.exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    for victim in psutil.process_iter(["cmdline"]):  # torchrun gives its ranks sessions of their own
        if str(work) in " ".join(victim.info["cmdline"] or ()):
            victim.kill()
    process.wait()

    refused = subprocess.run(command("train", *training, *options(2)), capture_output=True, text=True)
    assert refused.returncode == 2
    assert "holds checkpoints up to step" in refused.stderr

    output = run(command("train", *training, "--resume", *options(2)))
    assert "resuming from" in output
    inside = metric(output, "mIoU")
    scalars = [
        json.loads(line) for path in work.glob("*/vis_data/scalars.json") for line in path.read_text().splitlines()
    ]
    rates = {entry["iter"]: entry["base_lr"] for entry in scalars if "base_lr" in entry}
    assert set(rates) == set(range(1, 7))
    warming_up = [rates[step + 1] - rates[step] for step in range(1, 6)]  # linear, also across the kill
    assert warming_up == pytest.approx([warming_up[0]] * 5, rel=1e-3)
    assert warming_up[0] > 0
    assert sorted(path.name for path in work.glob("checkpoints_best_mIoU/*")) == ["step_00000006"]

    for words in ([], ["--best", "mIoU"]):
        exported = tmp_path / f"model{len(words)}.pth"
        run(command("export", work, exported, *words))
        plain = CONFIGS / "upernet_swin_v2_nano.py"
        tested = run(command("test", plain, "--checkpoint", exported, "--work-dir", tmp_path / "test"))
        assert metric(tested, "mIoU") == inside


def test_mistakes_end_in_one_line(tmp_path):
    for words, line in [
        (
            ["strategy.parallel.precison=fp32"],
            "unknown key `strategy.parallel.precison`; did you mean ",
        ),
        (["optim_wrapper.accumulative_counts=2"], "use strategy.accumulation"),
        (["strategy.accumulation=3"], "train_dataloader.batch_size does not divide by strategy.accumulation=3"),
        (["default_hooks.average.type=EMAHook"], "set strategy.ema_decay instead"),
    ]:
        done = subprocess.run(
            command("train", UPERNET, "--work-dir", tmp_path / "run", "--cfg-options", *words),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2, done.stderr[-2000:]
        assert [entry for entry in done.stderr.splitlines() if entry.startswith("fd-scale: ") and line in entry]
    # On two ranks; the launcher keeps the code and the one line.
    words = ["--cfg-options", "model.decode_head.loss_decode.loss_weight=nan", "default_hooks.checkpoint.interval=1"]
    ranks = command("launch", "--nproc", 2, "--", "train", UPERNET, "--work-dir", tmp_path / "run", *words)
    done = subprocess.run(ranks, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr[-2000:]
    (line,) = [entry for entry in done.stderr.splitlines() if entry.startswith("fd-scale: ")]
    assert "the loss is nan in a batch with " in line
    assert not (tmp_path / "run/checkpoints").exists()
    done = subprocess.run(command("export", tmp_path, tmp_path / "out.pth"), capture_output=True, text=True)
    assert done.returncode == 2
    assert "no whole checkpoint" in done.stderr


@pytest.mark.parametrize("config", [UPERNET, CONFIGS / "upernet_swin_v2_nano.py"])
def test_a_second_start_in_a_work_folder_ends_with_75(config, tmp_path):
    with holding(Lease(tmp_path / "lease.json", "held by the test", renew_seconds=0.2)):
        done = subprocess.run(command("train", config, "--work-dir", tmp_path), capture_output=True, text=True)
    assert done.returncode == 75, done.stderr[-2000:]
    (line,) = [entry for entry in done.stderr.splitlines() if entry.startswith("fd-scale: ")]
    assert f"work_dir {tmp_path} is in use by process {os.getpid()} on " in line
    assert not list(tmp_path.rglob("*.pth"))
    assert not (tmp_path / "checkpoints").exists()
