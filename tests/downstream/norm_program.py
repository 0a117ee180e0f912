"""What `test_norm.py` runs on two ranks: `python -m downstream.norm_program CHECK`, assertions inside."""

import torch
from parallel.running import run_check
from torch import Tensor, nn

from fd_scale.parallel.ranks import Ranks
from fd_scale_downstream.norm import FDSyncBN

CHANNELS, STEPS = 6, 3


def joined(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Maps with large means, and weights of the loss; the same on all ranks."""
    generator = torch.Generator().manual_seed(3)
    means = 100 * torch.arange(CHANNELS).view(-1, *[1] * (len(shape) - 2))
    return means + torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def norms(**options) -> tuple[nn.Module, nn.Module]:
    """Ours, and BatchNorm in fp64 with the same state, which goes over by name."""
    torch.manual_seed(5)
    reference = nn.BatchNorm2d(CHANNELS, **options)
    if reference.affine:
        nn.init.normal_(reference.weight)
        nn.init.normal_(reference.bias)
    ours = FDSyncBN(CHANNELS, **options)
    ours.load_state_dict(reference.state_dict())
    return ours, reference.double()


def equals_joined(ranks: Ranks, first_rank_has: str, option: str = "momentum", value: str = "0.1") -> None:
    """Outputs, gradients and running statistics of some steps equal those of BatchNorm on all samples together."""
    ours, reference = norms(**{option: {"none": None, "false": False}.get(value) if value.isalpha() else float(value)})
    share = [slice(0, int(first_rank_has)), slice(int(first_rank_has), None)][ranks.rank]
    for step in range(STEPS):
        maps, factors = joined((5 + step, CHANNELS, 4, 3))
        whole = maps.double().requires_grad_()
        mine = maps[share].clone().requires_grad_()
        expected = reference(whole)
        expected.mul(factors).sum().backward()
        output = ours(mine)
        output.mul(factors[share]).sum().backward()
        torch.testing.assert_close(output, expected[share].float(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mine.grad, whole.grad[share].float(), rtol=1e-3, atol=1e-4)
    for parameter, other in zip(ours.parameters(), reference.parameters(), strict=True):
        total = parameter.grad.clone()
        torch.distributed.all_reduce(total)  # as an engine sums them
        torch.testing.assert_close(total, other.grad.float(), rtol=1e-3, atol=1e-3)
    assert ours.state_dict().keys() == reference.state_dict().keys()
    for name, tensor in reference.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name].double(), tensor.double(), rtol=1e-5, atol=1e-5)
    ours.eval()
    reference.eval()
    torch.testing.assert_close(ours(maps), reference(maps.double()).float(), rtol=1e-4, atol=1e-4)


def bf16_is_rounding(ranks: Ranks) -> None:
    """bf16 maps and weights give what fp32 ones of the same values do, rounded once; statistics stay in fp32."""
    wide, _ = norms()
    narrow, _ = norms()
    for norm in (wide, narrow):
        for parameter in norm.parameters():
            parameter.data = parameter.data.bfloat16()
    for parameter in wide.parameters():
        parameter.data = parameter.data.float()
    maps = joined((4, CHANNELS, 4, 3))[0].chunk(2)[ranks.rank].bfloat16()
    output = narrow(maps)
    assert output.dtype == torch.bfloat16
    assert narrow.running_mean.dtype == torch.float32
    assert torch.equal(output, wide(maps.float()).bfloat16())
    assert torch.equal(narrow.running_mean, wide.running_mean)


def nobody_has_samples(ranks: Ranks) -> None:
    ours, reference = norms()
    empty = torch.zeros(0, CHANNELS, 4, 3, requires_grad=True)
    ours(empty).sum().backward()
    assert empty.grad.shape == empty.shape
    assert all(torch.equal(tensor, reference.float().state_dict()[name]) for name, tensor in ours.state_dict().items())


if __name__ == "__main__":
    run_check({check.__name__: check for check in (equals_joined, bf16_is_rounding, nobody_has_samples)})
