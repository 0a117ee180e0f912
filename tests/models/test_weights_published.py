"""Checkpoints with the names of published code, small: everything finds its place, or is refused for a reason."""

import argparse
import json
import re
from pathlib import Path

import pytest
import torch

from fd_scale.errors import BadInput
from fd_scale.models.attention import relative_coordinates
from fd_scale.models.swin_v2 import SwinV2
from fd_scale.models.vit import ViT
from fd_scale.models.weights.fitting import fit
from fd_scale.models.weights.formats import bare_names
from fd_scale.models.weights.loading import fitted_weights, load_weights
from fd_scale.models.weights.reading import WeightsFile, read_file
from fd_scale.models.weights.student import student_of
from fd_scale.models.weights.timm_loading import load_from_file

PUBLISHED = json.loads((Path(__file__).parent / "published_names.json").read_text())
"""Written by tools/published_names.py from the published code."""
CPU = torch.device("cpu")


def checkpoint(name: str, windows=(4, 4)) -> dict:
    """A whole file of that format, as its training loop saves it."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for tensor, shape in PUBLISHED[name]["names"].items():
        stage = re.search(r"layers\.(\d+)", tensor)
        if tensor.endswith("relative_coords_table"):
            tensors[tensor] = relative_coordinates((4, 4), windows[int(stage[1])], CPU).view(shape)
        elif tensor.endswith("relative_position_index"):
            tensors[tensor] = torch.zeros(shape, dtype=torch.long)
        else:
            tensors[tensor] = torch.randn(shape, generator=generator)
    content = tensors
    for key in reversed(PUBLISHED[name]["wrapper"]):
        content = {key: content, "epoch": 3, "optimizer": {"state": {}}, "args": argparse.Namespace(lr=1)}
    return content


def swin(**changes) -> SwinV2:
    return SwinV2(8, (2, 2), (1, 2), window=4, **changes)


def vit(position_bias: str, **changes) -> ViT:
    return ViT(16, 2, 2, position_bias=position_bias, **{"image_size": 32, "patch_size": 8, **changes})


STUDENTS = [
    ("Microsoft SwinV2", swin, {}),
    ("SimMIM SwinV2", swin, {}),
    ("FD SwinV2", swin, {}),
    ("FD SwinV2, shared bias, end norms", swin, {"position_bias": "shared", "extra_norm_every": 2}),
    ("FD SwinV2, shared bias, end norms", swin, {"extra_norm_every": 2}),
    ("FD ViT", vit, {"position_bias": "shared"}),
    ("FD ViT", vit, {"position_bias": "per_block"}),
    ("FD ViT, bias of keys", vit, {"position_bias": "shared"}),
    ("FD ViT, fine-tuned", vit, {"position_bias": "per_block"}),
    ("DINO", vit, {"position_bias": "absolute"}),
    ("MAE", vit, {"position_bias": "absolute"}),
]
FINAL_NORM = {"norm.weight", "norm.bias"}


@pytest.mark.parametrize(("name", "build", "options"), STUDENTS)
def test_every_name_of_a_published_file_is_placed_or_known(name, build, options, tmp_path):
    torch.save(checkpoint(name), tmp_path / "file.pth")
    with torch.device("meta"):
        outline = build(**options)
    fitted = fitted_weights(outline, tmp_path / "file.pth", neutral=True)
    report = fitted.report
    ours = [name for name, _ in outline.named_parameters()]

    assert report.unknown == ()
    assert set(fitted.tensors) == set(ours)
    absent = {n for n in ours if "gamma" in n} if name in ("DINO", "MAE") else set()
    assert set(report.neutral) == (FINAL_NORM if "fine-tuned" in name else absent)
    assert sorted([*report.matched, *report.resized, *report.neutral, *report.missing]) == sorted(ours)
    shapes = {n: tuple(p.shape) for n, p in outline.named_parameters()}
    assert {n: tuple(t.shape) for n, t in fitted.tensors.items()} == shapes


@pytest.mark.parametrize(("name", "build", "options"), STUDENTS)
def test_a_tensor_of_the_file_is_either_used_or_ignored(name, build, options, tmp_path):
    torch.save(checkpoint(name), tmp_path / "file.pth")
    tensors = read_file(tmp_path / "file.pth").tensors
    with torch.device("meta"):
        outline = build(**options)
    whole = fit(outline, tensors).report
    for dropped in tensors:
        report = fit(outline, {n: t for n, t in tensors.items() if n != dropped}).report
        assert (report.missing == whole.missing) == (dropped in whole.ignored), dropped


@pytest.mark.parametrize("name", ["Microsoft SwinV2", "FD SwinV2", "FD SwinV2, shared bias, end norms"])
def test_the_scale_of_the_trained_windows_is_taken_from_the_files_tables(name, tmp_path):
    torch.save(checkpoint(name, windows=(3, 2)), tmp_path / "file.pth")
    model = swin(extra_norm_every=2 if "end norms" in name else 0)
    load_weights(model, tmp_path / "file.pth")
    assert model.told_windows == (3, 2)
    contradicting = swin(extra_norm_every=2 if "end norms" in name else 0, pretrained_windows=(4, 4))
    with pytest.raises(
        BadInput, match=r"trained in the windows \[3, 2\], but the student's pretrained_window is \[4, 4\]"
    ):
        load_weights(contradicting, tmp_path / "file.pth")


def test_windows_other_than_those_in_use_are_asked_for_where_the_model_cannot_be_told(tmp_path):
    torch.save(checkpoint("Microsoft SwinV2", windows=(3, 2)), tmp_path / "other.pth")
    torch.save(checkpoint("Microsoft SwinV2", windows=(4, 2)), tmp_path / "same.pth")
    with pytest.raises(
        BadInput, match=r"at 16 px the student has \[4, 2\]; set the student's pretrained_window: \[3, 2\]"
    ):
        fitted_weights(swin(), tmp_path / "other.pth", image_size=16)
    fitted_weights(swin(), tmp_path / "same.pth", image_size=16)
    fitted_weights(swin(pretrained_windows=(3, 2)), tmp_path / "other.pth", image_size=16)


@pytest.mark.parametrize("damage", ["linear", "disagreeing", "misshapen"])
def test_tables_of_coordinates_that_are_not_swinv2s_are_refused(damage, tmp_path):
    content = checkpoint("Microsoft SwinV2")
    name = "layers.0.blocks.1.attn.relative_coords_table"
    table = content["model"][name]
    content["model"][name] = {
        "linear": table.sign() * (2 ** (3 * table.abs()) - 1) / 8,
        "disagreeing": relative_coordinates((4, 4), 2, CPU).view(table.shape),
        "misshapen": table[0],
    }[damage]
    torch.save(content, tmp_path / "file.pth")
    line = {"linear": "not spaced by the logarithm", "disagreeing": r"windows: \[2, 4\]", "misshapen": "has the shape"}
    with pytest.raises(BadInput, match=line[damage]):
        load_weights(swin(), tmp_path / "file.pth")


@pytest.mark.parametrize("name", ["SimMIM Swin", "EsViT"])
def test_files_of_the_first_swin_fill_timms_model(name, tmp_path):
    """`decoder`, heads and the token of masked pixels are left out; patches are merged at the start of a stage."""
    content = checkpoint(name)
    torch.save(content, tmp_path / "file.pth")
    tiny = {"img_size": 32, "embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4}
    model, _ = load_from_file("swin_tiny_patch4_window7_224", tiny, {}, tmp_path / "file.pth")
    tensors = content[PUBLISHED[name]["wrapper"][0]]
    held = {bare: tensors[key] for key, bare in bare_names(tensors).items()}
    for ours, parameter in model.named_parameters():
        theirs = ours.replace("layers.1.downsample", "layers.0.downsample")
        assert torch.equal(parameter, held[theirs])


@pytest.mark.parametrize(
    ("name", "build", "options", "line"),
    [
        ("EsViT", swin, {}, r"first Swin .* take it as the teacher, e\.g\. teacher\.spec=timm:swin_base"),
        ("EsViT", vit, {"position_bias": "absolute"}, "no place in a ViT; take it as the teacher"),
        (
            "CLIP",
            vit,
            {"position_bias": "absolute"},
            r"CLIP's.*QuickGELU.*teacher\.spec=timm:vit_base_patch16_clip_quick",
        ),
        ("Microsoft SwinV2", vit, {"position_bias": "absolute"}, "they are of a SwinV2, and the student is a ViT"),
        ("DINO", vit, {"position_bias": "shared"}, "no place for 1 .pos_embed.*position_bias: absolute"),
        ("FD ViT", vit, {"position_bias": "absolute"}, "rel_pos_bias.*position_bias: shared, or per_block"),
        ("FD ViT, fine-tuned", vit, {"position_bias": "shared"}, "which a shared one cannot hold.*per_block"),
        (
            "MAE",
            vit,
            {"position_bias": "absolute"},
            r"has no 4 \(4 blocks\.0-1\.gamma_1-2\); set the student's neutral_gaps",
        ),
        ("FD ViT", vit, {"position_bias": "shared", "patch_size": 16}, "8x8 px and the student's 16x16"),
    ],
)
def test_what_no_student_computes_is_refused_with_what_to_do(name, build, options, line, tmp_path):
    torch.save(checkpoint(name), tmp_path / "file.pth")
    with pytest.raises(BadInput, match=line) as error:
        load_weights(build(**options), tmp_path / "file.pth")
    assert "\n" not in str(error.value)


def test_position_embeddings_and_tables_are_resized_and_reported(tmp_path):
    for name, position_bias, changed in (
        ("DINO", "absolute", "pos_embed"),
        ("FD ViT", "shared", "rel_pos_bias.relative_position_bias_table"),
        ("FD ViT", "per_block", "blocks.1.attn.relative_position_bias_table"),
    ):
        torch.save(checkpoint(name), tmp_path / "file.pth")
        model = vit(position_bias, image_size=48)
        report = fitted_weights(model, tmp_path / "file.pth", neutral=True).report
        assert changed in report.resized
        assert not set(report.resized) & set(report.matched)
        assert "resized: none" not in str(report)


@pytest.mark.parametrize(("name", "build", "options"), STUDENTS)
def test_a_tensor_of_any_shape_is_used_ignored_or_refused_but_no_bug(name, build, options, tmp_path):
    torch.save(checkpoint(name), tmp_path / "file.pth")
    tensors = read_file(tmp_path / "file.pth").tensors
    with torch.device("meta"):
        outline = build(**options)
    shapes = {n: tuple(p.shape) for n, p in outline.named_parameters()}
    for changed in tensors:
        for shape in ((), (0,), (7,), (2, 3), (1, 0, 16), (1, 1, 2, 3)):
            try:
                fitted = fit(outline, {**tensors, changed: torch.ones(shape)})
            except BadInput:
                continue
            assert all(tuple(tensor.shape) == shapes[n] for n, tensor in fitted.tensors.items())
            student = WeightsFile("it", {**tensors, changed: torch.ones(shape)})
            with pytest.raises(BadInput):  # a size that no student has
                student_of(student)
