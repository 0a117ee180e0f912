"""Disturbs a run on two containers in the ways that a cluster does, and compares its end with an undisturbed one.

docker/compose.yaml starts two nodes that distil a small student (ZeRO-3, a save after every step). Something is done to
them: a rank, a launcher, a container or the name server is killed, the cable of a node is taken out or slowed down, the
disk fills up. Then the same command starts again, and so on. At the end weights, optimizer states, moving average and
losses must be those of a run that nobody disturbed, bit for bit.

What survives its event (a slow network, no name server) is stopped by SIGTERM after its next save, and must end with 0.

    python -m tools.cluster --events 10 --seed 0              # the thin image; needs root, podman and buildah
    python -m tools.cluster --image full                      # the target `train`, whose build is some 6 GB

Leaves out: GPUs, and hosts of their own, which tests/cluster has.
"""

import argparse
import random
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tools.chaos.harm import small_disk
from tools.chaos.runs import Broken, Chaos, compare, losses, require
from tools.cluster.nodes import NODES, Nodes, wait_until
from tools.cluster.podman import Builder, Podman, mounted_packages, why_not
from tools.tiny_run import REPOSITORY, tiny_run

UID = 10_001
KILL_RANK, KILL_CONTAINER, KILL_LAUNCHER = "kill a rank", "kill a container", "kill a launcher"
KILL_DAEMON, CUT, SLOW, FILL = "kill the name server", "cut the network", "slow the network down", "fill the disk"
KINDS = (KILL_RANK, KILL_CONTAINER, KILL_LAUNCHER, KILL_DAEMON, CUT, SLOW, FILL)
SURVIVED = (KILL_DAEMON, SLOW)
KILLED = 137
EXPECTED = {
    KILL_RANK: {(75, 75)},
    KILL_CONTAINER: {(KILLED, 75), (75, KILLED)},
    KILL_LAUNCHER: {(KILLED, 75), (75, KILLED)},
    CUT: {(75, 75)},
    FILL: {(2, 2)},
    KILL_DAEMON: {(0, 0)},
    SLOW: {(0, 0)},
}
"""Exit codes of the two containers."""


