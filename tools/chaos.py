"""Disturbs a real distillation run in every way that a cluster does, and compares its end with an undisturbed one.

A small student learns on two ZeRO-3 processes, with drop path and moving average, and saves after every step in the
background. Its ranks or its launcher are killed (-9) while they start, train or save; between starts a bit flips in the
newest checkpoint, a file is torn or deleted, or the manifest is; the disk fills up and is freed; the number of
processes changes. Checked after every start: the exit code and the line that comes with it, that no process is left,
that resuming took the newest whole checkpoint and named the damaged ones, and that a whole one never gets lost.

The run goes in phases, each with its own number of processes and a last step (`run.stop_at`). A second run does the
same phases undisturbed. At the end of each phase both must hold the same bits: weights, optimizer, average, losses.

A kill counts as one inside saving when it leaves a folder of a half-written checkpoint that the killed start has begun.

    python tools/chaos.py --kills 50 --seed 0       # about 20 minutes on two cores; exit code 0 when all held
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch

from fd_scale.parallel.checkpoint.reader import CheckpointReader, damage, newest_whole
from fd_scale.parallel.checkpoint.storage import MANIFEST, LocalStorage

sys.path.insert(0, str(Path(__file__).parent))
from tiny_run import tiny_run

KILLED_ONE, KILLED_ALL, KILLED_LAUNCHER = "kill a rank", "kill all ranks", "kill the launcher"
FLIP, TEAR, DELETE, UNLIST = "flip a bit", "tear a file", "delete a file", "delete the manifest"
FULL = "full disk"
DAMAGES = (FLIP, TEAR, DELETE, UNLIST)
MIB = 2**20
DISK = 640 * MIB
PATIENCE = 600.0
"""Seconds for whatever is waited for."""


@dataclass(frozen=True)
class Event:
    what: str
    moment: str = ""
    """Of a start: "starting", "training" or "saving"."""


UNDISTURBED = Event("undisturbed")


class Broken(Exception):
    """A promise was not kept; the line says which."""


@dataclass
class Chaos:
    """The disturbed run, the undisturbed one beside it, and what happened so far."""

    arguments: list[str]
    folder: Path
    reference: Path
    random: random.Random
    began: float = field(default_factory=time.monotonic)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def place(self) -> LocalStorage:
        return LocalStorage(self.folder / "checkpoints")

    def whole(self) -> int:
        """Step of the newest whole checkpoint, 0 for none."""
        return newest_whole(self.place)[0] or 0

    def whole_since(self, first: int) -> list[int]:
        return [step for step in self.place.steps() if step >= first and damage(self.place, step) is None]

    def say(self, line: str) -> None:
        print(f"{time.monotonic() - self.began:7.1f} s  {line}", flush=True)


def phase(chaos: Chaos, world: int, first: int, last: int, events: list[Event]) -> list[Event]:
    """Steps `first` to `last` on `world` processes, with these events on the way where there is room for them.

    Returns:
        The events for which there was none.
    """
    code, errors = finish(start(chaos.arguments, chaos.reference, world, last))
    require(code == 0, f"the undisturbed run ended with {code}: {errors}")
    waiting: list[Event] = []
    for event in [*events, UNDISTURBED]:
        if event.what in DAMAGES or (event != UNDISTURBED and chaos.whole() == last):
            waiting.append(event)
            continue
        for due in [event for event in waiting if event.what in DAMAGES]:
            # What was computed before this phase had another number of processes: one of this phase must stay.
            if len(chaos.whole_since(first)) >= 2:
                damage_newest(chaos, due.what)
                waiting.remove(due)
        in_time = disturbed_start(chaos, world, last, event)
        if not in_time:
            waiting.append(event)
    compare(chaos, last)
    chaos.counts["phases compared, bit-equal"] += 1
    chaos.say(f"steps {first} to {last} on {world}: the same bits as undisturbed")
    return waiting


def disturbed_start(chaos: Chaos, world: int, last: int, event: Event) -> bool:
    """Start, disturb, wait for the end, check it.

    Returns:
        Whether the event came in time.
    """
    newest, problems = newest_whole(chaos.place)
    before, began = newest or 0, time.time()
    process = start(chaos.arguments, chaos.folder, world, last)
    chaos.counts["starts"] += 1
    with contextlib.ExitStack() as undo:
        undo.callback(process.kill)  # should this program end before it
        wait_for_moment(chaos, process, began, event.moment)
        if event.what == FULL:
            fill_disk(chaos.folder.parent / "filler", process, chaos.random.randrange(8 * MIB))
        kill(chaos, process, event.what)
        code, errors = finish(process)
    too_late = event != UNDISTURBED and code == 0
    after, inside = chaos.whole(), half_written(chaos, began)
    what = f"{event.what} while {event.moment}" if event.moment else event.what
    remarks = ", half a checkpoint left" * inside + ", too late" * too_late
    chaos.say(f"{world} ranks from step {before}: {what}: exit {code}, newest whole step {after}{remarks}")
    require(not ranks_of(chaos.folder), f"ranks outlive their launcher: {ranks_of(chaos.folder)}")
    require(after >= before, f"step {before} was whole before this start, now the newest whole one is {after}")
    if "resuming from" in errors or after > before or code == 0:  # it came as far as loading
        for line in problems:
            require(f"warning: {line}" in errors, f"nothing said of this: {line}; but: {errors}")
        at = chaos.place.where(before)
        require(not before or f"resuming from {at}" in errors, f"it did not resume from {at}: {errors}")
    if event == UNDISTURBED or too_late:
        require((code, after) == (0, last), f"exit {code} at step {after} instead of 0 at {last}: {errors}")
        return not too_late
    chaos.counts[event.what] += 1
    if event.what == FULL:
        require(code == 2, f"a full disk ended with {code}: {errors}")
        require("no space left" in errors.splitlines()[-1], f"a full disk was not named: {errors}")
        require(not inside, "a full disk leaves a half-written checkpoint")
    else:
        chaos.counts["kills"] += 1
        chaos.counts["kills inside saving"] += inside
        wanted = -signal.SIGKILL if event.what == KILLED_LAUNCHER else 75
        require(code == wanted, f"exit {code} instead of {wanted}: {errors}")
    require("Traceback" not in errors, f"a traceback: {errors}")
    return True


def wait_for_moment(chaos: Chaos, process: subprocess.Popen, began: float, moment: str) -> None:
    """Return at a random time of that kind. Training and saving: after one or two new checkpoints."""
    if moment == "starting":
        time.sleep(chaos.random.uniform(0.5, 8))
    if moment in ("starting", ""):
        return
    wanted = chaos.random.randint(1, 2)
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        new = written_since(chaos.place.folder.glob("step_*"), began)
        if new >= wanted and (moment == "training" or half_written(chaos, began)):
            break
        time.sleep(0.0005)
    time.sleep(chaos.random.uniform(0, 0.3 if moment == "training" else 0.03))


def kill(chaos: Chaos, process: subprocess.Popen, what: str) -> None:
    victims: list[int] = []
    while what in (KILLED_ONE, KILLED_ALL) and not victims and process.poll() is None:
        victims = sorted(ranks_of(chaos.folder))
    if what == KILLED_ONE and victims:
        victims = [chaos.random.choice(victims)]
    if what == KILLED_LAUNCHER and process.poll() is None:
        victims = [process.pid]
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def damage_newest(chaos: Chaos, what: str) -> None:
    newest = chaos.place.folder / f"step_{chaos.whole():08d}"
    path = chaos.random.choice(sorted(newest.iterdir()))
    if what == UNLIST:
        path = newest / MANIFEST
    if what in (DELETE, UNLIST):
        path.unlink()
    elif what == TEAR:
        os.truncate(path, chaos.random.randrange(path.stat().st_size))
    else:
        with open(path, "r+b") as file:
            bit = chaos.random.randrange(8 * path.stat().st_size)
            file.seek(bit // 8)
            byte = file.read(1)[0]
            file.seek(bit // 8)
            file.write(bytes([byte ^ (1 << bit % 8)]))
    chaos.counts[what] += 1
    left = chaos.whole()
    chaos.say(f"{what}: {newest.name}/{path.name}; newest whole step {left}")
    require(f"step_{left:08d}" < newest.name, f"{path} is damaged and {newest.name} still counts as whole")


def fill_disk(filler: Path, process: subprocess.Popen, left: int) -> None:
    """Take all but `left` bytes until the process ends: rotation frees space again and again."""
    with open(filler, "wb") as file:
        while process.poll() is None:
            with contextlib.suppress(OSError):  # the run was faster
                while (excess := shutil.disk_usage(filler.parent).free - left) > 0:
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, min(excess, MIB))
            time.sleep(0.01)
    filler.unlink()


def compare(chaos: Chaos, step: int) -> None:
    """Both runs hold the same bits at `step`, and logged the same losses up to there."""
    ours, theirs = (
        CheckpointReader(LocalStorage(folder / "checkpoints"), step) for folder in (chaos.folder, chaos.reference)
    )
    require(ours.keys == theirs.keys, f"step {step} holds {ours.keys} beside {theirs.keys}")
    for key in ours.keys:
        require(ours.names(key) == theirs.names(key), f"{key} of other parameters at step {step}")
        for name in ours.names(key):
            same = torch.equal(ours.read(name, key).view(torch.uint8), theirs.read(name, key).view(torch.uint8))
            require(same, f"{key} of {name} differs at step {step}")
    require(ours.scalars == theirs.scalars, f"step counts differ at step {step}")
    require(losses(chaos.folder) == losses(chaos.reference), f"losses differ up to step {step}")


def losses(folder: Path) -> list[tuple[int, float]]:
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(entry["step"], entry["loss"]) for entry in entries]


def start(arguments: list[str], folder: Path, world: int, last: int) -> subprocess.Popen:
    launch = [sys.executable, "-m", "fd_scale", "launch", "--nproc", str(world), "--"]
    command = [*launch, *arguments, f"run.folder={folder}", f"run.stop_at={last}", f"train.micro_batch={12 // world}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Exit code and standard error; also ends when ranks that outlive a killed launcher close it."""
    try:
        _, errors = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise Broken(f"a start did not end within {PATIENCE:.0f} s") from None
    return process.returncode, errors


