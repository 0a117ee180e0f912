"""The Kubernetes files against published schemas, and two Pods of the Indexed Job run by podman in a cluster's place.

Pods are made as the Job controller would make them (`tools.kubernetes.pods`). The controller itself is not run; what it
would do with the exit codes that are seen here is `tools.kubernetes.outcome`'s reading of it.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from cluster.hosts import wait_until
from cluster.images import REPOSITORY, Podman, builder, thin_image, why_not
from docs.pages import blocks
from support.helpers import tiny_arguments
from tasks.running import losses

from tools.kubernetes import manifests, outcome, rules, schemas
from tools.kubernetes.outcome import End
from tools.kubernetes.pods import address, for_podman, pod, scratch_folders

HERE = REPOSITORY / "docker/kubernetes"
PAGE = REPOSITORY / "docs/cluster/kubernetes.md"
SOURCES = [*sorted((HERE / "overlays").iterdir()), *sorted(HERE.glob("*.yaml"))]
STEPS = 24
NETWORK = "pods"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_manifest_fits_the_schemas(path):
    assert [line for resource in manifests.read(path) for line in schemas.problems(resource)] == []


@pytest.mark.parametrize("part", ["rdma", "secrets"])
def test_optional_parts_fit_the_schemas(tmp_path, part):
    resources = manifests.read(overlay(tmp_path, "gpu-8", components=[f"parts/{part}"]))
    assert [line for resource in resources for line in schemas.problems(resource)] == []
    broken = rules.broken(resources)
    assert [line for line in broken if "capabilities" not in line] == []
    assert bool(broken) == (part == "rdma")  # which its header says


JOB, SET, RUNTIME, TRAIN = "overlays/gpu-8", "jobset.yaml", "trainjob.yaml", "trainjob.yaml"
POLICY = "podFailurePolicy:\n"
PLANTED = {  # file, kind, what is replaced in it by what, and the words that the check must say
    "a misspelt key": (JOB, "Job", "completionMode:", "completionmode:", "completionmode"),
    "a number as text": (JOB, "Job", "completions: 8", "completions: eight", "completions"),
    "a number in the environment": (JOB, "Job", "value: '8'", "value: 8", "env"),
    "an action that is not": (JOB, "Job", "action: Ignore", "action: Skip", "podFailurePolicy"),
    "a key in another place": (JOB, "Job", "restartPolicy: Never", "backoffLimit: 3", "backoffLimit"),
    "a Service's misspelt key": (JOB, "Service", "publishNotReady", "publishUnready", "publishUnready"),
    "JobSet, misspelt": (SET, "JobSet", "maxRestarts:", "maxRestart:", "maxRestart: is no key"),
    "JobSet, an action that is not": (SET, "JobSet", "FailJobSet", "FailSet", "'FailSet' is none of"),
    "JobSet, an operator that is not": (SET, "JobSet", "operator: All", "operator: Every", "'Every' is none of"),
    "JobSet, its Job's key": (SET, "JobSet", "backoffLimit:", "backofLimit:", "backofLimit"),
    "JobSet, its Pod's key": (SET, "JobSet", "runAsNonRoot:", "runAsNoRoot:", "runAsNoRoot"),
    "JobSet, a quantity": (SET, "JobSet", "sizeLimit: 4Gi", "sizeLimit: [4]", "sizeLimit"),
    "TrainJob, a word for a number": (TRAIN, "TrainJob", "numProcPerNode: 1", "numProcPerNode: auto", "numProcPerNode"),
    "TrainJob, misspelt": (TRAIN, "TrainJob", "numProcPerNode:", "nprocPerNode:", "nprocPerNode: is no key"),
    "TrainJob, a Python name": (TRAIN, "TrainJob", "runtimeRef:", "runtime_ref:", "runtime_ref: is no key"),
    "TrainingRuntime, misspelt": (RUNTIME, "TrainingRuntime", "numNodes:", "nnodes:", "mlPolicy.nnodes: is no key"),
    "TrainingRuntime, an action": (RUNTIME, "TrainingRuntime", "action: RestartJobSet\n", "action: Again\n", "'Again'"),
    "TrainingRuntime, its Pod": (RUNTIME, "TrainingRuntime", "medium: Memory", "medum: Memory", "medum"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_the_check_finds_a_planted_fault(tmp_path, fault):
    source, kind, old, new, said = PLANTED[fault]
    resource = next(each for each in manifests.read(HERE / source) if each["kind"] == kind)
    text = manifests.dump([resource])
    assert old in text
    faulty = tmp_path / "faulty.yaml"
    faulty.write_text(text.replace(old, new, 1))
    lines = schemas.problems(manifests.read(faulty)[0])
    assert any(said in line for line in lines), lines


def test_the_check_from_a_shell_keeps_the_exit_contract(tmp_path):
    def check(*paths: Path) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "tools.kubernetes", "check", *map(str, paths)]
        return subprocess.run(words, capture_output=True, text=True, cwd=REPOSITORY)

    assert check(HERE / "overlays/cpu-2", HERE / "jobset.yaml").returncode == 0
    faulty = tmp_path / "jobset.yaml"
    faulty.write_text((HERE / "jobset.yaml").read_text().replace("maxRestarts:", "maxRestart:"))
    done = check(faulty)
    assert done.returncode == 2
    assert "maxRestart" in done.stdout
    assert done.stderr.startswith("fd-scale: 1 problems")


def test_what_the_page_shows_runs(tmp_path):
    text = PAGE.read_text()
    for block in blocks(PAGE):
        commands = block.commands.replace("/tmp/rehearsal", str(tmp_path))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["sh", "-ec", commands], capture_output=True, text=True, cwd=REPOSITORY, env={**os.environ, "PATH": path}
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert manifests.read(tmp_path / "pod-1.yaml")[0]["spec"]["hostname"] == "fd-scale-1"

    own = tmp_path / "mine"
    own.mkdir()
    shown = text.split("```yaml\n# my-run/kustomization.yaml\n")[1].split("```")[0]
    up = os.path.relpath(REPOSITORY.resolve(), own.resolve())
    (own / "kustomization.yaml").write_text(shown.replace("../docker", f"{up}/docker"))
    resources = manifests.read(own)
    assert rules.broken(resources) == []
    job = rules.check_indexed(resources)
    assert job["metadata"]["name"] == "clip-vit-b16"
    assert job["spec"]["template"]["spec"]["containers"][0]["image"] == "my.registry/fd-scale:2024.1"


# ---------------------------------------------------------------- Pods that run


class Nodes:
    """Two Pods of the Job of an overlay, whose claims are folders."""

    def __init__(self, podman: Podman, folder: Path, arguments: list[str]):
        self.podman, self.folder, self.failures = podman, folder, 0
        folder.mkdir(parents=True)
        self.runs, self.data = folder / "runs", folder / "data"
        self.runs.mkdir()
        self.runs.chmod(0o777)  # as a volume is with fsGroup
        self.job = rules.check_indexed(manifests.read(overlay(folder / "overlay", "cpu-2", arguments)))

    def start(self, index: int, data: Path | None = None) -> str:
        """As a kubelet would; returns the name of the container."""
        claims = {"fd-scale-runs": self.runs, "fd-scale-data": data or self.data}
        scratch = self.folder / "scratch"
        made = for_podman(pod(self.job, index, self.failures), claims, scratch)
        for folder in scratch_folders([made], scratch):
            folder.mkdir(parents=True)
            folder.chmod(0o777)
        manifest = self.folder / f"{made['metadata']['name']}.yaml"
        manifest.write_text(manifests.dump([made]))
        # The Service's part: a name for the Pod, whether it is ready or not.
        self.podman.run("kube", "play", "--network", f"{NETWORK}:alias={address(made)}", manifest)
        return f"{made['metadata']['name']}-fd-scale"

    def ends(self, containers: list[str]) -> list[int]:
        """Waits for their ends; the Pods are then removed, as the controller has no use for them."""
        codes = [self.podman.exit_code(container) for container in containers]
        self.said = ["".join(_logs(self.podman, container)) for container in containers]
        for container in containers:
            self.podman.run("pod", "rm", "--force", container.removesuffix("-fd-scale"))
        self.failures += 1
        return codes

    def run(self) -> Path:
        return self.runs / "run"

    def saved(self) -> list[str]:
        """The newest checkpoint, as a list of its name; empty where there is none."""
        return sorted(path.name for path in (self.run() / "checkpoints").glob("step_????????"))[-1:]


def _logs(podman: Podman, container: str) -> tuple[str, str]:
    done = podman.run("logs", container)
    return done.stdout, done.stderr


def overlay(folder: Path, base: str, arguments: list[str] | None = None, components: list[str] = ()) -> Path:
    """A user's overlay beside their other files; with arguments, of the thin image."""
    folder.mkdir(parents=True, exist_ok=True)
    up = os.path.relpath(HERE.resolve(), folder.resolve())
    kustomization = {"resources": [f"{up}/overlays/{base}"], "components": [f"{up}/{part}" for part in components]}
    if arguments is not None:
        packages = {"path": sysconfig.get_paths()["purelib"], "type": "Directory"}
        container = "/spec/template/spec/containers/0"
        edits = {
            f"{container}/image": thin_image(),
            f"{container}/args": arguments,
            f"{container}/volumeMounts/-": {"name": "packages", "mountPath": "/opt/packages", "readOnly": True},
            "/spec/template/spec/volumes/-": {"name": "packages", "hostPath": packages},
        }
        patch = [{"op": "add", "path": path, "value": value} for path, value in edits.items()]
        kustomization["patches"] = [{"target": {"kind": "Job"}, "patch": json.dumps(patch)}]
    (folder / "kustomization.yaml").write_text(json.dumps(kustomization))
    return folder


