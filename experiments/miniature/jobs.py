"""Jobs with a product each, several at a time, until all products are there or the time is up. A make that stops well.

A job runs in a process of its own, and its output goes to a log. To stop one is to send it SIGTERM: training saves and
ends with 0, and the next start of the tool goes on from there. Leaves out other machines and retries.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from fd_scale.exits import run_to_exit_code
from fd_scale.stops.preemption import StopRequest

PRELOADED = ["__main__", "fd_scale.tasks.distillation", "fd_scale.tasks.finetuning", "deepspeed"]
LOOK_EVERY = 0.5


@dataclass(frozen=True)
class Job:
    name: str
    product: Path
    """A file or folder that appears, whole, when the job is done."""
    needs: tuple[Path, ...]
    """Products of others."""
    work: Callable[[], None]
    """Can be pickled: a `functools.partial` of a function of a module."""

    @property
    def done(self) -> bool:
        return self.product.exists()

    @property
    def ready(self) -> bool:
        return not self.done and all(path.exists() for path in self.needs)


def run_jobs(jobs: Sequence[Job], slots: int, logs: Path, minutes: float | None) -> list[Job]:
    """Run what is missing, at most `slots` at a time, in the order given as far as needs allow.

    Args:
        minutes: then everything that runs is asked to save and end. None: no limit.

    Returns:
        What is left undone, because the time was up or somebody asked for a stop.

    Raises:
        SystemExit: a job failed; with its exit code, its log's last line printed.
    """
    context = _context()
    logs.mkdir(parents=True, exist_ok=True)
    stop, began = StopRequest(), time.monotonic()
    running: dict[Job, BaseProcess] = {}
    failed: tuple[Job, int] | None = None
    asked = False
    while True:
        for job in [job for job, process in running.items() if not process.is_alive()]:
            code = running.pop(job).exitcode or 0
            if not job.done and not (asked or stop.asked):
                failed = (job, code)
            elif job.done:
                print(f"-- {time.monotonic() - began:5.0f} s  {job.name}: done", file=sys.stderr, flush=True)
        over = minutes is not None and time.monotonic() - began > 60 * minutes
        if (over or stop.asked or failed) and not asked:
            asked = True
            for process in running.values():
                process.terminate()
        if asked and not running:
            break
        ready = [] if asked else [job for job in jobs if job.ready and job not in running]
        for job in ready[: slots - len(running)]:
            process = context.Process(target=_child, args=(job, logs / f"{job.name}.log"))
            process.start()
            running[job] = process
        if not running:
            break
        connection.wait([process.sentinel for process in running.values()], timeout=LOOK_EVERY)
    if failed:
        job, code = failed
        print(f"{job.name} ended with {code}: {_last_line(logs / f'{job.name}.log')}", file=sys.stderr)
        raise SystemExit(code if code > 0 else 1)
    return [job for job in jobs if not job.done]


def _context() -> SpawnContext | ForkServerContext:
    """Without CUDA, which must not be touched before a fork, imports are made once: they cost seconds each time."""
    if torch.cuda.is_available():
        return multiprocessing.get_context("spawn")
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed asks while it is imported
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _child(job: Job, log: Path) -> None:
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    sys.exit(run_to_exit_code(job.work))


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else f"see {log}"
