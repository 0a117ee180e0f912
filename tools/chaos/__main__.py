"""Disturb a real distillation run in every way that a cluster does, and compare its end with an undisturbed one.

A small student learns on two ZeRO-3 processes, with drop path and moving average, and saves after every step in the
background. Its ranks or its launcher are killed (-9) while they start, train or save; between starts a bit flips in the
newest checkpoint, a file is torn or deleted, or the manifest is; the disk fills up and is freed; the number of
processes changes. Checked after every start: the exit code and the line that comes with it, that no process is left,
that resuming took the newest whole checkpoint and named the damaged ones, and that a whole one never gets lost.

The run goes in phases, each with its own number of processes and a last step (`run.stop_at`). A second run does the
same phases undisturbed. At the end of each phase both must hold the same bits: weights, optimizer, average, losses.

A kill counts as one inside saving when it leaves a folder of a half-written checkpoint that the killed start has begun.

    python -m tools.chaos --kills 50 --seed 0       # about 20 minutes on two cores; exit code 0 when all held
"""

import argparse
import contextlib
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from fd_scale.parallel.checkpoint.reader import newest_whole
from tools.chaos.events import DAMAGES, FULL, KILLED_LAUNCHER, UNDISTURBED, Event, plan, worlds
from tools.chaos.harm import MIB, damage_newest, fill_disk, kill, small_disk, wait_for_moment
from tools.chaos.processes import finish, ranks_of, start
from tools.chaos.runs import Broken, Chaos, compare, half_written, require
from tools.tiny_run import tiny_run


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    """Run all phases and print the table; returns the exit code."""
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


def phase(chaos: Chaos, world: int, first: int, last: int, events: list[Event]) -> list[Event]:
    """Run steps `first` to `last` on `world` processes, with these events on the way where there is room for them.

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
    newest, problems = newest_whole(chaos.storage)
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
        at = chaos.storage.where(before)
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


if __name__ == "__main__":
    main()
