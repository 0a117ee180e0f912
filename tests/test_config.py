import json
import math
import re
from pathlib import Path

import pytest
import torch
import yaml
from support.helpers import REPOSITORY

from fd_scale.batch_plan import plan_batch
from fd_scale.config import differences, load_config, resolved, shipped
from fd_scale.errors import BadInput
from fd_scale.parallel.config import ParallelConfig
from fd_scale.parallel.deepspeed_config import read_json, resolve
from fd_scale.tasks.config import DistillConfig
from fd_scale.tasks.distillation import check_teachers, match_teachers, student_with_heads
from fd_scale.tasks.distillation_plan import outlines, plan_distillation

CONFIGS = sorted(p for p in (REPOSITORY / "configs").rglob("*.yaml") if p.parent.name in ("demo", "distill"))
JSONS = sorted((REPOSITORY / "deepspeed_configs").glob("*.json"))
DEMO = REPOSITORY / "configs/demo/swin_v2.yaml"


def load(path: Path, *overrides: str) -> DistillConfig:
    return load_config(DistillConfig, path, overrides)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_shipped_config_loads_builds_and_goes_with_every_json(path):
    config = load(path)
    check_teachers(config)
    teachers = outlines(config)
    matches = match_teachers(config, teachers)
    with torch.device("meta"):
        model = student_with_heads(config, {name: teacher.width for name, teacher in teachers.items()}, matches)
    assert model.head.out_features == teachers["teacher"].width
    batch = plan_batch(config.train.global_batch, config.train.micro_batch, 2)
    for file in JSONS:
        whole = resolve(read_json(file), config.parallel, batch, config.optim.clip)
        sizes = [whole[k] for k in ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps")]
        assert sizes[0] * sizes[1] * 2 == whole["train_batch_size"]


@pytest.mark.exhaustive
def test_the_plan_of_the_giant_names_its_parameters_cost_and_memory():
    path = REPOSITORY / "configs/distill/swin_v2_giant.yaml"
    given = ["student.position_bias=per_block", "teacher.spec=fd_scale:swin_v2_giant@absent.pth", "train.micro_batch=1"]
    text = plan_distillation(load(path, *given), 8, {"zero_optimization": {"stage": 3}})
    assert re.search(r"  total +2,997,843,680\n", text)
    assert "forward pass of the student: 370.7 G multiply-adds an image" in text
    parameters = 2_997_843_680 + (4096 + 1) * 4096  # the head
    assert re.search(rf"  optimizer +{parameters * 12 / 8 / 2**30:.2f}\n", text)
    assert "global batch 2048 = 8 ranks x micro-batch 1 x 256 accumulated" in text


def test_a_plan_refuses_what_the_run_would():
    for overrides, line in (
        (["student.patch_size=4"], r"grid is 6x6 and the student's 3x3 \(teacher: .*set target\.resize=bilinear"),
        (["teacher.spec=fd_scale:swin_v2_gaint@x"], "is called 'swin_v2_gaint'; near: swin_v2_giant"),
        (["target.kind=logits"], "has neither classifier nor projection"),
        (["train.global_batch=63"], "is not divisible by 2 ranks"),
    ):
        with pytest.raises(BadInput, match=line):
            plan_distillation(load(DEMO, *overrides), 2, {"zero_optimization": {"stage": 3}})


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_shipped_config_says_where_it_comes_from(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("source", "launch", "cost", "status"):
        assert any(re.match(rf"#\s+{word}\b", line) for line in header), word


def test_what_is_resolved_loads_to_the_same(tmp_path):
    config = load(DEMO, "train.seed=7")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(resolved(config)))
    assert load(tmp_path / "config.yaml") == config


def test_base_is_one_level_and_merged_by_section(tmp_path):
    (tmp_path / "base.yaml").write_text(DEMO.read_text())
    (tmp_path / "mine.yaml").write_text("base: base.yaml\ntrain: {global_batch: 32}\n")
    config = load(tmp_path / "mine.yaml", "train.seed=3")
    assert (config.train.global_batch, config.train.micro_batch, config.train.seed) == (32, 32, 3)
    (tmp_path / "third.yaml").write_text("base: mine.yaml\n")
    with pytest.raises(BadInput, match="one level is all there is"):
        load(tmp_path / "third.yaml")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["train.gobal_batch=8"], r"unknown key `train\.gobal_batch`; did you mean `train\.global_batch`\?"),
        (["trian.seed=8"], r"unknown key `trian`; did you mean `train`\?"),
        (["train.global_batch=many"], r"train\.global_batch = 'many': give a whole number"),
        (["parallel.precision=fp8"], r"parallel\.precision = 'fp8': .*'fp32' or 'bf16'"),
        (["train.seed"], "is not key=value"),
        (["run.folder.x=1"], "folder is a value, not a section"),
        (["run.folder=null"], r"run\.folder = None"),
    ],
)
def test_mistakes_are_named_with_the_fix(overrides, line):
    with pytest.raises(BadInput, match=line):
        load(DEMO, *overrides)


