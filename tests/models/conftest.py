"""Helpers for the tests of backbones, handed out as fixtures so that no test module imports another."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """The models here are too small for more, and waiting threads slow down a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def randomise() -> Callable[[nn.Module], None]:
    """Fill every parameter with values of visible size, so that no path is silent (res-post-norm starts at 1e-5)."""

    def fill(model: nn.Module) -> None:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                values = torch.empty(parameter.shape, dtype=torch.float64).normal_(generator=generator)
                parameter.copy_(1 + 0.3 * values if name.endswith("logit_scale") else 0.2 * values)

    return fill


@pytest.fixture
def run() -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
    """(output, gradients by name) of a model under a fixed random projection of its output; tokens come out flat."""

    def forward_backward(forward, model: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        images = images.detach().clone().requires_grad_()
        model.zero_grad()
        output = forward(images)
        output = output.flatten(1, -2)
        projection = torch.randn(output.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        (output * projection.to(output)).sum().backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        return output.detach(), {**gradients, "images": images.grad}

    return forward_backward


@pytest.fixture
def gather_only_in_hooks() -> Callable[[nn.Module], None]:
    """What ZeRO-3 does to a model: a parameter has values only between the hooks of the module that owns it."""

    def shard(model: nn.Module) -> None:
        for module in model.modules():
            whole = {name: p.data for name, p in module.named_parameters(recurse=False)}
            if not whole:
                continue

            def gather(module, inputs, whole=whole):
                for name, values in whole.items():
                    getattr(module, name).data = values

            def release(module, inputs, output, whole=whole):
                for name, values in whole.items():
                    getattr(module, name).data = values.new_empty(0)

            module.register_forward_pre_hook(gather)
            module.register_forward_hook(release)
            release(module, None, None)

    return shard
