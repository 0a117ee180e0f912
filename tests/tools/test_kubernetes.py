"""The Kubernetes files: what each exit code does under their policies, and Pods as the Job controller makes them."""

import copy
from pathlib import Path

import pytest

from fd_scale.config import load_config
from fd_scale.errors import BadInput
from fd_scale.tasks.distillation import DistillConfig
from tools.kubernetes import manifests, outcome, rules
from tools.kubernetes.outcome import End
from tools.kubernetes.pods import environment, for_podman, pod, pods, scratch_folders

HERE = Path(__file__).parents[2] / "docker/kubernetes"
OVERLAYS = {"cpu-2": (2, 1), "cpu-8": (8, 1), "gpu-2": (2, 8), "gpu-8": (8, 8)}  # nodes, and ranks on each


@pytest.fixture(scope="module")
def rendered():
    """What kustomize makes of each overlay."""
    return {name: manifests.read(HERE / "overlays" / name) for name in OVERLAYS}


@pytest.fixture
def resources(rendered):
    return copy.deepcopy(rendered["cpu-2"])


@pytest.fixture
def job(resources):
    return rules.check_indexed(resources)


@pytest.fixture(scope="module")
def sets():
    """The Job in a JobSet, and the JobSet: ours, and the one that the Trainer makes."""
    resources = manifests.read(HERE / "jobset.yaml") + manifests.read(HERE / "trainjob.yaml")
    return [(job, policy) for resource in resources for job, _, policy in rules.jobs(resource)]


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_agrees_with_itself_and_sets_the_world(rendered, name):
    assert rules.broken(rendered[name]) == []
    nodes, ranks = OVERLAYS[name]
    made = pods(rules.check_indexed(rendered[name]))
    assert len(made) == nodes
    for index, each in enumerate(made):
        seen = environment(each)
        assert seen["JOB_COMPLETION_INDEX"] == str(index)
        assert (seen["PET_NNODES"], seen["PET_NPROC_PER_NODE"]) == (str(nodes), str(ranks))
        assert (seen["PET_MASTER_ADDR"], seen["PET_MASTER_PORT"]) == ("fd-scale-0.fd-scale", "29500")
        gpus = each["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu")
        assert gpus == (str(ranks) if "gpu" in name else None)


def test_other_files_agree_with_themselves():
    assert rules.broken(manifests.read(HERE / "jobset.yaml")) == []
    assert rules.broken(manifests.read(HERE / "trainjob.yaml")) == []


def test_a_renamed_job_meets_at_its_own_first_pod(resources, job):
    job["metadata"]["name"] = "swin-giant"
    assert rules.broken(resources) == []
    assert environment(pod(job, 1))["PET_MASTER_ADDR"] == "swin-giant-0.fd-scale"


def test_the_job_and_the_sets_have_the_same_pods_but_for_names(job, sets):
    """A change of one file that was forgotten in the others."""
    wanted = copy.deepcopy(job["spec"]["template"]["spec"])
    for inside, _ in sets:
        found = copy.deepcopy(inside["spec"]["template"]["spec"])
        for spec in (found, wanted):
            spec.pop("subdomain", None)  # a JobSet fills it in
            for each in spec["containers"]:
                for key in ("name", "env", "args", "ports"):
                    each.pop(key, None)
        assert found == wanted


def test_what_the_pods_run_is_a_command_with_settings_that_exist(job, sets):
    trained = next(each for each in manifests.read(HERE / "trainjob.yaml") if each["kind"] == "TrainJob")
    containers = [each["spec"]["template"]["spec"]["containers"][0] for each in (job, *(inside for inside, _ in sets))]
    given = [container["args"] for container in containers if "args" in container] + [
        trained["spec"]["trainer"]["args"]
    ]
    assert len(given) == 3
    for words in given:
        assert words[:3] == ["launch", "--", "distill"]
        load_config(DistillConfig, words[3], words[4:])


