"""What our manifests must agree on and no schema knows: numbers, names, exit codes, and what a Pod may do.

Each rule yields lines that name the place and the fix. The security rules are the "restricted" level of Kubernetes' Pod
Security Standards.
"""

from collections.abc import Iterator

from fd_scale.errors import BadInput
from fd_scale.redaction import is_secret
from tools.kubernetes import outcome
from tools.kubernetes.manifests import Manifest, of_kind
from tools.kubernetes.outcome import End
from tools.kubernetes.pods import address, environment, pods

SHORTEST_GRACE = 60  # seconds; the launcher alone grants its ranks 20
SAVED, RETRY, BAD_INPUT, BUG = 0, 75, 2, 1  # the exit contract


def broken(resources: list[Manifest]) -> list[str]:
    """What the rules say against resources that belong together."""
    found: list[str] = []
    for resource in resources:
        for job, nodes, policy in jobs(resource):
            place = f"{resource['kind']} {resource['metadata']['name']}"
            lines = [*_numbers(job, nodes), *_ends(job, policy), *_pod(job)]
            if resource["kind"] == "Job":
                lines += _names(job, of_kind(resources, "Service"))
            elif resource["kind"] == "JobSet":
                lines += _names_in_set(job, resource)
            found += [f"{place}: {line}" for line in lines]
    return found


def jobs(resource: Manifest) -> Iterator[tuple[Manifest, int, Manifest | None]]:
    """Each Job that a resource amounts to, its number of nodes, and the JobSet's specification if there is one."""
    spec = resource.get("spec") or {}
    if resource["kind"] == "Job":
        yield resource, spec.get("completions", 1), None
    elif resource["kind"] in ("JobSet", "TrainingRuntime", "ClusterTrainingRuntime"):
        whole = spec if resource["kind"] == "JobSet" else spec["template"]["spec"]
        for replicated in whole["replicatedJobs"]:
            name = f"{resource['metadata']['name']}-{replicated['name']}-0"
            job: Manifest = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}}
            job["spec"] = dict(replicated["template"]["spec"])
            if "mlPolicy" in spec:  # the Trainer fills both in
                job["spec"] |= dict.fromkeys(("completions", "parallelism"), spec["mlPolicy"].get("numNodes", 1))
            yield job, job["spec"].get("completions", 1), whole


def _numbers(job: Manifest, nodes: int) -> Iterator[str]:
    spec = job["spec"]
    if spec.get("completionMode") != "Indexed":
        yield "completionMode is not Indexed, so Pods have no rank of their node"
        return
    if spec.get("parallelism") != nodes:
        yield f"parallelism {spec.get('parallelism')} is not completions {nodes}; ranks wait for Pods that never start"
    said = environment(pods(job)[0]).get("PET_NNODES", str(nodes))  # absent: the Trainer sets it
    if said != str(nodes):
        yield f"PET_NNODES is {said} and completions {nodes}; set both"
    if "backoffLimitPerIndex" in spec and spec.get("maxFailedIndexes") != 0:
        yield "maxFailedIndexes is not 0: when one node has failed for good, the others would be retried all the same"
    if "backoffLimit" in spec and spec["backoffLimit"] != nodes - 1:
        yield f"backoffLimit is {spec['backoffLimit']}; one less than the {nodes} nodes waits for all of them to end"


def _ends(job: Manifest, policy: Manifest | None) -> Iterator[str]:
    """Tries the exit contract on the policies, with peers that lose a node before and after it is seen to end."""
    last = job["spec"].get("completions", 1) - 1
    lost = [End(index, RETRY) for index in range(last)]
    for code in (BAD_INPUT, BUG):
        for looks in ([[End(last, code)], lost], [lost, [End(last, code)]], [[*lost, End(last, code)]]):
            if _verdict(job, policy, looks) != "fails":
                yield f"exit code {code} is retried; it must fail the Job, also when its peers end with 75 before it"
                break
    if _verdict(job, policy, [[*lost, End(last, RETRY)]]) != "retries":
        yield "exit code 75 is not retried"
    for code in (RETRY, BUG, 137):
        if _verdict(job, policy, [lost, [End(last, code, disrupted=True)]]) != "retries":
            yield f"exit code {code} of a Pod that was disrupted is not retried"
    if _verdict(job, policy, [[End(0, SAVED)], [End(last, 137)]] if last else [[End(0, SAVED)]]) != "completes":
        yield "is not complete when rank 0 is; a node lost just then would be started alone"
    said = environment(pods(job)[0]).get("FD_SCALE_STOPPED_EXIT") if _indexed(job) else "75"
    if said != "75":
        yield "FD_SCALE_STOPPED_EXIT is not 75, so a run that is stopped before its end counts as done"


