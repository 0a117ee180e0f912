"""Images of docker/Dockerfile, really built and really run, and what docker/compose.yaml does with them.

The thin one, because the packages are 5 GB; `python -m tools.cluster --image full` builds and disturbs the other. GPUs
in containers are tested by nobody here.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from cluster.hosts import wait_until
from cluster.images import REPOSITORY, Podman, builder, mounted_packages, thin_image, why_not
from support.helpers import tiny_arguments
from tasks.running import SUMMATION, distilled, losses, ranks_of, up_to

UID = 10_001
CONFIG = str(REPOSITORY / "configs/demo/swin_v2.yaml")
SECRET = "hf_" + "Yq7" * 9
COMPOSE = [sys.executable, "-m", "podman_compose"]


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    if reason := why_not():
        pytest.skip(reason)
    with Podman(builder()) as podman:
        yield podman


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder that is mounted at /workspace/runs, of the user of the image."""
    folder = tmp_path / "runs"
    folder.mkdir()
    os.chown(folder, UID, UID)
    return folder


@dataclass(frozen=True)
class Job:
    """The tests' tiny run as the image takes it, and the losses that it must come to."""

    folder: str
    """In the container, and of no other run on this machine."""
    words: list[str]
    mounts: list[str]
    losses: dict[int, float]


@pytest.fixture
def job(shards: Path, teacher_file: Path, tmp_path: Path) -> Job:
    whole, _ = distilled(shards, teacher_file)
    teacher = tmp_path / "teacher.safetensors"
    shutil.copy(teacher_file, teacher)
    teacher.chmod(0o644)  # safetensors makes files that only their owner can read
    folder = f"runs/of_{os.getpid()}_{time.monotonic_ns()}"
    arguments = tiny_arguments(Path("/data/shards"), Path("/data/teacher.safetensors"), Path(folder))
    words = ["configs/demo/swin_v2.yaml" if word == CONFIG else word for word in arguments]
    mounts = [f"{shards}:/data/shards:ro", f"{teacher}:/data/teacher.safetensors:ro"]
    return Job(folder, words, mounts, losses(whole))


def options(mounts: list[str], **variables: str) -> list[str]:
    mounted = [word for mount in mounts for word in ("--volume", mount)]
    given = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
    return [*mounted_packages(), *mounted, "--env", "OMP_NUM_THREADS=1", *given]


def logs(podman: Podman, container: str) -> str:
    done = podman.run("logs", container)
    return done.stdout + done.stderr


@contextlib.contextmanager
def frozen_after_a_save(podman: Podman, container: str, job: Job, folder: Path) -> Iterator[list[int]]:
    """The ranks, suspended as soon as there is a checkpoint, so that eight short steps are not over before a signal."""

    def saved() -> bool:
        if list(folder.glob("checkpoints/step_*")):
            return True
        running = podman.run("inspect", "--format", "{{.State.Running}}", container).stdout.strip()
        assert running == "true", logs(podman, container)
        return False

    wait_until(saved, 300)
    ranks = [pid for pid in ranks_of(Path(job.folder)) if Path(f"/proc/{pid}/comm").read_text() != "tini\n"]
    assert ranks, logs(podman, container)
    for pid in ranks:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield ranks
    finally:
        for pid in ranks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def wait_for_sigterm(ranks: list[int]) -> None:
    """Until it is pending for all of them, which are suspended."""

    def pending(pid: int) -> bool:
        status = Path(f"/proc/{pid}/status").read_text().split("ShdPnd:")[1].split()[0]
        return bool(int(status, 16) >> (signal.SIGTERM - 1) & 1)

    wait_until(lambda: all(pending(pid) for pid in ranks))


def test_a_stopped_container_ends_with_75_and_the_next_resumes_to_the_same_losses(podman, runs, job):
    """Also: it is no root, and the health check sees a run that works and one that does not."""
    mounts = [f"{runs}:/workspace/runs", *job.mounts]
    limit = {"FD_SCALE_STOPPED_EXIT": "75", "FD_SCALE_HEALTH_SECONDS": "60"}
    command = [thin_image(), *job.words]
    folder = runs / Path(job.folder).name
    podman.run("run", "--detach", "--name", "first", *options(mounts, **limit), *command)
    with frozen_after_a_save(podman, "first", job, folder) as ranks:
        healthy = podman.run("healthcheck", "run", "first", check=False)
        past = time.time() - 300
        for path in folder.rglob("*"):
            os.utime(path, (past, past))
        stuck = podman.run("healthcheck", "run", "first", check=False)
        with podman.start("stop", "--time", "120", "first"):
            wait_for_sigterm(ranks)
            for pid in ranks:
                os.kill(pid, signal.SIGCONT)
    assert healthy.returncode == 0, healthy.stdout
    assert stuck.returncode == 1, stuck.stdout
    assert podman.exit_code("first") == 75, logs(podman, "first")
    assert {path.stat().st_uid for path in folder.rglob("*")} == {UID}
    stopped_at = max(losses(folder))
    assert stopped_at < 8
    assert (folder / f"checkpoints/step_{stopped_at:08d}").is_dir()

    done = podman.run("run", "--name", "second", *options(mounts, **limit), *command, check=False)
    assert done.returncode == 0, done.stderr
    assert "resuming from" in done.stderr
    assert losses(folder) == pytest.approx(job.losses, rel=SUMMATION)


def compose(podman: Podman, folder: Path, job: Job):
    """A function that runs docker/compose.yaml with the thin image."""
    packages = mounted_packages()[1]
    node = {
        "command": job.words,
        "volumes": [packages, *job.mounts],
        "environment": {"OMP_NUM_THREADS": "1"},
    }
    override = folder / "override.yaml"
    override.write_text(yaml.safe_dump({"services": {"node0": node, "node1": node}}))
    environment = {**podman.environment, "FD_SCALE_IMAGE": thin_image()}
    files = ["--file", str(REPOSITORY / "docker/compose.yaml"), "--file", str(override)]

    def run(*verb: str) -> subprocess.CompletedProcess[str]:
        command = podman.command(*COMPOSE, *files, *verb)
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)

    return run