def ranks_of(folder: Path) -> list[int]:
    """Process ids of the ranks that work on a run folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if f"run.folder={folder}" in words and "launch" not in words and process.info["status"] != "zombie":
            found.append(process.pid)
    return found


def half_written(chaos: Chaos, since: float) -> bool:
    """Whether a checkpoint begun after `since` is not in place."""
    return written_since(chaos.place.folder.glob(".step_*.partial"), since) > 0


def written_since(folders: Iterable[Path], since: float) -> int:
    count = 0
    for path in folders:
        with contextlib.suppress(FileNotFoundError):  # renamed or removed meanwhile
            count += path.stat().st_mtime >= since
    return count


def require(kept: bool, line: str) -> None:
    if not kept:
        raise Broken(line)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A file system of its own on `folder`, where this machine lets us mount one."""
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    mounted = subprocess.run(mounting, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def plan(kills: int, with_disk: bool, dice: random.Random) -> list[list[Event]]:
    """The events of each phase, about five kills in one."""
    who = (KILLED_ONE, KILLED_ALL, KILLED_LAUNCHER)
    when = ("saving", "training", "saving", "saving", "starting")
    events = [Event(who[i % len(who)], when[i % len(when)]) for i in range(kills)]
    events += [Event(FULL, "training")] * max(1, kills // 10) * with_disk
    events += [Event(damage) for damage in DAMAGES for _ in range(max(1, kills // 8))]
    dice.shuffle(events)
    phases = max(2, kills // 5)
    return [events[number::phases] for number in range(phases)]


def worlds(phases: int) -> list[int]:
    return [(2, 1, 2, 3)[number % 4] for number in range(phases)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fd_scale_chaos_") as temporary:
        disk = Path(temporary, "disk")
        disk.mkdir()
        with small_disk(disk) as mounted:
            if not mounted:
                print("no small disk can be mounted here (that needs root): no disk will be full")
            dice = random.Random(options.seed)
            phases = plan(options.kills, mounted, dice)
            # Each start costs about three steps: one or two wanted, and what is done until the event arrives.
            length = 3 * max(sum(event.what not in DAMAGES for event in events) for events in phases) + 3
            arguments = tiny_run(Path(temporary), length * len(phases))
            chaos = Chaos(arguments, disk / "run", Path(temporary, "reference"), dice)
            sys.exit(run(chaos, phases, length, options.kills))


def run(chaos: Chaos, phases: list[list[Event]], length: int, kills: int) -> int:
    """All phases and the table; returns the exit code."""
    try:
        waiting: list[Event] = []
        for number, (world, events) in enumerate(zip(worlds(len(phases)), phases, strict=True)):
            first = number * length
            waiting = phase(chaos, world, first, first + length, [*events, *waiting])
        chaos.counts["changes of the number of processes"] = len(phases) - 1
        chaos.counts["events without room"] = len(waiting)
        inside, needed = chaos.counts["kills inside saving"], max(1, kills // 5)
        require(chaos.counts["kills"] >= kills, f"only {chaos.counts['kills']} of {kills} kills arrived in time")
        require(inside >= needed, f"only {inside} kills fell inside saving, at least {needed} must")
        verdict = "all held"
    except Broken as broken:
        verdict = f"BROKEN: {broken}"
    for name, count in sorted(chaos.counts.items()):
        print(f"{count:6d}  {name}")
    print(f"{time.monotonic() - chaos.began:6.0f}  seconds\n{verdict}")
    return 0 if verdict == "all held" else 1


if __name__ == "__main__":
    main()
