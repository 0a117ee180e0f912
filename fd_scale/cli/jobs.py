"""Verbs that train, start what trains, and say beforehand what it will be."""

import argparse
from pathlib import Path
from typing import Any

from fd_scale import api, launch
from fd_scale.cli.verb import add_verb, config_arguments


def add_distill(verbs: Any) -> None:
    def run(given: argparse.Namespace) -> None:
        api.distill(given.config, given.overrides)

    verb = add_verb(
        verbs,
        "distill",
        run,
        "distill a student from a frozen teacher; the main job, one rank of it",
        "fd-scale distill configs/demo/swin_v2.yaml data.train=shards/mine run.folder=runs/mine\n"
        "  fd-scale launch --nproc 8 -- distill configs/distill/clip_vit_b16.yaml data.train=shards/imagenet-train\n\n"
        "The same command resumes a run that was stopped or killed.",
    )
    config_arguments(verb)


def add_finetune(verbs: Any) -> None:
    def run(given: argparse.Namespace) -> None:
        api.finetune(given.config, given.overrides)

    verb = add_verb(
        verbs,
        "finetune",
        run,
        "fine-tune a student, a teacher or published weights on labelled shards, and validate",
        "fd-scale finetune configs/finetune/small.yaml student.weights=runs/demo/student.safetensors\n"
        "  fd-scale launch --nproc 8 -- finetune configs/finetune/clip_vit_b16.yaml student.weights=FILE",
    )
    config_arguments(verb)


def add_launch(verbs: Any) -> None:
    verb = add_verb(
        verbs,
        "launch",
        launch.run,
        "start a verb on several processes of this machine, or on the hosts of a file",
        "fd-scale launch --nproc 2 -- distill configs/demo/swin_v2.yaml run.folder=runs/mine\n"
        "  fd-scale launch --hostfile hosts.txt -- distill CONFIG     # lines: HOST slots=N, as for DeepSpeed",
    )
    launch.add_arguments(verb)


def add_plan(verbs: Any) -> None:
    def run(given: argparse.Namespace) -> None:
        print(api.plan(given.config, given.overrides, world=given.world))

    verb = add_verb(
        verbs,
        "plan",
        run,
        "show parameters, multiply-adds, memory and batch arithmetic of a job, without GPU or data",
        "fd-scale plan configs/distill/swin_v2_giant.yaml --world 64",
    )
    config_arguments(verb)
    verb.add_argument("--world", type=int, default=1, metavar="N", help="ranks to plan for (default 1)")


def add_demo(verbs: Any) -> None:
    def run(given: argparse.Namespace) -> None:
        print(api.demo(given.out, images=given.images, teacher=given.teacher))

    verb = add_verb(
        verbs,
        "demo",
        run,
        "the whole job on real photographs in minutes: pack, distill, export, proof, page",
        "fd-scale demo --images ~/Pictures",
    )
    verb.add_argument("--images", type=Path, metavar="FOLDER", help="your photographs (default: those of packages)")
    verb.add_argument(
        "--teacher",
        default="demo",
        metavar="SPEC",
        help="for example timm:vit_small_patch16_224.dino, which needs network (default: the small one shipped)",
    )
    verb.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="FOLDER", help="default: runs/demo")