@pytest.fixture(scope="module")
def podman():
    if reason := why_not():
        pytest.skip(reason)
    with Podman(builder()) as podman:
        podman.run("network", "create", NETWORK)
        yield podman


@pytest.fixture
def nodes(podman, shards, teacher_file, tmp_path):
    def make(name: str, *settings: str) -> Nodes:
        tiny = tiny_arguments(Path("/data/shards"), Path("/data/teacher.safetensors"), Path("/runs/run"))
        tiny[1] = "configs/demo/swin_v2.yaml"  # the image has its own
        tiny += [f"schedule.steps={STEPS}", "run.keep.last=2", *settings]
        made = Nodes(podman, tmp_path / name, ["launch", "--", *tiny])
        shutil.copytree(shards, made.data / "shards")
        shutil.copy(teacher_file, made.data / "teacher.safetensors")
        (made.data / "teacher.safetensors").chmod(0o644)  # the container's user is another
        return made

    yield make
    podman.run("pod", "rm", "--all", "--force", "--time", "0", check=False)  # of a test that failed


def test_two_pods_make_one_run_that_outlives_a_preempted_and_a_killed_pod_with_the_same_losses(nodes):
    whole = nodes("whole")
    second = whole.start(1)  # waits for the first, whose name does not exist yet
    assert whole.ends([whole.start(0), second]) == [0, 0], whole.said

    stopped = nodes("stopped")
    first, second = stopped.start(0), stopped.start(1)
    wait_until(stopped.saved, 600)
    stopped.podman.run("stop", "--time", "120", second)  # what preemption does; podman 4.3 takes no grace from the Pod
    codes = stopped.ends([first, second])
    assert codes == [75, 75], stopped.said
    done = losses(stopped.run())
    assert 0 < len(done) < STEPS
    after = outcome.of_job(stopped.job, [[End(0, codes[0]), End(1, codes[1], disrupted=True)]])
    assert (after.state, after.counted) == ("Running", {0: 1})

    before = stopped.saved()
    first, second = stopped.start(0), stopped.start(1)
    wait_until(lambda: stopped.saved() > before, 600)
    stopped.podman.run("kill", "--signal", "KILL", second)  # what losing a node does
    codes = stopped.ends([first, second])
    assert codes == [75, 137], stopped.said
    assert "lost its peers" in stopped.said[0]
    after = outcome.of_job(stopped.job, [[End(0, codes[0])], [End(1, codes[1])]])
    assert (after.state, after.counted) == ("Running", {0: 1, 1: 1})

    assert stopped.ends([stopped.start(0), stopped.start(1)]) == [0, 0], stopped.said
    assert losses(stopped.run()) == losses(whole.run())
    assert outcome.of_job(stopped.job, [[End(0, 0), End(1, 0)]]).state == "Complete"


def test_bad_input_ends_both_pods_with_2_and_one_line(nodes):
    bad = nodes("bad", "train.global_batch=7")
    assert bad.ends([bad.start(0), bad.start(1)]) == [2, 2], bad.said
    for said in bad.said:
        assert "fd-scale: " in said
        assert "7" in said
        assert "Traceback" not in said


def test_data_that_only_one_node_lacks_ends_both_with_2_and_fails_the_job(nodes, tmp_path):
    one = nodes("one")
    empty = tmp_path / "empty"
    empty.mkdir()
    first, second = one.start(0), one.start(1, data=empty)
    codes = one.ends([first, second])
    assert codes == [2, 2], one.said
    assert "/data/shards holds no manifest.json" in one.said[1]
    after = outcome.of_job(one.job, [[End(index, code) for index, code in enumerate(codes)]])
    assert (after.state, after.reason) == ("Failed", "PodFailurePolicy")