def test_compose_trains_on_two_nodes_saves_when_stopped_and_resumes(podman, tmp_path, job):
    run = compose(podman, tmp_path, job)
    nodes = ("fd-scale_node0_1", "fd-scale_node1_1")
    read = run("config")
    assert read.returncode == 0, read.stderr
    try:
        started = run("up", "--detach", "--no-build")
        assert started.returncode == 0, started.stderr
        volume = json.loads(podman.run("volume", "inspect", "fd-scale_runs").stdout)[0]
        folder = Path(volume["Mountpoint"], Path(job.folder).name)
        with ThreadPoolExecutor() as beside, frozen_after_a_save(podman, nodes[0], job, folder) as ranks:
            stopping = beside.submit(run, "stop")
            wait_for_sigterm(ranks)
        stopping.result()
        assert [podman.exit_code(node) for node in nodes] == [0, 0], logs(podman, nodes[0])
        stopped_at = max(losses(folder))
        assert stopped_at < 8
        run("up", "--detach", "--no-build")
        assert [podman.exit_code(node) for node in nodes] == [0, 0], logs(podman, nodes[0])
        assert f"step_{stopped_at:08d}" in logs(podman, nodes[0])
        assert losses(folder) == job.losses  # two ranks, as there
    finally:
        run("down", "--volumes", "--timeout", "0")


def test_a_container_is_a_node_for_a_hostfile(podman, runs, job):
    """Two nodes, without root, of which the first also launches. The key is in neither image nor command line."""
    secrets = runs.parent / "secrets"
    secrets.mkdir()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", secrets / "key"], check=True)
    os.chown(secrets / "key", UID, UID)
    (runs / "hosts").write_text("nodea slots=1\nnodeb slots=1\n")
    mounts = [f"{runs}:/workspace/runs", f"{secrets}:/run/secrets/ssh:ro", *job.mounts]
    given = options(mounts, FD_SCALE_SSH_KEYS="/run/secrets/ssh/key.pub")
    podman.run("network", "create", "cluster")
    for name in ("nodea", "nodeb"):
        podman.run("run", "--detach", "--name", name, "--network", "cluster", *given, thin_image(), "sshd")
    for name in ("nodea", "nodeb"):
        wait_until(lambda name=name: podman.run("healthcheck", "run", name, check=False).returncode == 0)
    ssh = (
        "ssh -p 2222 -i /run/secrets/ssh/key -o StrictHostKeyChecking=accept-new "
        "-o UserKnownHostsFile=/tmp/known_hosts -o LogLevel=ERROR"
    )
    launch = ["fd-scale", "launch", "--hostfile", "runs/hosts", "--", *job.words, "run.stop_at=2"]
    done = podman.run("exec", "--env", f"FD_SCALE_SSH={ssh}", "nodea", *launch, check=False)
    assert done.returncode == 0, done.stderr
    assert losses(runs / Path(job.folder).name) == up_to(2, job.losses)
    podman.run("rm", "--force", "--time", "0", "nodea", "nodeb")


def checkout(folder: Path) -> Path:
    """A copy of what an image is made of, with things beside it that must not get in."""
    for name in ("fd_scale", "downstream", "configs", "deepspeed_configs", "docker", "tools"):
        shutil.copytree(REPOSITORY / name, folder / name)
    for name in ("pyproject.toml", "README.md", "LICENSE", ".dockerignore"):
        shutil.copy(REPOSITORY / name, folder / name)
    for name in (".env", "secrets/token", "fd_scale/__pycache__/token.pyc", "runs/a/environment.json", ".git/config"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(SECRET)
    return folder


def test_an_edit_rebuilds_the_layer_of_the_code_alone_and_layers_hold_no_secrets_and_no_caches(podman, tmp_path):
    context = checkout(tmp_path / "checkout")
    inspected = []
    for _ in range(2):
        image, _ = builder().build("thin", context, {"REVISION": "1234567"})
        inspected.append(json.loads(podman.run("image", "inspect", image).stdout)[0])
        with (context / "fd_scale/errors.py").open("a") as file:
            file.write("\n# edited\n")
    first, second = (image["RootFS"]["Layers"] for image in inspected)
    assert first[:-1] == second[:-1]
    assert first[-1] != second[-1]

    described = json.dumps(inspected[1])
    assert SECRET not in described
    assert inspected[1]["Labels"]["org.opencontainers.image.revision"] == "1234567"
    assert inspected[1]["User"] == f"{UID}:{UID}"
    storage = inspected[1]["GraphDriver"]["Data"]
    layers = [Path(storage["UpperDir"]), *map(Path, storage["LowerDir"].split(":"))][:-1]  # the last is the base
    assert len(layers) == len(second) - 1
    files = [(path, path.relative_to(layer)) for layer in layers for path in layer.rglob("*") if is_file(path)]
    assert any(name.name == "fd-scale" for _, name in files)
    assert not [path for path, _ in files if SECRET.encode() in path.read_bytes()]
    unwanted = ("ssh_host_*", "*.deb", "pkgcache.bin", "*_Packages*", ".git", ".env", "id_*", "metrics.jsonl")
    assert not [name for _, name in files for pattern in unwanted if name.match(pattern)]
    assert not [name for _, name in files if {".cache", "http-v2"} & set(name.parts)]
    assert not [name for path, name in files if name.name == "pip.conf" and path.read_text()]  # only for the build


def is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()
