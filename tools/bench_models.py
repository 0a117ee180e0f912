"""Forward and backward of our SwinV2 beside timm's, in one run: time, what is kept for the backward pass, and peak.

Both eager, the same shape and weights of the same distributions, without drop path. Turns of the two alternate, so that
a busy machine slows both; medians are compared. On a CPU, time is the processor time of this process, with one thread
by default: it counts only what is computed here. Memory: bytes of the distinct storages that autograd saves, without
parameters; and on CUDA the allocator's peak over one step.

    python tools/bench_models.py                                    # the two shapes of the project's goals
    python tools/bench_models.py --case 96,8,256 --batch 16 --attention reference
    python tools/bench_models.py --device cuda --dtype bf16         # not yet run, for want of a GPU
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from fd_scale.models.attention import CHOICES
from fd_scale.models.init import initialise_all
from fd_scale.models.swin_v2 import SwinV2

GOALS = ["64,14,224", "128,12,192"]
MIB = 2**20


def build(case: str, arguments: argparse.Namespace) -> tuple[SwinV2, SwinTransformerV2, int]:
    """Build our model and timm's for a `channels,window,pixels`.

    Heads have 32 channels, as in all published sizes.
    """
    channels, window, pixels = map(int, case.split(","))
    depths = tuple(map(int, arguments.depths.split(",")))
    heads = tuple(channels // 32 * 2**stage for stage in range(len(depths)))
    ours = SwinV2(
        channels,
        depths,
        heads,
        window=window,
        drop_path=0.0,
        position_bias=arguments.position_bias,
        attention=arguments.attention,
    )
    initialise_all(ours, 0)
    theirs = SwinTransformerV2(
        img_size=pixels,
        embed_dim=channels,
        depths=depths,
        num_heads=heads,
        window_size=window,
        drop_path_rate=0.0,
        num_classes=0,
    )
    return ours, theirs, pixels


def clock(device: str) -> float:
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def step(forward: Callable[[Tensor], Tensor], model: nn.Module, images: Tensor) -> float:
    """Measure the seconds of one forward and backward pass."""
    model.zero_grad(set_to_none=True)
    began = clock(images.device.type)
    forward(images).square().mean().backward()
    return clock(images.device.type) - began


def saved_bytes(forward: Callable[[Tensor], Tensor], model: nn.Module, images: Tensor) -> int:
    """Count the bytes that one forward pass keeps for the backward pass."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved = {}  # the tensors are kept as well: a freed storage's address may come back

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward(images)
    kept = sum(tensor.untyped_storage().nbytes() for address, tensor in saved.items() if address not in parameters)
    del output
    return kept


def peak_bytes(forward: Callable[[Tensor], Tensor], model: nn.Module, images: Tensor) -> int:
    torch.cuda.reset_peak_memory_stats()
    step(forward, model, images)
    return torch.cuda.max_memory_allocated()


def compare(case: str, arguments: argparse.Namespace) -> None:
    *models, pixels = build(case, arguments)
    dtype = torch.bfloat16 if arguments.dtype == "bf16" else torch.float32
    images = torch.randn(arguments.batch, 3, pixels, pixels, device=arguments.device, dtype=dtype)
    runs = []
    for model in models:
        model.to(arguments.device, dtype)
        forward = model.forward_features if isinstance(model, SwinTransformerV2) else model
        runs.append((forward, model))
    seconds: list[list[float]] = [[], []]
    for turn in range(arguments.warmup + arguments.turns):
        for times, (forward, model) in zip(seconds, runs, strict=True):
            spent = step(forward, model, images)
            if turn >= arguments.warmup:
                times.append(spent)
    ours, theirs = (statistics.median(times) for times in seconds)
    ratios = sorted(a / b for a, b in zip(*seconds, strict=True))
    print(
        f"C={case.replace(',', ' w=', 1).replace(',', ' px=')} batch {arguments.batch} {arguments.dtype} "
        f"{arguments.device} {arguments.attention}: ours {ours:.3f} s, timm {theirs:.3f} s, time "
        f"{ours / theirs:.3f} of timm's (turn by turn {ratios[0]:.3f} to {ratios[-1]:.3f}), "
        f"throughput {theirs / ours:.3f} of timm's"
    )
    kept = [saved_bytes(forward, model, images) for forward, model in runs]
    print(
        f"  kept for the backward pass: ours {kept[0] / MIB:.0f} MiB, timm {kept[1] / MIB:.0f} MiB, "
        f"{kept[0] / kept[1]:.3f}"
    )
    if arguments.device == "cuda":
        peaks = [peak_bytes(forward, model, images) for forward, model in runs]
        print(f"  peak: ours {peaks[0] / MIB:.0f} MiB, timm {peaks[1] / MIB:.0f} MiB, {peaks[0] / peaks[1]:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", metavar="CHANNELS,WINDOW,PIXELS", help=f"default: {GOALS}")
    parser.add_argument("--depths", default="2,2,6,2")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--position-bias", choices=("per_block", "shared"), default="per_block")
    parser.add_argument("--attention", choices=CHOICES, default="auto")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--warmup", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    for case in arguments.case or GOALS:
        compare(case, arguments)


if __name__ == "__main__":
    main()
