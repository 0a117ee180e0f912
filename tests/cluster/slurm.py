"""A Slurm cluster for tests: two nodes to compute on and a host for the controller, namespaces of `cluster.hosts`.

munged, slurmctld and slurmd have sockets, keys and folders of their own, so the machine's Slurm, if it has one, is not
touched. The controller is on node3, because node1 and node2 are those that lose their power.

Needs Debian's slurm-wlm and munge. Leaves out: cgroups, accounting, GPUs.
"""

import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.hosts import Host, Network, wait_until

SBIN = f"{os.environ['PATH']}:/usr/sbin"
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "squeue", "sinfo")
CPUS = 8
"""Of each node, whatever the machine has, so that several jobs run at once."""
LOST_AFTER = 15
"""Seconds without a word from slurmd until its node is down; 300 by default."""
EXPIRED_AFTER = 10
"""Seconds that a credential is good for. A requeued job waits for twice as long and a little, by default 2 min."""
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY", "DEADLINE"}

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={controller.name}({controller.address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire={expired_after}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PropagateResourceLimits=NONE
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout={lost_after}
KillWait=30
SchedulerParameters=sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=low Nodes={names} Default=YES MaxTime=60 State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes={names} MaxTime=60 State=UP PriorityTier=10 PreemptMode=OFF
"""


def why_no_slurm() -> str | None:
    """What is missing; None where nothing is."""
    lacking = [name for name in NEEDED if shutil.which(name, path=SBIN) is None]
    return f"needs {', '.join(lacking)} (apt-get install slurm-wlm munge)" if lacking else None


class Slurm:
    """The cluster on three hosts of a network; its daemons end with the network."""

    def __init__(self, network: Network):
        self.network = network
        *self.nodes, self.controller = network.hosts
        self.folder = network.folder / "slurm"
        self.servers: dict[str, subprocess.Popen] = {}

    def start(self) -> "Slurm":
        self.folder.mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        self.configuration.write_text(
            CONFIGURATION.format(
                controller=self.controller,
                folder=self.folder,
                names=",".join(node.name for node in self.nodes),
                nodes="\n".join(
                    f"NodeName={node.name} NodeAddr={node.address} CPUs={CPUS} RealMemory=8000" for node in self.nodes
                ),
                lost_after=LOST_AFTER,
                expired_after=EXPIRED_AFTER,
            )
        )
        munged = ["munged", "--foreground", "--force"]
        for option, name in (("socket", "munge.socket"), ("key-file", "munge.key"), ("pid-file", "munged.pid")):
            munged.append(f"--{option}={self.folder / name}")
        munged += [f"--log-file={self.folder / 'munged.log'}", f"--seed-file={self.folder / 'munged.seed'}"]
        self._serve("munged", self.controller, munged)
        wait_until((self.folder / "munge.socket").exists)
        self._serve("slurmctld", self.controller, ["slurmctld", "-D", "-f", self.configuration])
        for node in self.nodes:
            self.power_on(node)
        wait_until(lambda: self.idle() == len(self.nodes))
        return self

    @property
    def configuration(self) -> Path:
        return self.folder / "slurm.conf"

    def power_on(self, node: Host) -> None:
        self._serve(f"slurmd {node.name}", node, ["slurmd", "-D", "-N", node.name, "-f", self.configuration])

    def power_off(self, node: Host) -> None:
        node.kill_all()
        self.servers[f"slurmd {node.name}"].wait()

    def idle(self) -> int:
        """Nodes that answer and have nothing to do."""
        words = self.ask("sinfo", "--noheader", "--Node", "--partition=low", "--format=%T").split()
        return words.count("idle")

    def ask(self, *words: str | Path, **environment: str) -> str:
        """A command of Slurm, as somebody who is logged in at the controller; its output."""
        done = self.run(words, environment)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def run(
        self, words: Sequence[str | Path], environment: Mapping[str, str] | None = None, **options
    ) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
        return self.controller.run(
            words, env={**clean, "SLURM_CONF": str(self.configuration), **(environment or {})}, **options
        )

    def submit(self, *words: str | Path, **environment: str) -> str:
        """`sbatch`; returns the number of the job."""
        found = re.search(r"Submitted batch job (\d+)", self.ask("sbatch", *words, **environment))
        assert found
        return found[1]

    def facts(self, job: str) -> dict[str, str]:
        """What Slurm says of a job, or of a task such as 7_1."""
        return dict(re.findall(r"(\S+?)=(\S*)", self.ask("scontrol", "show", "job", "--oneliner", job)))

    def state(self, job: str) -> str:
        return self.facts(job)["JobState"]

    def restarts(self, job: str) -> int:
        return int(self.facts(job)["Restarts"])

    def exit_code(self, job: str) -> int:
        """Waits for the end of a job. A signal that ended it counts as with a shell."""
        wait_until(lambda: self.state(job) in ENDED, seconds=500)
        code, signal = self.facts(job)["ExitCode"].split(":")
        return int(code) or (128 + int(signal) if int(signal) else 0)

    def _serve(self, name: str, host: Host, words: Sequence[str | Path]) -> None:
        program = shutil.which(str(words[0]), path=SBIN)
        assert program
        with (self.folder / f"{name}.out".replace(" ", ".")).open("wb") as output:
            server = host.start([program, *words[1:]], stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        self.servers[name] = server
        self.network.servers.append(server)
