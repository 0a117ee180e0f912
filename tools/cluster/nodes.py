"""Two containers of docker/compose.yaml that train one run, and what can be done to them from outside."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from tools.chaos.runs import require
from tools.cluster.podman import REPOSITORY, Podman

NODES = ("fd-scale_node0_1", "fd-scale_node1_1")
PATIENCE = 1200.0
"""Seconds for whatever is waited for."""


@dataclass
class Nodes:
    """The two containers; `runs` is the folder here that they see as /workspace/runs."""

    podman: Podman
    image: str
    runs: Path
    command: Sequence[str]
    mounts: Sequence[str]

    def compose(self, folder: str, *verb: str) -> None:
        """docker/compose.yaml with our command and data, for the run folder of that name.

        Raises:
            Broken: it failed.
        """
        node = {
            "command": [*self.command, f"run.folder=runs/{folder}"],
            "volumes": list(self.mounts),
            "environment": {"OMP_NUM_THREADS": "1"},
        }
        bound = {"driver_opts": {"type": "none", "o": "bind", "device": str(self.runs)}}
        ours: Mapping[str, Any] = {"services": {"node0": node, "node1": node}, "volumes": {"runs": bound}}
        override = self.podman.folder / f"{folder}.yaml"
        override.write_text(yaml.safe_dump(ours))
        files = ["--file", str(REPOSITORY / "docker/compose.yaml"), "--file", str(override)]
        done = subprocess.run(
            self.podman.command(sys.executable, "-m", "podman_compose", *files, *verb),
            env={**self.podman.environment, "FD_SCALE_IMAGE": self.image},
            capture_output=True,
            text=True,
        )
        require(done.returncode == 0, f"compose {' '.join(verb)} ended with {done.returncode}: {done.stderr[-2000:]}")

    def up(self, folder: str) -> None:
        self.compose(folder, "up", "--detach", "--no-build")

    def down(self, folder: str) -> None:
        self.compose(folder, "down", "--timeout", "0")

    def stop(self) -> None:
        self.podman.run("stop", "--time", "300", *NODES)

    def states(self) -> list[tuple[bool, int]]:
        """Of each node whether it runs, and its exit code."""
        shown = json.loads(self.podman.run("inspect", *NODES).stdout)
        return [(container["State"]["Running"], container["State"]["ExitCode"]) for container in shown]

    def exit_codes(self) -> list[int]:
        """Waits for the end of both."""
        wait_until(lambda: not any(running for running, _ in self.states()), "the containers' end")
        return [code for _, code in self.states()]

    def log(self, node: int) -> str:
        done = self.podman.run("logs", NODES[node])
        return done.stdout + done.stderr

    def processes(self, folder: str, variable: str, value: str, *, launchers: bool = False) -> list[psutil.Process]:
        """Those that work on a run and have this in their environment: RANK for ranks, PET_NODE_RANK for launchers."""
        found = []
        for process in psutil.process_iter(["cmdline", "name"]):
            words = process.info["cmdline"] or []
            if f"run.folder=runs/{folder}" in words and process.info["name"] != "tini":
                with contextlib.suppress(psutil.Error):
                    if ("launch" in words) == launchers and process.environ().get(variable) == value:
                        found.append(process)
        return found

    def cable(self, node: int) -> str:
        """The name of the bridge's end of a container's cable."""
        number = self.podman.run("exec", NODES[node], "cat", "/sys/class/net/eth0/iflink").stdout.strip()
        shown = self._ip("-json", "link", "show")
        return next(link["ifname"] for link in json.loads(shown) if str(link["ifindex"]) == number)

    def cut(self, node: int) -> None:
        """Take out its cable: nothing passes, and nobody is told."""
        self._ip("link", "set", self.cable(node), "down")

    def slow_down(self, node: int, kilobits: int) -> None:
        limit = ["root", "tbf", "rate", f"{kilobits}kbit", "burst", "32kbit", "latency", "400ms"]
        command = self.podman.command("tc", "qdisc", "replace", "dev", self.cable(node), *limit)
        subprocess.run(command, check=True)

    def kill_name_server(self) -> None:
        """The one daemon that containers have without Docker: it answers for the names of the nodes."""
        listed = subprocess.run(["ip", "netns", "pids", self.podman.namespace], capture_output=True, text=True)
        for pid in map(int, listed.stdout.split()):
            if Path(f"/proc/{pid}/comm").read_text().startswith("aardvark"):
                os.kill(pid, signal.SIGKILL)

    def _ip(self, *words: str) -> str:
        return subprocess.run(self.podman.command("ip", *words), check=True, capture_output=True, text=True).stdout


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        require(time.monotonic() < deadline, f"{what} did not come within {PATIENCE:.0f} s")
        time.sleep(0.1)
