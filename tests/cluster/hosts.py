"""Hosts for tests: network namespaces, each with a host name, an address, an /etc/hosts and what is started there.

One more namespace holds the bridge between them, so that the machine itself sees nothing of it, and cutting a host off
is a matter of taking down one end of a cable there. All processes of a host are found by its namespace, and ended.

Needs root and iproute2. Everything is removed when the `with` block ends.
"""

import contextlib
import getpass
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
SUBNET = "10.77.0."
NEEDED = ("ip", "nsenter", "unshare")


def why_not() -> str | None:
    """What is missing to make hosts here; None where they can be made."""
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    if lacking := [name for name in NEEDED if shutil.which(name) is None]:
        return f"needs {', '.join(lacking)} (apt-get install iproute2 util-linux)"
    tried = subprocess.run(["unshare", "--net", "--uts", "--mount", "true"], capture_output=True, text=True)
    return None if tried.returncode == 0 else f"no namespaces can be made here: {tried.stderr.strip()}"


class Host:
    """A machine as far as the network goes; files and processes are shared with this one."""

    def __init__(self, network: "Network", number: int):
        self.network, self.number = network, number
        self.name = f"node{number}"
        self.address = f"{SUBNET}{number}"
        self.namespace = f"{network.namespace}n{number}"
        self.link = f"port{number}"  # the bridge's end of its cable

    def command(self, words: Sequence[str | Path]) -> list[str]:
        """`words` as a command line that runs on this host, under its name and with its /etc/hosts."""
        setup = f'hostname {self.name} && mount --bind "$0" /etc/hosts && exec "$@"'
        inside = [
            "unshare",
            "--uts",
            "--mount",
            "sh",
            "-c",
            setup,
            str(self.network.hosts_file(self)),
            *map(str, words),
        ]
        return ["nsenter", f"--net=/run/netns/{self.namespace}", *inside]

    def start(self, words: Sequence[str | Path], **options) -> subprocess.Popen:
        """As `subprocess.Popen`, on this host."""
        return subprocess.Popen(self.command(words), **options)

    def run(self, words: Sequence[str | Path], **options) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run`, on this host, with its output captured as text."""
        return subprocess.run(self.command(words), **{"capture_output": True, "text": True, "timeout": 300, **options})

    def processes(self) -> list[int]:
        """Of this host, whoever started them."""
        listed = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True)
        return [int(word) for word in listed.stdout.split()]

    def cut(self) -> None:
        """Takes the cable out: nothing passes, and nobody is told."""
        self.network.ip("link", "set", self.link, "down")

    def mend(self) -> None:
        self.network.ip("link", "set", self.link, "up")

    def slow_down(self, kilobits: int) -> None:
        """So many a second pass to it, and no more."""
        rule = ["tc", "qdisc", "replace", "dev", self.link, "root", "tbf", "rate", f"{kilobits}kbit"]
        rule += ["burst", "32kbit", "latency", "400ms"]
        subprocess.run(["ip", "netns", "exec", self.network.namespace, *rule], check=True)

    def kill_all(self) -> None:
        """What losing power does."""
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


class Network:
    """Hosts node1 to nodeN on one bridge.

    Args:
        folder: for their files.
        hosts: how many.
        name_on_loopback: /etc/hosts of each maps its own name to 127.0.1.1, as Debian's installer writes it.
    """

    def __init__(self, folder: Path, hosts: int = 2, *, name_on_loopback: bool = False):
        self.folder, self.name_on_loopback = folder, name_on_loopback
        self.namespace = f"fds{os.getpid()}x{time.monotonic_ns() % 10**6}"
        self.hosts = [Host(self, number) for number in range(1, hosts + 1)]
        self.servers: list[subprocess.Popen] = []

    def __enter__(self) -> "Network":
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts:
            host.kill_all()
        for server in self.servers:
            server.wait()
        for namespace in [host.namespace for host in self.hosts] + [self.namespace]:
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True)

    def ip(self, *words: str) -> None:
        """iproute2 where the bridge is."""
        subprocess.run(["ip", "-netns", self.namespace, *words], check=True)

    def hosts_file(self, host: Host) -> Path:
        return self.folder / f"{host.name}.hosts"

    def serve_ssh(self) -> str:
        """Starts an sshd on every host; returns the ssh command that reaches them all (for FD_SCALE_SSH)."""
        assert SSHD, "needs sshd (apt-get install openssh-server)"
        for name in ("host_key", "user_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / name], check=True)
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd refuses to start without; a service manager would make it
        for host in self.hosts:
            configuration = self.folder / f"{host.name}.sshd_config"
            configuration.write_text(
                f"Port 22\nListenAddress 0.0.0.0\nHostKey {self.folder}/host_key\nPidFile none\nUsePAM no\n"
                f"StrictModes no\nAuthorizedKeysFile {self.folder}/user_key.pub\nPasswordAuthentication no\n"
                f"PermitRootLogin prohibit-password\nSetEnv TMPDIR={self.folder}\n"
            )
            sshd = host.start([SSHD, "-D", "-e", "-f", configuration], stderr=subprocess.DEVNULL)
            self.servers.append(sshd)
        for host in self.hosts:
            wait_until(lambda host=host: host.run(["ss", "-Hltn", "sport = :22"]).stdout)
        return (
            f"ssh -i {self.folder}/user_key -l {getpass.getuser()} -o IdentitiesOnly=yes -F none "
            f"-o StrictHostKeyChecking=no -o UserKnownHostsFile={self.folder}/known_hosts -o LogLevel=ERROR"
        )

    def hostfile(self, slots: Mapping[str, int] | None = None) -> Path:
        """All hosts with one slot each, or those given."""
        path = self.folder / "hosts"
        slots = slots or {host.name: 1 for host in self.hosts}
        path.write_text("".join(f"{name} slots={count}\n" for name, count in slots.items()))
        return path

    def _build(self) -> None:
        subprocess.run(["ip", "netns", "add", self.namespace], check=True)
        self.ip("link", "add", "bridge0", "type", "bridge")
        self.ip("link", "set", "bridge0", "up")
        for host in self.hosts:
            subprocess.run(["ip", "netns", "add", host.namespace], check=True)
            cable = ["link", "add", host.link, "type", "veth", "peer", "name", "eth0", "netns", host.namespace]
            self.ip(*cable)
            self.ip("link", "set", host.link, "master", "bridge0", "up")
            inside = ["ip", "-netns", host.namespace]
            subprocess.run([*inside, "addr", "add", f"{host.address}/24", "dev", "eth0"], check=True)
            for link in ("lo", "eth0"):
                subprocess.run([*inside, "link", "set", link, "up"], check=True)
            own = f"127.0.1.1 {host.name}\n" if self.name_on_loopback else f"{host.address} {host.name}\n"
            others = "".join(f"{other.address} {other.name}\n" for other in self.hosts if other is not host)
            self.hosts_file(host).write_text(f"127.0.0.1 localhost\n{own}{others}")


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.05)
