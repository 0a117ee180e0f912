"""Holding manifests to the published schemas; unknown keys are errors, because an API server would drop them silently.

- Kubernetes' own kinds: `kubernetes-validate`, strictly, once for each version from OLDEST on.
- TrainJob, TrainingRuntime and JobSet: the types of `kubeflow-trainer-api`, which say nothing of unknown keys and of
  the values of words; both are checked here. Jobs within them are checked as Kubernetes' own.

Leaves out what an API server checks beyond types (immutable fields, CEL rules, admission); `rules` has the part of it
that we rely on.
"""

import typing
from collections.abc import Iterator

import kubernetes_validate
from kubeflow_trainer_api import models
from pydantic import BaseModel, ValidationError

from tools.kubernetes.manifests import Manifest

OLDEST = (1, 31)  # the first with a success policy for Jobs that is not behind a feature gate
JOBSET = "jobset.x-k8s.io/v1alpha2"
TRAINER = "trainer.kubeflow.org/v1alpha1"
TYPES: dict[tuple[str, str], type[BaseModel]] = {
    (TRAINER, "TrainJob"): models.TrainerV1alpha1TrainJob,
    (TRAINER, "TrainingRuntime"): models.TrainerV1alpha1TrainingRuntime,
    (TRAINER, "ClusterTrainingRuntime"): models.TrainerV1alpha1ClusterTrainingRuntime,
    (JOBSET, "JobSet"): models.JobsetV1alpha2JobSet,
}
RESTARTS = ("RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts", "RestartJob", "RestartJobAndIgnoreMaxRestarts")
JOB_WORDS = {  # Kubernetes' schemas ask for some word; these are the ones that the API server takes
    ("completionMode",): ("NonIndexed", "Indexed"),
    ("podReplacementPolicy",): ("TerminatingOrFailed", "Failed"),
    ("podFailurePolicy", "rules", "action"): ("FailJob", "FailIndex", "Ignore", "Count"),
    ("podFailurePolicy", "rules", "onExitCodes", "operator"): ("In", "NotIn"),
    ("podFailurePolicy", "rules", "onPodConditions", "status"): ("True", "False", "Unknown"),
    ("template", "spec", "restartPolicy"): ("OnFailure", "Never"),
}
SET_WORDS = {  # what JobSet's own definition allows, and its Python types do not ask for
    ("failurePolicy", "rules", "action"): ("FailJobSet", *RESTARTS),
    ("failurePolicy", "restartStrategy"): ("Recreate", "BlockingRecreate", "InPlaceRestart"),
    ("successPolicy", "operator"): ("All", "Any"),
    ("startupPolicy", "startupPolicyOrder"): ("AnyOrder", "InOrder"),
}


def versions() -> list[str]:
    """Those of Kubernetes that are checked, oldest first."""
    known = dict.fromkeys(".".join(version.split(".")[:2]) for version in kubernetes_validate.utils.all_versions())
    return [version for version in known if tuple(map(int, version.split("."))) >= OLDEST]


def problems(resource: Manifest) -> list[str]:
    """What is wrong with a resource: a line each, with the place in it. The first error of each check only."""
    kind = (resource["apiVersion"], resource["kind"])
    if kind not in TYPES:
        return _core(resource)
    found = _typed(resource, TYPES[kind])
    for place, template in _jobs_within(resource):
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job", **template.get("metadata", {})}}
        found += [f"{place}: {line}" for line in _core({**job, "spec": template.get("spec")})]
    return found + _other_words(_set_of(resource), SET_WORDS)


def _other_words(spec: Manifest, words: dict[tuple[str, ...], tuple[str, ...]]) -> list[str]:
    return [
        f"{'.'.join(path)}: {value!r} is none of {', '.join(allowed)}"
        for path, allowed in words.items()
        for value in _values(spec, path)
        if value not in allowed
    ]


def _core(resource: Manifest) -> list[str]:
    found: dict[str, list[str]] = {}
    for version in versions():
        try:
            kubernetes_validate.validate(resource, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            place = ".".join(map(str, error.path)) or resource["kind"]
            found.setdefault(f"{place}: {error.message}", []).append(version)
        except kubernetes_validate.SchemaNotFoundError as error:
            found.setdefault(error.message.split(" for kubernetes")[0], []).append(version)
    words = _other_words(resource.get("spec") or {}, JOB_WORDS) if resource["kind"] == "Job" else []
    return words + [f"{line} (Kubernetes {', '.join(seen)})" for line, seen in found.items()]


def _typed(resource: Manifest, kind: type[BaseModel]) -> list[str]:
    unknown = [f"{place}: is no key of {kind.__name__}" for place in _unknown(resource, kind, ())]
    try:
        kind.from_dict(resource)  # type: ignore[attr-defined]  # which `model_validate` is not: it knows no quantities
    except ValidationError as error:
        return unknown + [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
    except (ValueError, TypeError, AttributeError, LookupError) as error:  # generated code, at another shape of a value
        return [*unknown, f"{resource['kind']}: does not have the shape of its type: {' '.join(str(error).split())}"]
    return unknown


def _unknown(value: object, kind: object, place: tuple[str, ...]) -> Iterator[str]:
    """Places of the keys that a type does not have; pydantic ignores them."""
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from _unknown(item, _argument(kind, list, 0), (*place, str(number)))
    elif isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = {field.alias or name: field.annotation for name, field in kind.model_fields.items()}
        for key, item in value.items():
            if key in fields:
                yield from _unknown(item, _plain(fields[key]), (*place, key))
            elif "oneof_schema_1_validator" not in kind.model_fields:
                yield ".".join((*place, str(key)))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _unknown(item, _argument(kind, dict, 1), (*place, str(key)))


def _plain(annotation: object) -> object:
    """`X` of `Optional[X]`."""
    inner = [each for each in typing.get_args(annotation) if each is not type(None)]
    return inner[0] if typing.get_origin(annotation) is typing.Union and len(inner) == 1 else annotation


def _argument(annotation: object, container: type, number: int) -> object:
    fits = typing.get_origin(annotation) is container
    return _plain(typing.get_args(annotation)[number]) if fits else object


def _set_of(resource: Manifest) -> Manifest:
    """The specification of the JobSet that a resource is, or that the Trainer makes of it."""
    spec = resource.get("spec") or {}
    return spec if resource["kind"] == "JobSet" else (spec.get("template") or {}).get("spec") or {}


def _jobs_within(resource: Manifest) -> Iterator[tuple[str, Manifest]]:
    for replicated in _set_of(resource).get("replicatedJobs") or []:
        if isinstance(replicated, dict) and isinstance(replicated.get("template"), dict):
            yield f"replicatedJobs.{replicated.get('name')}.template", replicated["template"]


def _values(value: object, path: tuple[str, ...]) -> Iterator[object]:
    if isinstance(value, list):
        for item in value:
            yield from _values(item, path)
    elif not path:
        yield value
    elif isinstance(value, dict) and path[0] in value:
        yield from _values(value[path[0]], path[1:])