def _indexed(job: Manifest) -> bool:
    return job["spec"].get("completionMode") == "Indexed"


def _verdict(job: Manifest, policy: Manifest | None, looks: list[list[End]]) -> str:
    ended = outcome.of_job(job, looks)
    if ended.state == "Complete":
        return "completes"
    if ended.state == "Running":
        return "retries"
    return "retries" if policy is not None and outcome.of_set(policy, ended) != "FailJobSet" else "fails"


def _names(job: Manifest, services: list[Manifest]) -> Iterator[str]:
    if not _indexed(job):
        return
    first = pods(job)[0]
    subdomain, labels = first["spec"].get("subdomain"), first["metadata"]["labels"]
    named = [service for service in services if service["metadata"]["name"] == subdomain]
    if not named:
        yield f"subdomain {subdomain!r} is no Service here, so Pods have no names"
    for service in named:
        spec = service["spec"]
        if spec.get("clusterIP") != "None":
            yield f"Service {subdomain} is not headless (clusterIP: None)"
        if spec.get("publishNotReadyAddresses") is not True:
            yield f"Service {subdomain} hides Pods until they are ready (publishNotReadyAddresses: true)"
        if not (spec.get("selector") or {}).items() <= labels.items():
            yield f"Service {subdomain} selects {spec.get('selector')}, which the Pods are not labelled with"
    if (meeting := environment(first).get("PET_MASTER_ADDR")) != address(first):
        yield f"PET_MASTER_ADDR is {meeting}, and Pod 0 is {address(first)}"


def _names_in_set(job: Manifest, resource: Manifest) -> Iterator[str]:
    network = resource["spec"].get("network") or {}
    expected = f"{job['metadata']['name']}-0.{network.get('subdomain', resource['metadata']['name'])}"
    if _indexed(job) and (meeting := environment(pods(job)[0]).get("PET_MASTER_ADDR")) != expected:
        yield f"PET_MASTER_ADDR is {meeting}, and Pod 0 is {expected}"


def _pod(job: Manifest) -> Iterator[str]:
    spec = job["spec"]["template"]["spec"]
    if spec.get("restartPolicy") != "Never":
        yield "restartPolicy is not Never, which a podFailurePolicy needs"
    if spec.get("terminationGracePeriodSeconds", 30) < SHORTEST_GRACE:
        yield f"terminationGracePeriodSeconds is below {SHORTEST_GRACE}; it must cover a step and a save"
    yield from _restricted(spec)
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    for container in spec["containers"]:
        mounts = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", [])}
        for path, name in mounts.items():
            if name not in volumes:
                yield f"{path} is mounted from the volume {name}, which there is not"
        if volumes.get(mounts.get("/dev/shm", ""), {}).get("emptyDir", {}).get("medium") != "Memory":
            yield "/dev/shm is not an emptyDir of medium Memory; loader workers need more than 64 MiB"
        resources = container.get("resources", {})
        if not {"cpu", "memory"} <= resources.get("requests", {}).keys() or "memory" not in resources.get("limits", {}):
            yield f"container {container['name']} does not request cpu and memory with a limit of memory"
        for variable in container.get("env", []):
            if is_secret(variable["name"]) and "value" in variable:
                yield f"{variable['name']} is in the manifest; take it from a Secret (valueFrom.secretKeyRef)"


def _restricted(spec: Manifest) -> Iterator[str]:
    whole = spec.get("securityContext", {})
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield f"{key} is not allowed at the restricted level"
    if whole.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "securityContext.seccompProfile.type is not RuntimeDefault"
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        own = container.get("securityContext", {})
        capabilities = own.get("capabilities", {})
        if not {**whole, **own}.get("runAsNonRoot") or {**whole, **own}.get("runAsUser") == 0:
            yield f"container {container['name']} may run as root (runAsNonRoot: true, a runAsUser above 0)"
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            yield f"container {container['name']} may gain privileges (allowPrivilegeEscalation: false)"
        if capabilities.get("drop") != ["ALL"] or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
            yield f"container {container['name']} has capabilities (drop: [ALL], and add none)"


def check_indexed(resources: list[Manifest]) -> Manifest:
    """The only Job of some resources.

    Raises:
        BadInput: there is none, or there are several.
    """
    found = of_kind(resources, "Job")
    if len(found) != 1:
        raise BadInput(f"one Job is expected, and there are {len(found)}")
    return found[0]
