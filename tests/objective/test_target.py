import pytest
import torch

from fd_scale.errors import BadInput
from fd_scale.objective.config import TargetConfig
from fd_scale.objective.target import TokenMatch, match_tokens, student_side, teacher_side

FITTING = {
    "teacher": "clip",
    "teacher_prefix": 1,
    "student_prefix": 1,
    "teacher_grid": (6, 6),
    "student_grid": (6, 6),
    "image_size": 96,
}


def test_every_token_counts_when_both_have_a_class_token():
    assert match_tokens(TargetConfig(), **FITTING) == TokenMatch(prefix=1)


def test_the_class_token_is_dropped_when_only_the_teacher_has_one():
    assert match_tokens(TargetConfig(), **{**FITTING, "student_prefix": 0}) == TokenMatch(1, 0)
    assert match_tokens(TargetConfig(prefix="drop"), **FITTING) == TokenMatch(1, 1)


def test_both_sides_give_the_tokens_that_face_each_other():
    tokens = torch.randn(2, 7, 4)
    assert torch.equal(teacher_side(tokens, TokenMatch(2, 1)), tokens[:, 2:])
    assert torch.equal(student_side(tokens, TokenMatch(2, 1)), tokens[:, 1:])


@pytest.mark.parametrize("kind", ["gap", "logits"])
def test_a_pooled_target_faces_the_mean_of_the_students_map(kind):
    prefix = 3 if kind == "gap" else 0  # logits come as one token
    other_grid = {**FITTING, "teacher_prefix": prefix, "teacher_grid": (2, 9)}
    match = match_tokens(TargetConfig(kind), **other_grid)
    tokens = torch.randn(2, 37, 4)
    assert torch.allclose(student_side(tokens, match), tokens[:, 1:].mean(1, keepdim=True))
    answer = torch.randn(2, prefix + (18 if kind == "gap" else 1), 5)
    assert torch.allclose(teacher_side(answer, match), answer[:, prefix:].mean(1, keepdim=True))


def test_resizing_keeps_prefix_tokens_and_what_is_linear_in_place():
    config = TargetConfig(resize="bilinear")
    match = match_tokens(config, **{**FITTING, "teacher_grid": (4, 4), "student_grid": (8, 8)})
    ramp = torch.arange(4.0)[:, None].expand(4, 4).reshape(1, 16, 1)
    tokens = torch.cat([torch.full((1, 1, 1), 7.0), ramp], dim=1)
    resized = teacher_side(tokens, match)
    assert resized.shape == (1, 1 + 64, 1)
    assert resized[0, 0] == 7
    rows = resized[0, 1:].reshape(8, 8)
    assert torch.allclose(rows, rows[:, :1].expand(8, 8))
    assert torch.allclose(rows[1:-1, 0], (torch.arange(1.0, 7.0) + 0.5) / 2 - 0.5)  # cells meet at their centres
    shrunk = match_tokens(config, **{**FITTING, "teacher_grid": (8, 8), "student_grid": (4, 4)})
    noise = torch.randn(1, 65, 1)
    assert teacher_side(noise, shrunk)[:, 1:].std() < noise[:, 1:].std()  # antialiased: averages, not every other one


@pytest.mark.parametrize(
    ("config", "given", "line"),
    [
        ({}, {"student_grid": (3, 3)}, r"grid is 6x6 and the student's 3x3 \(clip\); .* set target\.resize=bilinear"),
        ({"prefix": "keep"}, {"student_prefix": 0}, r"1 prefix tokens and the student 0 \(clip\); set target\.prefix"),
        ({"kind": "gap", "prefix": "keep"}, {}, r"target\.prefix=keep is for target\.kind=feature_map; remove it"),
        ({"kind": "logits", "resize": "bilinear"}, {}, r"target\.resize=bilinear is for target\.kind=feature_map"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_fix(config, given, line):
    with pytest.raises(BadInput, match=line):
        match_tokens(TargetConfig(**config), **{**FITTING, **given})


def test_only_enlarging_adds_tokens_that_the_teacher_did_not_make():
    def observed(there: tuple[int, int], here: tuple[int, int], prefix: int = 0) -> float:
        return TokenMatch(prefix=prefix, resize=(there, here)).observed

    assert observed((2, 2), (4, 4)) == 4 / 16
    assert observed((2, 2), (4, 4), prefix=1) == 5 / 17
    assert observed((4, 4), (2, 2)) == TokenMatch().observed == 1
