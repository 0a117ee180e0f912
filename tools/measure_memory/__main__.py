"""Measure the memory of real jobs on two CPU ranks, beside what `fd-scale plan` says of them.

A job is a shipped distillation with its own model sizes, image size and precision, on generated images, with random
weights and one image a rank, trained for two steps and saved after each. Measured, construction and saving included:

live       peak of live tensor bytes of one rank, by the allocation events of PyTorch's profiler
resident   peak of resident memory of the other rank, which is not profiled, without what the imports took, and what
           its data worker shares with nobody; without pages of files
job        peak of resident memory of all processes together, pages of files and the profiler's records included

    python -m tools.measure_memory base                      # SwinV2-B at stages 1 to 3, with and without recompute
    python -m tools.measure_memory base large vit --stages 3 --recompute all
    python -m tools.measure_memory huge --stages 3 --recompute all --final-save-only    # 0.66 billion parameters
    python -m tools.measure_memory vit --precision fp32 --stages 2

Ends with 1 where a job failed or lies outside the bounds. Linux only.
"""

import argparse
import sys
import tempfile
from itertools import product
from pathlib import Path

from tools.measure_memory.running import GIB, Failed, Measured, measure

CONFIGS = {
    "base": "configs/distill/swin_v2_base.yaml",
    "large": "configs/distill/swin_v2_large.yaml",
    "huge": "configs/distill/swin_v2_huge.yaml",
    "vit": "configs/distill/clip_vit_b16.yaml",
}


def row(what: str, found: Measured) -> str:
    """Format one line of the table."""
    live, resident = found.within
    marks = f"{'' if live else '  live out of bounds'}{'' if resident else '  resident out of bounds'}"
    return (
        f"{what:<24}{found.plan.peak / GIB:8.2f}{found.plan.peak_on_cpu / GIB:8.2f}{found.live / GIB:8.2f}"
        f"{found.live_ratio:8.2f}{found.resident / GIB:10.2f}{found.resident_excess / GIB:+8.2f}"
        f"{found.job / GIB:8.2f}  {found.plan.cpu_phase}{marks}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.measure_memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", choices=CONFIGS)
    parser.add_argument("--stages", nargs="+", type=int, choices=(1, 2, 3), default=[1, 2, 3])
    parser.add_argument("--recompute", nargs="+", choices=("none", "all"), default=["none", "all"])
    parser.add_argument("--precision", choices=("bf16", "fp32"), help="default: the configuration's")
    parser.add_argument("--profiled", type=int, choices=(0, 1), default=1, help="the rank whose live tensors count")
    parser.add_argument("--final-save-only", action="store_true", help="no save in the background")
    parser.add_argument("--limit", type=float, default=20.0, metavar="GIB", help="kill a job there (default 20)")
    options = parser.parse_args()
    more = [f"parallel.precision={options.precision}"] if options.precision else []
    more += ["run.save_every=1000"] if options.final_save_only else []
    print(f"{'GiB':<24}{'plan':>8}{'on CPU':>8}{'live':>8}{'ratio':>8}{'resident':>10}{'excess':>8}{'job':>8}  peak in")
    failed = False
    for model, stage, recompute in product(options.models, options.stages, options.recompute):
        what = f"{model} ZeRO-{stage} {recompute}"
        with tempfile.TemporaryDirectory(prefix="fd_scale_memory_") as folder:
            try:
                found = measure(
                    CONFIGS[model], more, stage, recompute, Path(folder), options.limit * GIB, options.profiled
                )
            except Failed as error:
                print(f"{what:<24}{error}", flush=True)
                failed = True
            else:
                print(row(what, found), flush=True)
                failed |= not all(found.within)
    sys.exit(failed)


if __name__ == "__main__":
    main()