PLANTED = {
    "completions: 3": "parallelism 2 is not completions 3",
    "parallelism: 1": "parallelism 1 is not completions 2",
    "maxFailedIndexes: 1": "maxFailedIndexes",
    "completionMode: NonIndexed": "not Indexed",
    "successPolicy: null": "not complete when rank 0 is",
    "podFailurePolicy.rules.0.onExitCodes.values: [3]": "exit code 2 is retried",
    "podFailurePolicy.rules.2.action: Count": "exit code 1 is retried",
    "podFailurePolicy.rules.2.onExitCodes.values: [1, 75]": "exit code 75 is not retried",
    "podFailurePolicy.rules.1.action: FailJob": "disrupted is not retried",
    "template.spec.restartPolicy: OnFailure": "restartPolicy",
    "template.spec.terminationGracePeriodSeconds: 30": "terminationGracePeriodSeconds",
    "template.spec.subdomain: other": "no Service here",
    "template.metadata.labels: {}": "not labelled with",
    "template.spec.hostNetwork: true": "hostNetwork",
    "template.spec.securityContext.runAsNonRoot: false": "may run as root",
    "template.spec.securityContext.seccompProfile: {}": "seccompProfile",
    "template.spec.containers.0.securityContext.allowPrivilegeEscalation: true": "may gain privileges",
    "template.spec.containers.0.securityContext.capabilities.add: [IPC_LOCK]": "has capabilities",
    "template.spec.containers.0.resources.limits: {}": "limit of memory",
    "template.spec.volumes.2.emptyDir: {}": "/dev/shm is not",
    "template.spec.volumes.0.name: other": "/runs is mounted from the volume runs",
    "template.spec.containers.0.env.0: {name: PET_NNODES, value: '4'}": "PET_NNODES is 4 and completions 2",
    "template.spec.containers.0.env.3.value: elsewhere": "PET_MASTER_ADDR is elsewhere",
    "template.spec.containers.0.env.5.value: '0'": "FD_SCALE_STOPPED_EXIT",
    "template.spec.containers.0.env.5: {name: AWS_SECRET_ACCESS_KEY, value: x}": "KEY is in the manifest",
}


@pytest.mark.parametrize("fault", PLANTED)
def test_rules_find_a_planted_fault(resources, job, fault):
    path, _, value = fault.partition(": ")
    plant(job["spec"], path.split("."), manifests.yaml.safe_load(value))
    assert any(PLANTED[fault] in line for line in rules.broken(resources))


@pytest.mark.parametrize("fault", ["clusterIP: null", "publishNotReadyAddresses: false", "selector: {a: b}"])
def test_rules_find_a_service_that_does_not_name_the_pods(resources, fault):
    path, _, value = fault.partition(": ")
    plant(resources[0]["spec"], [path], manifests.yaml.safe_load(value))
    assert any("Service fd-scale" in line for line in rules.broken(resources))


