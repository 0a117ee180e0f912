"""Images and containers without a registry: a base from Debian's packages, buildah, and a podman of our own.

Nothing of the user's is touched. Each `Podman` has its own settings, storage and namespaces of network and mounts,
which are removed when its `with` block ends. The base and built images stay in a cache outside of the checkout, in
FD_SCALE_IMAGE_CACHE or `~/.cache/fd_scale/images`, for the next run; remove that folder to begin again.

What this machine needs and the Dockerfile must not know is here: builds use the host's network, and pip finds the
machine's certificates and settings, which are mounted for the build alone. Needs root and Linux. Leaves out: Docker.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import ssl
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
NEEDED = ("podman", "buildah", "runc", "mmdebstrap", "ip", "nsenter")
HELPERS = (Path("/usr/lib/podman/netavark"), Path("/usr/lib/podman/aardvark-dns"))
SUITE = "bookworm"
"""Debian 12, whose Python is 3.11."""
# What the Dockerfile asks for is there already, so that its apt-get finds nothing to do.
PACKAGES = (
    "python3,python3-venv,python3-dev,gcc,g++,libc6-dev,ca-certificates,openssh-client,openssh-server,tini,"
    "iproute2"  # for tools that cut off and slow down a container
)
BASE = f"localhost/fd-scale-base:{SUITE}"
KEPT_DAYS = 7
"""For what was built here; an older image is made again, when it is asked for, from what the cache still has."""
SETTINGS = """\
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=16384:16384"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
network_config_dir = "{folder}/networks"
"""


def why_not() -> str | None:
    """What is missing to build and run images here; None where they can be."""
    if os.geteuid() != 0:
        return "needs root, to run containers"
    lacking = [name for name in NEEDED if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    lacking += [path.name for path in HELPERS if not path.exists()]
    if lacking:
        packages = "podman buildah runc netavark aardvark-dns iptables mmdebstrap"
        return f"needs {', '.join(lacking)} (apt-get install {packages})"
    python = sysconfig.get_python_version()
    return None if python == "3.11" else f"Debian 12 has Python 3.11, and the packages here are for {python}"


def cache_folder() -> Path:
    given = os.environ.get("FD_SCALE_IMAGE_CACHE")
    return (
        Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "fd_scale/images").expanduser()
    )


@contextlib.contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """One process makes the base, and others wait for it, also those of another checkout."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Builder:
    """buildah on the storage in the cache."""

    def __init__(self, cache: Path | None = None):
        self.cache = cache or cache_folder()
        self.storage = self.cache / "storage"
        with _locked(self.cache):
            self.environment = {**os.environ, **_settings(self.cache, self.storage, self.cache / "run")}
            if self.run("buildah", "inspect", "--type", "image", BASE, check=False).returncode:
                self._make_base()
            self._forget_old_images()

    def run(self, *words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        options = {"check": True, "capture_output": True, "text": True, **options}
        return subprocess.run([str(word) for word in words], env=self.environment, **options)

    def build(
        self, target: str, context: Path = REPOSITORY, arguments: Mapping[str, str] | None = None
    ) -> tuple[str, str]:
        """Builds a target of docker/Dockerfile from a checkout.

        Returns:
            The image's id, and what buildah printed.

        Raises:
            RuntimeError: the build failed; its text is the end of what buildah printed.
        """
        arguments = {"BUILD_BASE": BASE, "RUN_BASE": BASE, "FORCE_CUDA": "0", **(arguments or {})}
        with tempfile.TemporaryDirectory() as temporary:
            identity = Path(temporary, "id")
            mounted = [word for mount in _pip_mounts(Path(temporary)) for word in ("--volume", mount)]
            given = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
            # Docker's format, because the other one has no place for a HEALTHCHECK.
            done = self.run(
                *("buildah", "bud", "--isolation", "oci", "--network", "host", "--layers", "--format", "docker"),
                *("--pull-never", "--file", context / "docker/Dockerfile", "--target", target, "--iidfile", identity),
                *mounted,
                *given,
                context,
                check=False,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                capture_output=False,
            )
            if done.returncode:
                raise RuntimeError(f"building {target} failed:\n{done.stdout[-4000:]}")
            return identity.read_text().strip().removeprefix("sha256:"), done.stdout

    def _forget_old_images(self) -> None:
        for image in json.loads(self.run("buildah", "images", "--json").stdout):
            age = time.time() - datetime.fromisoformat(image["createdatraw"].replace("Z", "+00:00")).timestamp()
            if BASE not in (image["names"] or []) and age > KEPT_DAYS * 86_400:
                self.run("buildah", "rmi", image["id"], check=False)

    def _make_base(self) -> None:
        archive = self.cache / "base.tar"
        if not archive.exists():
            partial = archive.with_suffix(".partial")
            making = ["mmdebstrap", "--quiet", "--format=tar", "--variant=minbase", f"--include={PACKAGES}", SUITE]
            subprocess.run([*making, partial], check=True)
            partial.rename(archive)
        container = self.run("buildah", "from", "scratch").stdout.strip()
        try:
            self.run("buildah", "add", "--quiet", container, archive)
            self.run("buildah", "commit", "--quiet", container, BASE)
        finally:
            self.run("buildah", "rm", container)
        archive.unlink()


def _settings(folder: Path, storage: Path, runtime: Path, images: Path | None = None) -> dict[str, str]:
    """Writes the settings of podman and buildah into `folder`; returns the variables that point to them."""
    (folder / "containers.conf").write_text(SETTINGS.format(folder=folder))
    shared = f'[storage.options]\nadditionalimagestores = ["{images}"]\n' if images else ""
    (folder / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{storage}"\nrunroot = "{runtime}"\n{shared}'
    )
    return {
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
    }


def _pip_mounts(folder: Path) -> list[str]:
    """The certificates and the settings that pip has here, for the time of a build."""
    paths = ssl.get_default_verify_paths()
    certificates = next((p for p in (os.environ.get("SSL_CERT_FILE"), paths.cafile) if p and Path(p).exists()), None)
    if certificates is None:
        return []
    inside = "/etc/ssl/certs/ca-certificates.crt"
    (folder / "pip.conf").write_text(f"[global]\ncert = {inside}\n")
    return [f"{certificates}:{inside}:ro", f"{folder / 'pip.conf'}:/etc/pip.conf:ro"]


# Root's podmen share places that no setting moves: the name server of their networks, addresses, locks. Covered by
# folders of our own, several of us work beside each other, and beside the user's. `cat` ends with this process.
OWN_PLACES = """\
mkdir -p /run/containers /run/libpod "$0/containers" "$0/libpod" &&
mount --bind "$0/containers" /run/containers && mount --bind "$0/libpod" /run/libpod && mount -t tmpfs tmpfs /dev/shm &&
echo ready && exec cat"""


class Podman:
    """podman with settings, storage and namespaces of its own; images come from the cache.

    Use as a context; its end removes every container, volume and network, and the namespace.
    """

    def __init__(self, builder: Builder):
        self.builder = builder
        self.namespace = f"fdi{os.getpid()}x{time.monotonic_ns() % 10**6}"

    def __enter__(self) -> "Podman":
        self.folder = Path(tempfile.mkdtemp(prefix="fdi_"))  # a short path: sockets lie beneath it
        self.environment = {
            **os.environ,
            **_settings(self.folder, self.folder / "storage", self.folder / "run", self.builder.storage),
            "TMPDIR": str(self.folder),
        }
        subprocess.run(["ip", "netns", "add", self.namespace], check=True)
        subprocess.run(["ip", "-netns", self.namespace, "link", "set", "lo", "up"], check=True)
        places = ["unshare", "--mount", "sh", "-c", OWN_PLACES, str(self.folder)]
        self.holder = subprocess.Popen(places, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline() == b"ready\n", "no mount namespace could be made"
        return self

    def __exit__(self, *_: object) -> None:
        self.run("rm", "--all", "--force", "--time", "0", check=False)
        self.run("volume", "rm", "--all", "--force", check=False)
        self.run("network", "prune", "--force", check=False)
        pids = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True).stdout.split()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        subprocess.run(["ip", "netns", "delete", self.namespace], check=False)
        self.holder.communicate()  # the end of its input is its end; the mounts go with it
        shutil.rmtree(self.folder, ignore_errors=True)

    def command(self, *words: str | Path) -> list[str]:
        """A command line that runs where the containers' bridges are. Start it with `environment`."""
        places = f"--mount=/proc/{self.holder.pid}/ns/mnt"
        return ["nsenter", f"--net=/run/netns/{self.namespace}", places, f"--wd={Path.cwd()}", *map(str, words)]

    def run(self, *words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """podman with these words, its output captured as text.

        Raises:
            RuntimeError: it failed, unless `check=False` is given.
        """
        check = options.pop("check", True)
        options = {"capture_output": True, "text": True, "timeout": 600, **options}
        done = subprocess.run(self.command("podman", *words), env=self.environment, **options)
        if check and done.returncode:
            raise RuntimeError(f"podman {' '.join(map(str, words))} ended with {done.returncode}: {done.stderr}")
        return done

    def start(self, *words: str | Path, **options: Any) -> subprocess.Popen[str]:
        """As `run`, without waiting for its end."""
        return subprocess.Popen(self.command("podman", *words), env=self.environment, text=True, **options)

    def exit_code(self, container: str) -> int:
        """Waits for its end."""
        return int(self.run("wait", container).stdout)


def mounted_packages() -> Sequence[str]:
    """The options of `podman run` that give a thin image the packages of this Python's environment."""
    return ("--volume", f"{sysconfig.get_paths()['purelib']}:/opt/packages:ro")