def test_a_missing_key_and_a_missing_file_are_named(tmp_path):
    (tmp_path / "half.yaml").write_text("run: {folder: x}\n")
    with pytest.raises(BadInput, match="data is missing"):
        load(tmp_path / "half.yaml")
    with pytest.raises(BadInput, match="no such config"):
        load(tmp_path / "absent.yaml")
    (tmp_path / "broken.yaml").write_text("run: [")
    with pytest.raises(BadInput, match="is not YAML"):
        load(tmp_path / "broken.yaml")


def test_numbers_that_yaml_takes_for_words_are_numbers():
    assert load(DEMO, "schedule.base_lr=1e-4").schedule.base_lr == 1e-4


def test_the_batch_must_divide_and_the_line_names_a_fitting_one():
    with pytest.raises(BadInput, match=r"24 ranks x train\.micro_batch 8; try train\.global_batch=4104"):
        plan_batch(4096, 8, 24)
    with pytest.raises(BadInput, match=r"try train\.micro_batch=4"):
        plan_batch(96, 5, 8)
    assert plan_batch(2048, 32, 16).accumulation == 4


@pytest.mark.parametrize("key", ["train_batch_size", "bf16", "optimizer", "gradient_clipping"])
def test_a_json_that_states_a_fact_of_the_yaml_is_refused(key, tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 3}, key: 1}))
    with pytest.raises(BadInput, match=f"`{key}` belongs to the run's YAML"):
        read_json(file)


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        '{"zero_optimization": {"stage": 4}}',
        '{"zero_optimization": {"stage": true}}',
        '{"zero_optimization": {"stage": "3"}}',
        "{",
        "[]",
        "[" * 100_000,
        '{"zero_optimization": {"stage": ' + "1" * 10_000 + "}}",
        "\udcff",
    ],
)
def test_a_json_that_shards_nothing_is_refused(content, tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(content, errors="surrogateescape")
    with pytest.raises(BadInput, match=r"mine\.json"):
        read_json(file)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("reduce_bucket_size", -1),
        ("reduce_bucket_size", "large"),
        ("reduce_bucket_size", math.nan),
        ("overlap_comm", "maybe"),
        ("reduce_bucketsize", 1000),
        ("offload_optimizer", {"device": "moon"}),
    ],
)
def test_a_zero_setting_that_deepspeed_does_not_take_is_refused_with_its_name(key, value, tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 3, key: value}}))
    with pytest.raises(BadInput, match=rf"mine\.json: zero_optimization\.{key}.*DeepSpeed says"):
        read_json(file)


def test_shipped_files_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shipped("configs/demo/swin_v2.yaml") == DEMO
    assert shipped("configs/demo/absent.yaml") == Path("configs/demo/absent.yaml")


def test_bf16_sums_its_gradients_in_fp32():
    batch = plan_batch(8, 2, 2)
    assert resolve({}, ParallelConfig(precision="bf16"), batch, 3.0)["data_types"] == {"grad_accum_dtype": "fp32"}
    assert "data_types" not in resolve({}, ParallelConfig(precision="fp32"), batch, 3.0)


def test_two_starts_of_a_run_may_differ_in_what_the_fields_say_and_in_nothing_else():
    more = "more_teachers.other={spec: demo, sharded: %s}"
    stored = resolved(load(DEMO, more % "false"))
    same = (
        *("run.folder=elsewhere", "run.keep.last=5", "data.train=elsewhere", "data.train={a.b: 1}", "data.workers=0"),
        *("train.micro_batch=1", "train.spike.ratio=null", "parallel.recompute=all", "student.attention=sdpa"),
        "data.max_bad_share=0.5",
    )
    for override in same:
        assert differences(DistillConfig, stored, resolved(load(DEMO, more % "false", override))) == [], override
    for override in ("train.seed=7", "data.view.flip=0.25", "loss.beta=1.0", "probe.k=3"):
        key = override.partition("=")[0]
        found = differences(DistillConfig, stored, resolved(load(DEMO, more % "false", override)))
        assert [line.partition(":")[0] for line in found] == [key]
    assert differences(DistillConfig, stored, resolved(load(DEMO, more % "true"))) == [
        "more_teachers.other.sharded: False there, True here"
    ]
