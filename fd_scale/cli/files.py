"""Verbs that make files of students and teachers."""

import argparse
from pathlib import Path
from typing import Any

from fd_scale import api
from fd_scale.cli.verb import add_verb


def add_export(verbs: Any) -> None:
    def run(given: argparse.Namespace) -> None:
        print(
            api.export(
                given.run, given.out, step=given.step, ema=given.ema, dtype=given.dtype, classifier=given.classifier
            )
        )

    verb = add_verb(
        verbs,
        "export",
        run,
        "write the student of a run, alone, as one safetensors file",
        "fd-scale export runs/clip_vit_b16 student.safetensors\n"
        "  fd-scale export s3://bucket/clip_vit_b16 student.safetensors --ema --dtype bf16\n\n"
        "Streams: it needs memory for the largest tensor, not for the model.",
    )
    verb.add_argument("run", metavar="RUN", help="run folder, or a folder or URL of checkpoints")
    verb.add_argument("out", metavar="OUT", type=Path, help="file to write")
    verb.add_argument("--step", type=int, help="checkpoint to take (default: the newest whole one)")
    verb.add_argument("--ema", action="store_true", help="take the moving average (train.ema_decay) of the weights")
    verb.add_argument("--classifier", action="store_true", help="with the classifier of a fine-tuning run")
    verb.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32", help="of the file (default fp32)")


def add_convert(verbs: Any) -> None:
    def run(given: argparse.Namespace) -> None:
        options = {name: value for name, value in vars(given).items() if name not in ("source", "out", "verb")}
        print(api.convert(given.source, given.out, **options))
        print(given.out)

    verb = add_verb(
        verbs,
        "convert",
        run,
        "write published weights of a student as a file like an export's, and say what became of every tensor",
        "fd-scale convert swinv2_base_patch4_window8_256.pth swin_v2_base.safetensors --licence MIT\n"
        "  fd-scale convert mae_pretrain_vit_base.pth vit_base_mae.safetensors --neutral-gaps\n"
        "  fd-scale convert timm:swinv2_tiny_window8_256.ms_in1k swin_v2_tiny.safetensors\n\n"
        "Reads Microsoft's and SimMIM's SwinV2, feature distillation's SwinV2 and ViT, DINO, DeiT, MAE, BEiT, timm's.\n"
        "The result serves as student.weights, and as weights of FDSwinV2 and FDViT.",
    )
    verb.add_argument("source", metavar="IN", help="torch or safetensors file, or timm:NAME")
    verb.add_argument("out", metavar="OUT", type=Path, help="safetensors file to write")
    verb.add_argument("--student", metavar="NAME", help="refuse the file unless it is of this student")
    verb.add_argument("--image-size", type=int, metavar="N", help="of its images, where the file does not say it")
    verb.add_argument("--window", type=int, metavar="N", help="of a SwinV2 (default: the file's, else the student's)")
    verb.add_argument(
        "--pretrained-window",
        type=int,
        nargs="+",
        metavar="N",
        help="of each stage: where its position bias was trained, if the file does not say it",
    )
    verb.add_argument(
        "--key",
        help="of the tensors in a file that holds several models, for example model (default: the average, such as\n"
        "model_ema, where it has one; raw: without it)",
    )
    verb.add_argument(
        "--neutral-gaps",
        action="store_true",
        help="fill what the file lacks with the values at which it does nothing (LayerScale 1, biases 0)",
    )
    verb.add_argument("--licence", metavar="TEXT", help="of the weights, for the record")


def add_teachers(verbs: Any) -> None:
    def run(given: argparse.Namespace) -> None:
        print(api.teachers(given.pattern))

    verb = add_verb(
        verbs,
        "teachers",
        run,
        "list the teachers that can be had, with size, grid, prefix tokens, pixel statistics and licence",
        "fd-scale teachers '*dinov2*'\n\nEach is really built, without memory for its weights; all take a minute.",
    )
    verb.add_argument("pattern", metavar="PATTERN", nargs="?", default="*", help="of their names (default: all)")


def add_fetch_teacher(verbs: Any) -> None:
    def run(given: argparse.Namespace) -> None:
        stated = api.fetch_teacher(given.spec, given.out, pixels=given.pixels, key=given.key)
        print(f"{given.out}: {stated['description']}, licence {stated['licence']}, sha256 {stated['sha256']}")
        print(f"use it with teacher.spec=file:{given.out}")

    verb = add_verb(
        verbs,
        "fetch-teacher",
        run,
        "write a teacher to one file that says what it is, for machines without network",
        "fd-scale fetch-teacher timm:vit_base_patch16_clip_quickgelu_224.openai clip_b16.safetensors\n"
        "  fd-scale fetch-teacher fd_scale:esvit_swin_base_window14@checkpoint_best.pth esvit.safetensors\n\n"
        "timm:NAME needs network; with @PATH nothing does. Architecture, pixel statistics, licence, source and a hash\n"
        "of the weights go into the file; teacher.spec=file:OUT reads it and checks the hash.",
    )
    verb.add_argument("spec", metavar="SPEC", help="timm:NAME, timm:NAME@PATH or fd_scale:NAME@PATH")
    verb.add_argument("out", metavar="OUT", type=Path, help="safetensors file to write")
    verb.add_argument(
        "--key", help="of the tensors in PATH; default: the average where the file has one, raw: without it"
    )
    verb.add_argument("--pixels", metavar="NAME", help="imagenet, clip or half, for a ViT of our own names")
