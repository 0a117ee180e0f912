"""mmcv is compiled by a recipe of our own (tools/build_mmcv.py): its operators compute what torchvision's do."""

import pytest

pytest.importorskip("mmcv", reason="MMSegmentation and MMDetection are absent: make setup-downstream")

import torch
import torchvision
from mmcv import ops


@pytest.fixture
def boxes() -> torch.Tensor:
    """(50, 4), corners within 20 x 20."""
    corners = 20 * torch.rand(50, 2, 2, generator=torch.Generator().manual_seed(0))
    return torch.cat((corners.amin(dim=1), corners.amax(dim=1) + 0.1), dim=1)


def test_nms_keeps_the_same_boxes(boxes):
    scores = torch.rand(50, generator=torch.Generator().manual_seed(1))
    _, kept = ops.nms(boxes, scores, 0.3)
    assert torch.equal(kept, torchvision.ops.nms(boxes, scores, 0.3))


@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_and_its_gradient(boxes, aligned):
    rois = torch.cat((torch.arange(50)[:, None] % 2, boxes), dim=1)
    ours, theirs = [torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(2)) for _ in range(2)]
    outputs = (
        ops.roi_align(ours.requires_grad_(), rois, (5, 7), 1.0, 2, "avg", aligned),
        torchvision.ops.roi_align(theirs.requires_grad_(), rois, (5, 7), 1.0, 2, aligned),
    )
    torch.testing.assert_close(*outputs)
    for output in outputs:
        output.square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_modulated_deformable_convolution():
    shapes = ((1, 4, 9, 8), (1, 18, 9, 8), (1, 9, 9, 8), (6, 4, 3, 3))
    images, offset, mask, weight = [torch.randn(*shape, generator=torch.Generator().manual_seed(3)) for shape in shapes]
    torch.testing.assert_close(
        ops.modulated_deform_conv2d(images, offset, mask, weight, None, 1, 1),
        torchvision.ops.deform_conv2d(images, offset, weight, padding=1, mask=mask),
    )


def test_upright_rotated_boxes_overlap_as_plain_ones(boxes):
    centres = torchvision.ops.box_convert(boxes, "xyxy", "cxcywh")
    rotated = torch.cat((centres, torch.zeros(50, 1)), dim=1)
    torch.testing.assert_close(
        ops.box_iou_rotated(rotated, rotated), torchvision.ops.box_iou(boxes, boxes), atol=1e-4, rtol=1e-4
    )
