"""Measure our checkpoints beside DeepSpeed's and torch.distributed.checkpoint's (DCP), in one run, of one engine.

Two ZeRO-3 processes train a ViT-L for one step of noise, so that AdamW's states are there and hold numbers. Then, in
turns: save, drop the files from the page cache, scribble over all weights and states, load, compare with what was
saved. Times are the slowest rank's and of both kinds: what training waits for, and until the bytes are on the disk
(DeepSpeed does not see to that itself; its files are fsynced here and the time added). Ours hashes every file when it
saves and again when it loads. DCP gets the same pieces as one-dimensional sharded tensors.

`damage` flips one bit in the largest file of the last rank, or cuts that file in half, and says what loading does.

    python -m tools.bench_checkpoint times             # 300 M parameters: 14 GiB of memory, 4 GB of disk, minutes
    python -m tools.bench_checkpoint damage            # a small student
    python -m tools.bench_checkpoint times --small     # in seconds, to see that it runs
"""

import argparse
import contextlib
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from fd_scale.exits import run_to_exit_code
from fd_scale.launch import launch
from fd_scale.parallel import ranks as process_group
from fd_scale.parallel.ranks import Ranks
from tools.bench_checkpoint.measuring import files_of, forget_cached, timed
from tools.bench_checkpoint.systems import SYSTEMS, Dcp, DeepSpeed, Ours
from tools.bench_checkpoint.training import digest, scribble, trained_engine

PROGRAM = (sys.executable, "-m", "tools.bench_checkpoint")
WORLD = 2
HANGS_AFTER = 90.0
"""Seconds after which a load gets no more patience, many times what the small student's takes."""


def measure_times(ranks: Ranks, folder: Path, small: bool, repeats: int) -> None:
    """Measure saving and loading, and print the table on rank 0. Collective."""
    engine, state = trained_engine(ranks, "vit_tiny" if small else "vit_large")
    systems = [system(engine, state, ranks) for system in SYSTEMS]
    count = sum(torch.Size(shape).numel() for shape in state.shapes().values())
    rows: dict[str, list[tuple[float, ...]]] = {system.name: [] for system in systems}
    for turn in range(repeats):
        for system in systems[turn % len(systems) :] + systems[: turn % len(systems)]:
            expected = digest(state)
            waited, durable = system.save(folder / "it")
            process_group.barrier()
            size = sum(path.stat().st_size for path in files_of(folder / "it"))
            forget_cached(folder / "it", ranks)
            scribble(state)
            process_group.barrier()
            with timed() as loading:
                system.load(folder / "it")
            assert digest(state) == expected, f"{system.name} loads something else than it saved"
            process_group.barrier()
            if ranks.is_first:
                shutil.rmtree(folder / "it")
            slowest = [
                max(values) for values in zip(*process_group.gather((waited, durable, loading.seconds)), strict=True)
            ]
            rows[system.name].append((*slowest, size))
    peak = max(process_group.gather(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)) / 2**20
    if ranks.is_first:
        print_times(rows, f"{count:,} parameters in fp32, AdamW, {ranks.world} ranks, medians of {repeats} turns", peak)


def print_times(rows: dict[str, list[tuple[float, ...]]], title: str, peak: float) -> None:
    medians = {name: [statistics.median(column) for column in zip(*turns, strict=True)] for name, turns in rows.items()}
    print(f"{title}; largest rank {peak:.1f} GiB")
    print(f"{'':16}{'training waits':>16}{'on disk after':>16}{'load':>10}{'bytes':>16}   ratios to DeepSpeed's")
    for name, values in medians.items():
        ratios = "  ".join(f"{value / base:.2f}" for value, base in zip(values, medians[DeepSpeed.name], strict=True))
        waited, durable, loading, size = values
        print(f"{name:16}{waited:14.2f} s{durable:14.2f} s{loading:8.2f} s{size:16,.0f}   {ratios}")
    for name, turns in rows.items():
        print(f"{name} each turn: " + ", ".join("/".join(f"{value:.2f}" for value in turn[:3]) for turn in turns))


def load_damaged(ranks: Ranks, folder: Path, name: str, damage: str) -> None:
    """Save, damage, load; each rank leaves a line of what loading did. Collective, where it returns at all."""
    engine, state = trained_engine(ranks, "vit_tiny")
    system = next(kind for kind in SYSTEMS if kind.name == name)(engine, state, ranks)
    expected = digest(state)
    system.save(folder / "it")
    process_group.barrier()
    if ranks.is_first:
        victim = max(files_of(folder / "it"), key=lambda path: (path.stat().st_size, path.name))
        if damage == "torn":
            os.truncate(victim, victim.stat().st_size // 2)
        else:
            content = bytearray(victim.read_bytes())
            content[len(content) // 2] ^= 1 << 6
            victim.write_bytes(content)
    scribble(state)
    process_group.barrier()
    if ranks.is_first:
        (folder / "loading").touch()
    try:
        system.load(folder / "it")
        line = "loads without a word" + (" (and right)" if digest(state) == expected else ", wrong numbers")
    except BaseException as error:  # DCP's CheckpointException is no Exception
        line = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    (folder / f"rank_{ranks.rank}").write_text(line)
    time.sleep(2)  # the other rank may need this one alive to say its own line


def show_damage() -> None:
    for system in (Ours, DeepSpeed, Dcp):
        for damage in ("flipped", "torn"):
            with tempfile.TemporaryDirectory(prefix="fd_scale_bench_") as folder:
                command = [
                    *PROGRAM,
                    "damage",
                    "--folder",
                    folder,
                    "--case",
                    system.name,
                    damage,
                ]
                process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                while process.poll() is None and not Path(folder, "loading").exists():
                    time.sleep(0.1)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=HANGS_AFTER)
                answers = [Path(folder, f"rank_{rank}") for rank in range(WORLD)]
                lines = [path.read_text() if path.exists() else "no answer" for path in answers]
                process.kill()
                process.wait()
            print(f"{system.name}, {damage}:")
            for rank, line in enumerate(lines):
                print(f"  rank {rank}: {line.replace(folder, '')}", flush=True)


def on_rank(options: argparse.Namespace) -> int:
    ranks = process_group.start(timeout_minutes=20)
    folder = Path(options.folder)
    if options.case:
        load_damaged(ranks, folder, *options.case)
    else:
        measure_times(ranks, folder, options.small, 1 if options.small else options.repeats)
    process_group.finish()
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench_checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=("times", "damage"))
    parser.add_argument("--small", action="store_true", help="ViT-Ti and one turn")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if "RANK" in os.environ:
        sys.exit(run_to_exit_code(lambda: on_rank(options)))
    if options.what == "damage" and not options.case:
        show_damage()
        return
    with tempfile.TemporaryDirectory(prefix="fd_scale_bench_") as temporary:
        command = [*sys.argv[1:]] + ([] if options.folder else ["--folder", temporary])
        sys.exit(launch(command, WORLD, program=PROGRAM))


if __name__ == "__main__":
    main()
