"""`fd-scale launch --slurm`: a batch script for Slurm with the numbers of `plan`, printed or handed to `sbatch`.

The script ends as those of docker/slurm do, with `slurm_job.sh`, which starts the ranks, hands TERM on and puts the job
back into the queue. Everyone may be able to read a script that was submitted, so one that would hold a secret is
refused; the environment reaches the ranks by itself (sbatch's `--export`).

Source: the manual pages of sbatch and srun 22.05. Leaves out: containers, whose line is in docker/slurm/train.sbatch,
and arrays, which are docker/slurm/sweep.sbatch. Imports no torch: what `plan` knows is handed in.
"""

import argparse
import contextlib
import math
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fd_scale.errors import EXIT_RETRY, BadInput, Retry
from fd_scale.fields import Processes, within_ranges
from fd_scale.redaction import redacted_text, redacted_words

JOB = Path(__file__).with_name("slurm_job.sh")
MOST_RESTARTS = 3
GIB = 2**30
PROCESS_GIB, WORKER_GIB = 4, 1
"""Allowances of host memory for what no tensor accounts for: a rank with its libraries, each of its data workers."""
CPUS_BESIDE_WORKERS = 2
"""The rank itself, and its threads that communicate, copy and write."""
SIGNAL_SECONDS = 120
"""Slurm may be a minute early, and a step has to end."""
SAVED_GIB_A_SECOND = 0.2
"""A rank's share of slow storage, while all ranks write at once."""
SAFE = re.compile(r"[A-Za-z0-9_.,:;/@%+=\[\]()&|*-]+")
"""What a line of #SBATCH holds without quotes, whose rules are sbatch's own."""
TIME = re.compile(r"(?:(?P<days>\d{1,4})-(?P<hours>\d{1,2}))?(?(days)|(?P<first>\d{1,7}))(?P<more>(?::\d{1,2}){0,2})")
OWNED = {
    "nodes": "--nodes",
    "ntasks-per-node": "--nproc",
    "time": "--time",
    "chdir": "the folder that you start in",
    **dict.fromkeys(("ntasks", "signal", "requeue", "no-requeue", "open-mode", "array", "wrap", "export", "parsable")),
}
"""Options of sbatch that are not for `--sbatch`, and what sets them instead; None where nothing may."""


@dataclass(frozen=True)
class Needs:
    """What `plan` says of one rank; sizes in GiB."""

    gpu: float
    """Peak on a GPU."""
    beside_gpu: float
    """Peak in the host's memory then."""
    cpu: float
    """Peak of a rank that trains on a CPU."""
    saved: float
    """Its share of a checkpoint."""
    workers: int
    """Processes that read data."""
    run_folder: str


