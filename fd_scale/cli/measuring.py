"""Verbs that measure models on labelled data."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fd_scale import api
from fd_scale.cli.verb import add_verb, config_arguments, speaks


def add_probes(verbs: Any) -> None:
    for name, run, what in (
        ("knn", api.knn, "k-nearest-neighbour accuracy of frozen features, for several k"),
        ("linear", api.linear, "linear-probe accuracy of frozen features, for several learning rates"),
    ):
        verb = add_verb(
            verbs,
            name,
            partial(_print_probe, run),
            what,
            f"fd-scale {name} configs/linear/clip_vit_b16.yaml probe.model=student.safetensors\n"
            f"  fd-scale launch --nproc 8 -- {name} CONFIG probe.model=timm:vit_base_patch16_224.dino",
        )
        config_arguments(verb)


def _print_probe(run: Callable[..., dict[str, Any]], given: argparse.Namespace) -> None:
    result = run(given.config, given.overrides)
    if speaks():
        print(f"{result['model']}:")
        for entry in result["accuracy"]:
            (key, value), (_, accuracy) = entry.items()
            print(f"  {key} {value:<8g} accuracy {accuracy:.2%}")


def add_wise_ft(verbs: Any) -> None:
    def run(given: argparse.Namespace) -> None:
        curve = api.wise_ft(
            given.first,
            given.second,
            given.validation,
            alphas=given.alphas,
            out=given.out,
            workers=given.workers,
            crop=given.crop,
        )
        if speaks():
            for entry in curve:
                shares = "  ".join(f"{name} {share:.2%}" for name, share in entry.items() if name != "alpha")
                print(f"  alpha {entry['alpha']:<5g} {shares}")

    verb = add_verb(
        verbs,
        "wise-ft",
        run,
        "accuracy of mixtures of two classifiers' weights (WiSE-FT)",
        "fd-scale wise-ft probe.safetensors finetuned.safetensors shards/imagenet-val shards/imagenet-v2",
    )
    verb.add_argument("first", metavar="FIRST", type=Path, help="file of `fd-scale export --classifier`: alpha 0")
    verb.add_argument("second", metavar="SECOND", type=Path, help="another of the same architecture: alpha 1")
    verb.add_argument("validation", metavar="SHARDS", nargs="+", help="labelled shards; the first choose for --out")
    verb.add_argument("--alphas", type=float, nargs="+", help="default: 0, 0.1 ... 1")
    verb.add_argument("--out", type=Path, metavar="FILE", help="write the best mixture")
    verb.add_argument("--crop", type=float, metavar="SHARE", help="of the short side, finetune.view.crop (0.875)")
    verb.add_argument("--workers", type=int, default=4, metavar="N", help="decoding processes of a rank (default 4)")