# What the peers of a lost node do, and how the controllers may come to see it.
PEERS = [End(0, 75)]
ORDERS = {
    "first": lambda end: [[end], PEERS],
    "last": lambda end: [PEERS, [end]],
    "at once": lambda end: [[*PEERS, end]],
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("code", [1, 2])
def test_bad_input_and_bugs_fail_the_run_whoever_is_seen_first(job, sets, order, code):
    looks = ORDERS[order](End(1, code))
    assert outcome.of_job(job, looks).reason == "PodFailurePolicy"
    for inside, policy in sets:
        assert outcome.of_set(policy, outcome.of_job(inside, looks)) == "FailJobSet"


@pytest.mark.parametrize("order", ORDERS)
def test_a_preempted_pod_costs_nothing_and_is_run_again(job, sets, order):
    looks = ORDERS[order](End(1, 75, disrupted=True))
    after = outcome.of_job(job, looks)
    assert (after.state, after.counted[1], after.counted[0]) == ("Running", 0, 1)
    for inside, policy in sets:
        assert outcome.of_set(policy, outcome.of_job(inside, looks)) == "RestartJobSetAndIgnoreMaxRestarts"


@pytest.mark.parametrize("code", [75, 137, 143])
def test_a_lost_node_is_retried_and_counted_once(job, sets, code):
    looks = [PEERS, [End(1, code)]]
    after = outcome.of_job(job, looks)
    assert (after.state, after.counted) == ("Running", {0: 1, 1: 1})
    for inside, policy in sets:
        ended = outcome.of_job(inside, looks)
        assert (ended.reason, outcome.of_set(policy, ended)) == ("BackoffLimitExceeded", "RestartJobSet")


def test_retries_end_after_a_hundred_whatever_the_number_of_nodes(rendered):
    for name in ("cpu-2", "cpu-8"):
        job = rules.check_indexed(rendered[name])
        incident = [End(index, 75) for index in range(job["spec"]["completions"])]
        assert outcome.of_job(job, [incident] * 100).state == "Running"
        assert outcome.of_job(job, [incident] * 101).state == "Failed"


def test_a_run_is_complete_when_rank_0_is_though_another_node_is_lost_then(job):
    assert outcome.of_job(job, [[End(0, 0)], [End(1, 137)]]).state == "Complete"
    assert outcome.of_job(job, [[End(1, 0)]]).state == "Running"


def test_a_pod_is_what_the_job_controller_makes_of_its_index(job):
    made = pod(job, 1, failures=2)
    metadata, spec = made["metadata"], made["spec"]
    assert metadata["name"].startswith("fd-scale-1-")
    assert metadata["generateName"] == "fd-scale-1-"
    assert (spec["hostname"], spec["subdomain"]) == ("fd-scale-1", "fd-scale")
    assert metadata["labels"]["batch.kubernetes.io/job-name"] == metadata["labels"]["job-name"] == "fd-scale"
    assert metadata["labels"]["app.kubernetes.io/name"] == "fd-scale"
    assert metadata["labels"]["batch.kubernetes.io/job-completion-index"] == "1"
    assert metadata["annotations"]["batch.kubernetes.io/job-completion-index"] == "1"
    assert metadata["annotations"]["batch.kubernetes.io/job-index-failure-count"] == "2"
    assert metadata["finalizers"] == ["batch.kubernetes.io/job-tracking"]
    assert metadata["ownerReferences"][0]["uid"] == metadata["labels"]["batch.kubernetes.io/controller-uid"]
    assert spec["containers"][0]["env"][-1]["name"] == "JOB_COMPLETION_INDEX"
    assert pod(job, 1)["metadata"]["name"] != metadata["name"]
    assert "name" not in job["spec"]["template"]["metadata"]  # the Job stays as it is


def test_a_long_name_is_cut_as_the_controller_cuts_it(job):
    job["metadata"]["name"] = "x" * 60
    assert len(pod(job, 10)["metadata"]["name"]) == 63


def test_podman_gets_folders_for_claims_and_resolved_variables(job, tmp_path):
    claims = {"fd-scale-runs": tmp_path / "runs", "fd-scale-data": tmp_path / "data"}
    made = for_podman(pod(job, 1), claims, tmp_path / "scratch")
    assert made["spec"]["volumes"][0]["hostPath"]["path"] == str(tmp_path / "runs")
    assert {path.name for path in scratch_folders([made], tmp_path / "scratch")} == {"shm", "tmp"}
    assert all("valueFrom" not in variable for variable in made["spec"]["containers"][0]["env"])
    with pytest.raises(BadInput, match="fd-scale-data"):
        for_podman(pod(job, 1), {"fd-scale-runs": tmp_path}, tmp_path)


@pytest.mark.parametrize("text", ["a: [", "a: 1", "- a"])
def test_what_is_no_manifest_is_refused(tmp_path, text):
    path = tmp_path / "manifest.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=r"manifest\.yaml"):
        manifests.read(path)


def test_a_folder_without_a_kustomization_is_refused(tmp_path):
    with pytest.raises(BadInput, match="kustomize"):
        manifests.read(tmp_path)


def plant(where, path, value):
    """Sets a value deep inside of lists and dictionaries; null removes it."""
    *way, last = [int(step) if step.isdigit() else step for step in path]
    for step in way:
        where = where[step]
    if value is None:
        del where[last]
    else:
        where[last] = value