Plan = Callable[[Sequence[str], int], Needs]
"""A command and the number of ranks -> what each of them needs. Raises BadInput."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("Slurm", "a batch script with the numbers of `fd-scale plan`")
    group.add_argument("--slurm", action="store_true", help="print the script instead of starting ranks")
    group.add_argument("--submit", action="store_true", help="hand it to sbatch (implies --slurm)")
    group.add_argument("--nodes", type=int, help="nodes of the job (default 1); --nproc says the ranks of each")
    group.add_argument("--time", help="limit as for sbatch, such as 12:00:00 (default: the partition's)")
    group.add_argument(
        "--per-rank", action="store_true", default=None, help="srun starts each rank, not one launcher a node"
    )
    group.add_argument(
        "--sbatch",
        action="append",
        metavar="NAME=VALUE",
        help="a further option of sbatch, such as partition=gpu; gpus-per-node=0 for ranks on CPUs",
    )


def is_asked_for(arguments: argparse.Namespace) -> bool:
    """Whether a script is wanted. Raises BadInput: an option of the script without --slurm."""
    if arguments.slurm or arguments.submit:
        return True
    for name in ("nodes", "time", "per_rank", "sbatch"):
        if getattr(arguments, name) is not None:
            raise BadInput(f"--{name.replace('_', '-')} is for a script: add --slurm to print it, or --submit")
    return False


def run(arguments: argparse.Namespace, command: Sequence[str], program: Sequence[str], plan: Plan | None) -> int:
    """Print or submit the script that the options ask for."""
    if plan is None:
        raise BadInput(
            f"{program[-1]} launch has no --slurm, because no plan knows its configs: docker/slurm/downstream.sbatch "
            f"is the script to copy"
        )
    for name in ("hostfile", "nnodes", "node_rank", "master_addr", "master_port"):
        if getattr(arguments, name, None) is not None:
            raise BadInput(f"--{name.replace('_', '-')} and --slurm exclude each other: Slurm chooses the hosts")
    with contextlib.redirect_stdout(sys.stderr):  # libraries that a plan imports may print, and this is no script
        script = sbatch_script(
            command,
            plan,
            nproc=arguments.nproc,
            nodes=1 if arguments.nodes is None else arguments.nodes,
            time=arguments.time,
            per_rank=bool(arguments.per_rank),
            options=arguments.sbatch or (),
            program=program,
        )
    if arguments.submit:
        _submit(script)
    else:
        sys.stdout.write(script)
    return 0


@within_ranges
def sbatch_script(
    command: Sequence[str],
    plan: Plan,
    *,
    nproc: Processes | None,
    nodes: Processes = 1,
    time: str | None = None,
    per_rank: bool = False,
    options: Sequence[str] = (),
    program: Sequence[str],
) -> str:
    """Write the batch script.

    Args:
        command: what each rank runs, such as `distill CONFIG key=value`.
        nproc: ranks of each node.
        time: limit, as sbatch takes it; None leaves it to the partition.
        options: further ones of sbatch, each NAME=VALUE.
        program: what `command` is for.

    Raises:
        BadInput: what the run would refuse as well, short of data and weights; a word with a line break or a secret.
    """
    if not command:
        raise BadInput("launch --slurm needs a verb after --, for example: -- distill CONFIG run.folder=runs/a")
    if nproc is None:
        raise BadInput("launch --slurm needs --nproc, the ranks of each node: as many as a node has GPUs")
    _check_words([*command, *program])
    further = dict(_option(word) for word in options)
    needs = plan(command, nodes * nproc)
    _check_words([needs.run_folder])
    margin = _margin(needs)
    if time is not None and _seconds(time) < 2 * margin:
        raise BadInput(f"--time {time} is too short: the ranks are asked to save {margin} s before its end")
    on_gpus = further.get("gpus-per-node", str(nproc)) != "0"
    rank = (needs.beside_gpu if on_gpus else needs.cpu) + PROCESS_GIB + needs.workers * WORKER_GIB
    header = {
        "job-name": re.sub(r"[^A-Za-z0-9._-]", "_", Path(needs.run_folder).name)[:60] or "fd-scale",
        "chdir": _safe(str(Path.cwd()), "the folder that you start in"),
        "nodes": str(nodes),
        "ntasks-per-node": str(nproc),
        "cpus-per-task": str(needs.workers + CPUS_BESIDE_WORKERS),
        "mem": f"{math.ceil(nproc * rank)}G",
        "gpus-per-node": str(nproc),
        "signal": f"B:TERM@{margin}",
        "output": "slurm-%j.out",
        "open-mode": "append",
        **({"time": time} if time is not None else {}),
        **further,
    }
    if not on_gpus:
        del header["gpus-per-node"]
    device = f"{needs.gpu:,.1f} GiB of its GPU" if on_gpus else f"{needs.cpu:,.1f} GiB on a CPU"
    return "\n".join(
        [
            "#!/bin/bash",
            f"# From `fd-scale launch --slurm`, with the numbers of `fd-scale plan` for {nodes} x {nproc} ranks.",
            f"# Each rank needs {device}; {rank:,.1f} GiB of host memory are asked for it, of which {PROCESS_GIB} are",
            f"# for its libraries and {WORKER_GIB} for each of {needs.workers} data workers. Its share of a checkpoint "
            f"is {needs.saved:,.1f} GiB.",
            *(f"#SBATCH --{name}={value}" for name, value in header.items()),
            "#SBATCH --requeue",
            "set -u",
            "",
            f"form={'rank' if per_rank else 'node'}",
            f"most_restarts={MOST_RESTARTS}",
            "srun_options=()",
            f"program=({shlex.join(program)})",
            f"words=({shlex.join(command)})",
            f"run_folder={shlex.quote(needs.run_folder)}",
            "",
            JOB.read_text(),
        ]
    )


def _submit(script: str) -> None:
    if shutil.which("sbatch") is None:
        raise BadInput("there is no sbatch on this machine: leave out --submit, and copy the script to where it is")
    done = subprocess.run(["sbatch"], input=script, capture_output=True, text=True)
    if done.returncode:
        line = f"sbatch: {done.stderr.strip()}"
        if re.search(r"[Uu]nable to contact|[Ss]ocket timed out|[Cc]onnection refused", done.stderr):
            raise Retry(f"{line}; try again with the same command ({EXIT_RETRY})")
        raise BadInput(f"{line}; change it with --sbatch NAME=VALUE, --nodes, --nproc or --time")
    sys.stdout.write(done.stdout)


def _margin(needs: Needs) -> int:
    """Seconds between TERM and the time limit, in whole minutes."""
    return 60 * math.ceil((SIGNAL_SECONDS + needs.saved / SAVED_GIB_A_SECOND) / 60)


def _seconds(time: str) -> int:
    """Of `minutes`, `minutes:seconds`, `hours:minutes:seconds`, `days-hours`, `days-hours:minutes[:seconds]`."""
    found = TIME.fullmatch(time)
    if not found:
        raise BadInput(f"--time {time!r} is no time of sbatch; give for example 12:00:00 or 2-00:00:00")
    more = [int(part) for part in found["more"].split(":")[1:]]
    if found["days"]:
        minutes, seconds = [*more, 0, 0][:2]
        return 86_400 * int(found["days"]) + 3_600 * int(found["hours"]) + 60 * minutes + seconds
    if len(more) == 2:
        return 3_600 * int(found["first"]) + 60 * more[0] + more[1]
    return 60 * int(found["first"]) + (more[0] if more else 0)


def _option(word: str) -> tuple[str, str]:
    name, equals, value = word.removeprefix("--").partition("=")
    if not equals or not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise BadInput(f"--sbatch {word!r} is not NAME=VALUE; give for example --sbatch partition=gpu")
    if name in OWNED:
        instead = OWNED[name]
        raise BadInput(f"--sbatch {name}: {f'give {instead}' if instead else 'the script needs its own'} instead")
    return name, _safe(value, f"--sbatch {name}")


def _safe(value: str, what: str) -> str:
    _check_words([value])
    if not SAFE.fullmatch(value):
        raise BadInput(f"{what}: {value!r} cannot be in a line of #SBATCH; use letters, digits and {'_.,:;/@%+=-'}")
    return value


def _check_words(words: Sequence[str]) -> None:
    """Raises BadInput: a word would end its line in the script, or show a secret to all who may read it."""
    for word, public in zip(words, redacted_words(words), strict=True):
        if not word.isprintable():
            raise BadInput(f"{word!r} holds a line break or another character that no script should; leave it out")
        if public != word or redacted_text(word) != word:
            raise BadInput(
                f"{public} holds a secret, which others can read in a batch script: put it into the configuration "
                f"file or the environment"
            )
