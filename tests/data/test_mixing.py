"""Mixup, cutmix and erasing: the formula, the same for every cut of the global batch, the published rates."""

import pytest
import torch

from fd_scale.data.config import MixConfig
from fd_scale.data.mixing import draw_pairs, erase, mix, soft_cross_entropy, swap, targets
from fd_scale.keyed import sample_keys

SIZE = (12, 16)
MIXUP_ONLY = MixConfig(cutmix=0)
CUTMIX_ONLY = MixConfig(mixup=0)


def images_of(count: int) -> torch.Tensor:
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def test_mixup_is_the_formula():
    images = images_of(4)
    pairs = draw_pairs(MIXUP_ONLY, seed=3, step=5, positions=[8, 2, 7, 1], size=SIZE)
    mixed = mix(images, pairs)
    for first, second in ((0, 1), (2, 3)):
        share = pairs.share[first]
        assert share == pairs.share[second]
        torch.testing.assert_close(mixed[first], share * images[first] + (1 - share) * images[second])
        torch.testing.assert_close(mixed[second], share * images[second] + (1 - share) * images[first])


def test_cutmix_exchanges_a_rectangle_of_the_share_that_the_labels_get():
    images = images_of(64)
    pairs = draw_pairs(CUTMIX_ONLY, seed=3, step=5, positions=list(range(64)), size=SIZE)
    mixed, other = mix(images, pairs), swap(images)
    for number in range(64):
        top, bottom, left, right = pairs.box[number].tolist()
        inside = torch.zeros(SIZE, dtype=torch.bool)
        inside[top:bottom, left:right] = True
        assert torch.equal(mixed[number][:, inside], other[number][:, inside])
        assert torch.equal(mixed[number][:, ~inside], images[number][:, ~inside])
        assert float(pairs.share[number]) == pytest.approx(1 - inside.float().mean().item(), abs=1e-6)


def test_labels_are_mixed_as_images_are_and_smoothed_as_timm_does():
    from timm.data.mixup import mixup_target

    labels = torch.tensor([1, 3, 0, 0])
    pairs = draw_pairs(MIXUP_ONLY, seed=0, step=0, positions=[0, 1, 2, 3], size=SIZE)
    found = targets(labels, 5, smoothing=0.1, pairs=pairs)
    for first in (0, 2):
        two = labels[first : first + 2]
        share = float(pairs.share[first])
        torch.testing.assert_close(found[first], mixup_target(two, 5, share, 0.1)[0])
    torch.testing.assert_close(found.sum(dim=1), torch.ones(4))
    torch.testing.assert_close(targets(labels, 5, 0.0, None), torch.eye(5)[labels])


def test_the_loss_equals_torchs_cross_entropy_of_mixed_targets():
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    soft = targets(labels, 5, 0.1, None)
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1, reduction="none")
    torch.testing.assert_close(soft_cross_entropy(logits, soft), expected)


@pytest.mark.parametrize("cut", [1, 2, 4])
def test_any_even_micro_batch_gives_the_same_pairs(cut):
    positions = [5, 9, 0, 3, 11, 4, 2, 8]
    whole = draw_pairs(MixConfig(), seed=1, step=2, positions=positions, size=SIZE)
    size = len(positions) // cut
    parts = [
        draw_pairs(MixConfig(), seed=1, step=2, positions=positions[at : at + size], size=SIZE)
        for at in range(0, len(positions), size)
    ]
    assert torch.equal(torch.cat([part.share for part in parts]), whole.share)
    assert torch.equal(torch.cat([part.box for part in parts]), whole.box)


def test_shares_follow_the_beta_distributions_and_half_of_the_pairs_are_cut():
    positions = list(range(8000))
    pairs = draw_pairs(MixConfig(), seed=0, step=0, positions=positions, size=(224, 224))
    is_cut = (pairs.box[:, 1] > pairs.box[:, 0])[::2]
    assert 0.46 < is_cut.float().mean() < 0.53  # a few cut nothing
    shares = draw_pairs(MIXUP_ONLY, seed=0, step=1, positions=positions, size=SIZE).share[::2].double()
    assert abs(shares.mean() - 0.5) < 0.02
    assert abs(shares.var() - 1 / (4 * (2 * 0.8 + 1))) < 0.01


def test_erasing_is_keyed_and_of_the_published_size_and_rate():
    keys = sample_keys(0, 0, range(1000))
    images = torch.full((1000, 3, 32, 32), 9.0)
    erased = erase(images, keys, share=0.25)
    changed = (erased != images).all(dim=1)  # (B, H, W)
    assert torch.equal(erased[~changed[:, None].expand_as(erased)], images[~changed[:, None].expand_as(images)])
    touched = changed.flatten(1).any(dim=1)
    assert 0.21 < touched.float().mean() < 0.29
    area = changed[touched].float().mean(dim=(1, 2))
    assert area.min() >= 0.01
    assert area.max() <= 0.36
    noise = erased[changed[:, None].expand_as(erased)]
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    assert torch.equal(erase(images[100:], keys[100:], share=0.25), erased[100:])
    assert torch.equal(erase(images, keys, share=0.0), images)
