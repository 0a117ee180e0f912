"""The Pods that the Job controller makes of an Indexed Job, and what podman needs to run them in a cluster's place.

Written after Kubernetes' Job controller (pkg/controller/job), which is not run here. Of its Pods, only the last five
characters of the names and the Job's unique id are others, because those are random there.
"""

import copy
import hashlib
import re
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path

from fd_scale.errors import BadInput
from tools.kubernetes.manifests import Manifest

PREFIX = "batch.kubernetes.io/"
INDEX = PREFIX + "job-completion-index"
ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # of generated names
LONGEST_PREFIX = 58  # of a generated name, which has five more characters


def pods(job: Manifest) -> list[Manifest]:
    """The first Pod of each index.

    Raises:
        BadInput: the Job is not Indexed, or does not say how many completions it has.
    """
    spec = job.get("spec") or {}
    if spec.get("completionMode") != "Indexed" or not isinstance(spec.get("completions"), int):
        raise BadInput(f"Job {job['metadata']['name']} has no completionMode: Indexed with completions")
    return [pod(job, index) for index in range(spec["completions"])]


def pod(job: Manifest, index: int, failures: int = 0) -> Manifest:
    """The Pod of an index; `failures`: how many before it counted against the limit for this index."""
    name = job["metadata"]["name"]
    uid = str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{job['metadata'].get('namespace', 'default')}/{name}"))
    template = copy.deepcopy(job["spec"]["template"])
    metadata, spec = template.setdefault("metadata", {}), template["spec"]
    own = {"controller-uid": uid, "job-name": name}
    metadata["labels"] = {
        **metadata.get("labels", {}),
        **own,
        **{PREFIX + key: value for key, value in own.items()},
        INDEX: str(index),
    }
    metadata["annotations"] = {**metadata.get("annotations", {}), INDEX: str(index)}
    if "backoffLimitPerIndex" in job["spec"]:
        metadata["annotations"][PREFIX + "job-index-failure-count"] = str(failures)
    metadata["generateName"] = _prefix(name, index)
    metadata["name"] = metadata["generateName"] + _suffix(f"{uid}/{index}/{failures}")
    metadata["finalizers"] = [PREFIX + "job-tracking"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid}
    metadata["ownerReferences"] = [{**owner, "controller": True, "blockOwnerDeletion": True}]
    spec["hostname"] = f"{name}-{index}"
    source = {"fieldRef": {"fieldPath": f"metadata.labels['{INDEX}']"}}
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        variables = container.setdefault("env", [])
        if all(variable["name"] != "JOB_COMPLETION_INDEX" for variable in variables):
            variables.append({"name": "JOB_COMPLETION_INDEX", "valueFrom": source})
    return {"apiVersion": "v1", "kind": "Pod", **template}


def for_podman(pod: Manifest, claims: Mapping[str, Path], scratch: Path) -> Manifest:
    """The Pod as `podman kube play` (4.3) understands it: what a kubelet resolves is resolved, and ports are left out,
    which podman would open on the host.

    Args:
        claims: the folder in place of each PersistentVolumeClaim.
        scratch: where an emptyDir becomes a folder, POD/VOLUME, that everyone may write to, as a kubelet makes it;
            podman's own is root's. It is no tmpfs, and has no limit of its size.

    Raises:
        BadInput: a claim has no folder.
    """
    pod = copy.deepcopy(pod)
    spec = pod["spec"]
    for volume in spec.get("volumes", []):
        if claim := volume.pop("persistentVolumeClaim", None):
            if claim["claimName"] not in claims:
                raise BadInput(f"no folder is given for the claim {claim['claimName']} (--claim NAME=FOLDER)")
            volume["hostPath"] = {"path": str(claims[claim["claimName"]].absolute()), "type": "Directory"}
        elif volume.pop("emptyDir", None) is not None:
            folder = scratch.absolute() / pod["metadata"]["name"] / volume["name"]
            volume["hostPath"] = {"path": str(folder), "type": "Directory"}
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        container.pop("ports", None)
        known: dict[str, str] = {}
        for variable in container.get("env", []):
            if (path := _field(variable)) is not None:
                variable["value"] = _at(pod, path)
                del variable["valueFrom"]
            if "value" in variable:
                variable["value"] = _expanded(variable["value"], known)
                known[variable["name"]] = variable["value"]
    return pod


def scratch_folders(pods: Iterable[Manifest], scratch: Path) -> list[Path]:
    """The folders that the emptyDirs of Pods became in `for_podman`."""
    paths = [Path(volume["hostPath"]["path"]) for pod in pods for volume in pod["spec"].get("volumes", [])]
    return [path for path in paths if path.is_relative_to(scratch.absolute())]


def address(pod: Manifest) -> str:
    """The name under which the headless Service publishes a Pod, within the namespace."""
    return f"{pod['spec']['hostname']}.{pod['spec'].get('subdomain', '')}"


def environment(pod: Manifest) -> dict[str, str]:
    """The variables of the first container, as its process sees them; without those of Secrets and ConfigMaps."""
    without = {**pod, "spec": {**pod["spec"], "volumes": []}}
    resolved = for_podman(without, {}, Path())["spec"]["containers"][0].get("env", [])
    return {variable["name"]: variable["value"] for variable in resolved if "value" in variable}


def _prefix(name: str, index: int) -> str:
    end = f"-{index}-"
    return name[: LONGEST_PREFIX - len(end)] + end


def _suffix(of: str) -> str:
    return "".join(ALPHABET[byte % len(ALPHABET)] for byte in hashlib.sha256(of.encode()).digest()[:5])


def _field(variable: Manifest) -> str | None:
    return variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")


def _at(pod: Manifest, path: str) -> str:
    if found := re.fullmatch(r"metadata\.(labels|annotations)\['([^']+)'\]", path):
        return pod["metadata"].get(found[1], {}).get(found[2], "")
    value: object = pod
    for key in path.split("."):
        value = value.get(key, "") if isinstance(value, dict) else ""
    return str(value)


def _expanded(text: str, known: Mapping[str, str]) -> str:
    """`$(NAME)` of variables above; `$$` is a dollar, and unknown names stay as they are."""
    return re.sub(r"\$\$|\$\((\w+)\)", lambda match: "$" if match[0] == "$$" else known.get(match[1], match[0]), text)
