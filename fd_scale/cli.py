"""The verbs from a shell. Parsing alone imports nothing heavy, so that `--help` answers at once."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from fd_scale import __version__, api, launch
from fd_scale.errors import EXIT_BAD_INPUT, EXIT_BUG, EXIT_RETRY, BadInput
from fd_scale.exits import run_to_exit_code

EXIT_CODES = f"""exit codes:
  0   done, or stopped by SIGTERM after saving
  {EXIT_BAD_INPUT}   bad input: one line names the value, the place and the fix
  {EXIT_RETRY}  worth a retry: a lost peer, failing storage; the same command resumes
  {EXIT_BUG}   a bug: a traceback"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb and end the process with its exit code."""
    parsed = parser().parse_args(arguments)
    sys.exit(run_to_exit_code(lambda: parsed.verb(parsed)))


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line, as everything here does."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_BAD_INPUT, f"fd-scale: {message}; see `{self.prog} --help`\n")


def parser() -> argparse.ArgumentParser:
    root = Parser(
        prog="fd-scale",
        description="Feature distillation of pretrained vision models, from a laptop CPU to many nodes.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action="version", version=__version__)
    verbs = root.add_subparsers(required=True, metavar="VERB")
    _pack(verbs)
    _index(verbs)
    _verify(verbs)
    _distill(verbs)
    _launch(verbs)
    _export(verbs)
    _convert(verbs)
    _plan(verbs)
    _demo(verbs)
    return root


def _verb(verbs: Any, name: str, run: Callable, help: str, example: str) -> argparse.ArgumentParser:
    verb = verbs.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.set_defaults(verb=run)
    return verb


def _pack(verbs: Any) -> None:
    def run(given: argparse.Namespace) -> None:
        manifest = api.pack(
            given.source,
            given.out,
            shard_samples=given.shard_samples,
            seed=given.seed,
            workers=given.workers,
            short_side=given.short_side,
            skip_bad=given.skip_bad,
        )
        print(_summary(manifest, given.out))

    verb = _verb(
        verbs,
        "pack",
        run,
        "write images into webdataset shards with an index and a manifest",
        "fd-scale pack imagenet/train shards/imagenet-train\n"
        "  fd-scale pack ILSVRC2012_img_train.tar shards/imagenet-train --short-side 256 --skip-bad\n"
        "  fd-scale pack flowers.csv shards/flowers       # columns path and, perhaps, label; .parquet too\n\n"
        "A command that was killed goes on from its finished shards when it is given again; the result is the same,\n"
        "byte for byte, and does not depend on --workers. Shards that are there already: fd-scale index.",
    )
    verb.add_argument(
        "source",
        metavar="SOURCE",
        type=Path,
        help="folder of images (class folders or flat), tar or zip archive, folder of archives, CSV or Parquet list",
    )
    verb.add_argument("out", metavar="OUT", type=Path, help="new folder for the shards")
    verb.add_argument("--shard-samples", type=int, default=1000, metavar="N", help="images in a shard (default 1000)")
    verb.add_argument("--seed", type=int, default=0, help="of the shuffled placement (default 0)")
    verb.add_argument(
        "--short-side",
        type=int,
        metavar="N",
        help="shrink larger images to N pixels (Lanczos, JPEG quality 95); default: original bytes",
    )
    _reading_arguments(verb, "leave out images that do not decode and list them in OUT/skipped.txt; default: refuse")


def _index(verbs: Any) -> None:
    def run(given: argparse.Namespace) -> None:
        print(_summary(api.index(given.folder, workers=given.workers, skip_bad=given.skip_bad), given.folder))

    verb = _verb(
        verbs,
        "index",
        run,
        "write an index and a manifest beside webdataset shards that are there already",
        "fd-scale index /data/webdataset/cc3m",
    )
    verb.add_argument("folder", metavar="FOLDER", type=Path, help="holds .tar files, one image in each sample")
    _reading_arguments(verb, "leave bad samples out of the index and list them in FOLDER/skipped.txt; default: refuse")


def _verify(verbs: Any) -> None:
    def run(given: argparse.Namespace) -> None:
        damages = api.verify(given.folder, workers=given.workers)
        for damage in damages:
            print(damage)
        if damages:
            raise BadInput(f"{given.folder} is damaged in {len(damages)} places, listed above; copy or pack it again")
        print(f"{given.folder} is whole")

    verb = _verb(
        verbs,
        "verify",
        run,
        "read a packed data set again and name every damaged sample",
        "fd-scale verify shards/imagenet-train",
    )
    verb.add_argument("folder", metavar="OUT", type=Path, help="folder that `pack` wrote or `index` described")
    _reading_arguments(verb)


def _summary(manifest: Any, folder: Path) -> str:
    skipped = f" ({manifest.skipped} left out: {folder / 'skipped.txt'})" if manifest.skipped else ""
    classes = f" of {len(manifest.classes)} classes" if manifest.classes else ""
    return f"{manifest.samples} images{classes} in {len(manifest.shards)} shards{skipped}: {folder}"


def _reading_arguments(verb: argparse.ArgumentParser, skip_bad: str | None = None) -> None:
    if skip_bad:
        verb.add_argument("--skip-bad", action="store_true", help=skip_bad)
    verb.add_argument("--workers", type=int, metavar="N", help="processes (default: one for each core)")


def _distill(verbs: Any) -> None:
    def run(given: argparse.Namespace) -> None:
        api.distill(given.config, given.overrides)

    verb = _verb(
        verbs,
        "distill",
        run,
        "distill a student from a frozen teacher; the main job, one rank of it",
        "fd-scale distill configs/demo/swin_v2.yaml data.train=shards/mine run.folder=runs/mine\n"
        "  fd-scale launch --nproc 8 -- distill configs/distill/clip_vit_b16.yaml data.train=shards/imagenet-train\n\n"
        "The same command resumes a run that was stopped or killed.",
    )
    _config_arguments(verb)


def _launch(verbs: Any) -> None:
    verb = _verb(
        verbs,
        "launch",
        launch.run,
        "start a verb on several processes of this machine, or on the hosts of a file",
        "fd-scale launch --nproc 2 -- distill configs/demo/swin_v2.yaml run.folder=runs/mine\n"
        "  fd-scale launch --hostfile hosts.txt -- distill CONFIG     # lines: HOST slots=N, as for DeepSpeed",
    )
    launch.add_arguments(verb)


def _export(verbs: Any) -> None:
    def run(given: argparse.Namespace) -> None:
        print(api.export(given.run, given.out, step=given.step, ema=given.ema, dtype=given.dtype))

    verb = _verb(
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
    verb.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32", help="of the file (default fp32)")


def _convert(verbs: Any) -> None:
    def run(given: argparse.Namespace) -> None:
        options = {name: value for name, value in vars(given).items() if name not in ("source", "out", "verb")}
        print(api.convert(given.source, given.out, **options))
        print(given.out)

    verb = _verb(
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
    verb.add_argument("--key", help="of the tensors in a torch file that holds several models, for example model_ema")
    verb.add_argument(
        "--neutral-gaps",
        action="store_true",
        help="fill what the file lacks with the values at which it does nothing (LayerScale 1, biases 0)",
    )
    verb.add_argument("--licence", metavar="TEXT", help="of the weights, for the record")


def _plan(verbs: Any) -> None:
    def run(given: argparse.Namespace) -> None:
        print(api.plan(given.config, given.overrides, world=given.world))

    verb = _verb(
        verbs,
        "plan",
        run,
        "show parameters by part and the batch arithmetic of a config, without GPU or data",
        "fd-scale plan configs/distill/swin_v2_giant.yaml --world 64",
    )
    _config_arguments(verb)
    verb.add_argument("--world", type=int, default=1, metavar="N", help="ranks to plan for (default 1)")


def _demo(verbs: Any) -> None:
    def run(given: argparse.Namespace) -> None:
        print(api.demo(given.out, images=given.images, teacher=given.teacher))

    verb = _verb(
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


def _config_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("config", metavar="CONFIG", help="YAML file, see configs/")
    verb.add_argument("overrides", nargs="*", metavar="key=value", help="for example train.seed=1 run.folder=runs/b")