@dataclass
class Row:
    what: str
    node: int
    at_step: int
    seconds: float | None = None
    """Until both containers had ended; None where they went on."""
    codes: tuple[int, ...] = ()
    resumed_from: int = 0
    same: bool = False

    def __str__(self) -> str:
        noticed = "not noticed" if self.seconds is None else f"{self.seconds:.1f} s"
        codes = " ".join(map(str, self.codes))
        resumed = f"step {self.resumed_from}, {'the same losses' if self.same else 'OTHER LOSSES'}"
        return f"| {self.what} of node {self.node} | {self.at_step} | {noticed} | {codes} | {resumed} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=14, help="of the schedule, for each event (default 14)")
    parser.add_argument("--image", choices=["thin", "full"], default="thin")
    options = parser.parse_args()
    if reason := why_not():
        sys.exit(f"tools.cluster: {reason}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # the containers end as well
    builder = Builder()
    image, _ = builder.build("train" if options.image == "full" else "thin")
    packages = [] if options.image == "full" else [mounted_packages()[1]]
    with tempfile.TemporaryDirectory(prefix="fd_scale_cluster_") as temporary:
        data, disk = Path(temporary, "data"), Path(temporary, "disk")
        disk.mkdir()
        steps = options.steps * (options.events + 1)
        arguments = tiny_run(data, steps)
        (data / "teacher.safetensors").chmod(0o644)
        shipped = str(REPOSITORY / "configs/demo/swin_v2.yaml")
        words = ["configs/demo/swin_v2.yaml" if word == shipped else word for word in arguments]
        words += ["train.micro_batch=6", "run.watchdog_minutes=1", "parallel.timeout_minutes=1.5"]
        with small_disk(disk) as mounted:
            require(mounted, "no small disk can be mounted here")
            disk.chmod(0o777)
            with Podman(builder) as podman:
                nodes = Nodes(podman, image, disk, words, [f"{data}:{data}:ro", *packages])
                sys.exit(run(nodes, steps, options.events, random.Random(options.seed)))


def run(nodes: Nodes, steps: int, count: int, dice: random.Random) -> int:
    """All events and the table; returns the exit code."""
    began = time.monotonic()
    rows: list[Row] = []
    chaos = Chaos([], nodes.runs / "disturbed", nodes.runs / "reference", dice)
    try:
        nodes.up("reference")
        require(nodes.exit_codes() == [0, 0], f"the undisturbed run failed: {nodes.log(0)}")
        nodes.down("reference")
        chaos.say(f"undisturbed: {steps} steps")
        events = [KINDS[number % len(KINDS)] for number in range(count)]
        dice.shuffle(events)
        for what in [*events, None]:
            before = chaos.whole()
            nodes.up("disturbed")
            if what is None:
                require(nodes.exit_codes() == [0, 0], f"the last start failed: {nodes.log(0)}")
            else:
                disturb(nodes, chaos, what, before, rows)
            if before:
                check_resumed(nodes, chaos, rows[-1 if what is None else -2], before)
        compare(chaos, steps)
        verdict = f"all held: the same bits as undisturbed after {steps} steps"
    except Broken as broken:
        verdict = f"BROKEN: {broken}"
    print("| what was done | at step | until both had ended | exit codes | resumed from |\n|---|---|---|---|---|")
    for row in rows:
        print(row)
    print(f"{time.monotonic() - began:.0f} s\n{verdict}")
    return 0 if verdict.startswith("all held") else 1


def disturb(nodes: Nodes, chaos: Chaos, what: str, before: int, rows: list[Row]) -> None:
    """Wait for a new checkpoint, do it, and wait for the end of both nodes.

    Raises:
        Broken: they ended otherwise than `EXPECTED` says.
    """
    progress(nodes, chaos, before)
    time.sleep(chaos.random.uniform(0, 0.5))
    node = chaos.random.randrange(len(NODES))
    filler = chaos.folder.parent / "filler"
    row = Row(what, node, chaos.whole())
    rows.append(row)
    over = threading.Event()
    since = time.monotonic()
    if what == KILL_RANK:
        for process in nodes.processes("disturbed", "RANK", str(node))[:1]:
            process.kill()
    elif what == KILL_LAUNCHER:
        for process in nodes.processes("disturbed", "PET_NODE_RANK", str(node), launchers=True):
            process.kill()
    elif what == KILL_CONTAINER:
        nodes.podman.run("kill", "--signal", "KILL", NODES[node])
    elif what == KILL_DAEMON:
        nodes.kill_name_server()
    elif what == CUT:
        nodes.cut(node)
    elif what == SLOW:
        nodes.slow_down(node, 2000)
    elif what == FILL:
        threading.Thread(target=keep_full, args=(filler, over), daemon=True).start()
    if what in SURVIVED:
        progress(nodes, chaos, chaos.whole())
        nodes.stop()
    codes = tuple(nodes.exit_codes())
    row.seconds = None if what in SURVIVED else time.monotonic() - since
    row.codes = codes
    over.set()
    if what == FILL:
        wait_until(lambda: not filler.exists(), "the end of the filler")
    chaos.say(f"{what} of node {node} at step {row.at_step}: {codes}, {row.seconds or 0:.1f} s")
    require(codes in EXPECTED[what], f"{what}: exit codes {codes}: {nodes.log(0)}\n{nodes.log(1)}")


def progress(nodes: Nodes, chaos: Chaos, step: int) -> None:
    """Wait for a checkpoint after `step`."""

    def saved() -> bool:
        if (chaos.storage.steps() or [0])[-1] > step:
            return True
        running = all(running for running, _ in nodes.states())
        require(running, f"a node ended by itself: {nodes.log(0)}\n{nodes.log(1)}")
        return False

    wait_until(saved, f"a checkpoint after step {step}")


def keep_full(filler: Path, over: threading.Event) -> None:
    """Take what is free, again and again, because the run removes old checkpoints."""
    with filler.open("wb", buffering=0) as file:
        while not over.wait(0.01):
            try:
                while not over.is_set():
                    file.write(bytes(2**20))
            except OSError:
                continue
    filler.unlink()


def check_resumed(nodes: Nodes, chaos: Chaos, row: Row, before: int) -> None:
    """The start after an event took the newest checkpoint, and every loss is the undisturbed run's."""
    said = nodes.log(0)
    require(f"step_{before:08d}" in said, f"it did not resume from step {before}: {said}")
    expected = dict(losses(chaos.reference))
    row.resumed_from = before
    row.same = all(expected[step] == loss for step, loss in losses(chaos.folder))
    require(row.same, f"after {row.what}, losses differ from the undisturbed run's")


if __name__ == "__main__":
    main()
