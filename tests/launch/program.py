"""A program with the shape of `fd-scale`, whose verbs end in every way that a rank can end.

`program.py launch OPTIONS -- VERB ARGUMENTS` is the real launcher over this program.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from fd_scale.errors import BadInput, Retry
from fd_scale.exits import run_to_exit_code
from fd_scale.launch import add_arguments, run
from fd_scale.launch.words import own_words

RANK = int(os.environ.get("RANK", "0"))
PROGRAM = (sys.executable, __file__)


def end_as(*endings: str) -> int:
    """Rank i ends as endings[i] says; "wait" sleeps until it is ended."""
    ending = endings[RANK]
    match ending:
        case "bad":
            raise BadInput(f"rank {RANK} dislikes its input")
        case "late_bad":
            time.sleep(0.4)
            raise BadInput(f"rank {RANK} dislikes its input later")
        case "retry":
            raise Retry(f"rank {RANK} lost its storage")
        case "lost_peer":
            raise RuntimeError("Connection closed by peer [127.0.0.1]:3482")
        case "bug":
            raise KeyError("an assumption that does not hold")
        case "argparse":
            argparse.ArgumentParser(prog="fd-scale").parse_args(["--unknown"])
        case "wait":
            time.sleep(120)
        case _ if ending.startswith("bad "):
            raise BadInput(f"rank {RANK} dislikes {ending.removeprefix('bad ')}")
        case _ if ending.startswith("bug "):
            raise KeyError(ending.removeprefix("bug "))
        case _ if ending.startswith("signal"):
            print(f"rank {RANK} is at step 7", flush=True)
            os.kill(os.getpid(), int(ending.removeprefix("signal")))
            time.sleep(60)
    return int(ending)


def train(folder: str, *options: str) -> int:
    """Says that it runs (with a grandchild), and on SIGTERM saves and ends with 0, unless stubborn."""
    if "grandchild" in options:
        subprocess.Popen(["sleep", "300.25"])
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: received.append(number))
    Path(folder, f"running_{RANK}").write_text(str(os.getpid()))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and ("stubborn" in options or not received):
        time.sleep(0.02)
    time.sleep(0.2)  # the rest of the step
    Path(folder, f"saved_{RANK}").write_text(" ".join(signal.Signals(number).name for number in received))
    return 0


def environment(folder: str) -> int:
    names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR"]
    names += ["OMP_NUM_THREADS", "FD_SCALE_NOTE", "HF_TOKEN"]
    Path(folder, f"environment_{RANK}").write_text("\n".join(f"{n}={os.environ.get(n)}" for n in names))
    return 0


def look(folder: str, secret: str, *words: str) -> int:
    """Writes what this rank was given, and which processes show the secret in their arguments beside its own name."""
    shown = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cmdline").read_bytes().count(secret.encode()) > 1:
                shown.append(int(process.name))
    seen = {
        "words": words,
        "arguments": sys.argv[4:],
        "processes": shown,
        "token": os.environ.get("HF_TOKEN"),
    }
    Path(folder, f"seen_{RANK}").write_text(json.dumps(seen))
    return 0


def all_reduce(folder: str, *, lose: bool = False) -> int:
    import torch
    import torch.distributed as distributed

    distributed.init_process_group("gloo")
    total = torch.tensor(float(RANK + 1))
    distributed.all_reduce(total)
    Path(folder, f"sum_{RANK}").write_text(str(total.item()))
    if lose:
        if RANK == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        distributed.all_reduce(total)
    distributed.destroy_process_group()
    return 0


def lose_worker() -> int:
    from torch.utils.data import DataLoader

    next(iter(DataLoader(_Deadly(), num_workers=1)))
    return 0


class _Deadly:
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return index


def main(arguments: list[str]) -> int:
    verb, *rest = arguments
    match verb:
        case "launch":
            parser = argparse.ArgumentParser(prog="fd-scale launch")
            add_arguments(parser)
            return run(parser.parse_args(rest), PROGRAM)
        case "end_as":
            return end_as(*rest)
        case "train":
            return train(*rest)
        case "environment":
            return environment(*rest)
        case "look":
            return look(*rest)
        case "all_reduce":
            return all_reduce(*rest)
        case "lose_peer":
            return all_reduce(*rest, lose=True)
        case "lose_worker":
            return lose_worker()
        case "say":
            print("\n".join(rest))
            return 0
    raise BadInput(f"unknown verb {verb}")


if __name__ == "__main__":
    sys.exit(run_to_exit_code(lambda: main(own_words())))
