"""What the ends of Pods do to a Job, and the end of a Job to its JobSet: the controllers' rules, to try policies on.

Written after Kubernetes' Job controller (pkg/controller/job: `syncJob`, `matchPodFailurePolicy`) and JobSet's
`executeFailurePolicy`. It is a reading of them and not the controllers: the ends that a controller finds at one look
are one step here, and deadlines, suspension and the time between retries are left out.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tools.kubernetes.manifests import Manifest

UNLIMITED = 2**31 - 1


@dataclass(frozen=True)
class End:
    """How the Pod of an index ended; `disrupted`: with the condition DisruptionTarget (preempted, host lost)."""

    index: int
    exit_code: int
    disrupted: bool = False


@dataclass
class Outcome:
    """`state` is Running, Complete or Failed; `reason` and `message` are those of the Job's condition."""

    state: str = "Running"
    reason: str = ""
    message: str = ""
    counted: Counter[int] = field(default_factory=Counter)  # failures of each index that count against a limit


def action(job: Manifest, end: End) -> tuple[str, str]:
    """What the first rule of a Job's failure policy that fits does with an end (Count without one), and its message."""
    for number, rule in enumerate((job["spec"].get("podFailurePolicy") or {}).get("rules") or []):
        if wanted := rule.get("onExitCodes"):
            inside = end.exit_code in wanted["values"]
            fits = inside if wanted["operator"] == "In" else not inside
            message = (
                f"Container failed with exit code {end.exit_code} matching {rule['action']} rule at index {number}"
            )
        else:
            fits = end.disrupted and {"type": "DisruptionTarget", "status": "True"} in rule.get("onPodConditions", [])
            message = f"Pod has condition DisruptionTarget matching {rule['action']} rule at index {number}"
        if fits:
            return rule["action"], message
    return "Count", ""


def of_job(job: Manifest, looks: Iterable[Sequence[End]]) -> Outcome:
    """Where a Job is after the controller has looked, and each time found these Pods ended since the last look."""
    spec = job["spec"]
    outcome, succeeded = Outcome(), set[int]()
    by_index = spec.get("backoffLimitPerIndex")
    in_all = spec.get("backoffLimit", 6 if by_index is None else UNLIMITED)
    for ended in looks:
        succeeded |= {end.index for end in ended if end.exit_code == 0}
        failures = [(end, *action(job, end)) for end in ended if end.exit_code != 0]
        outcome.counted.update(end.index for end, what, _ in failures if what != "Ignore")
        refused = [message for _, what, message in failures if what == "FailJob"]
        lost = [index for index, count in outcome.counted.items() if by_index is not None and count > by_index]
        lost += [end.index for end, what, _ in failures if what == "FailIndex"]
        if refused:
            outcome.state, outcome.reason, outcome.message = "Failed", "PodFailurePolicy", refused[0]
        elif outcome.counted.total() > in_all:
            outcome.state, outcome.reason = "Failed", "BackoffLimitExceeded"
        elif len(set(lost)) > spec.get("maxFailedIndexes", spec["completions"] - 1):
            outcome.state, outcome.reason = "Failed", "MaxFailedIndexesExceeded"
        elif _succeeds(spec, succeeded):
            outcome.state = "Complete"
        if outcome.state != "Running":
            break
    return outcome


def of_set(spec: Manifest, ended: Outcome) -> str:
    """What a JobSet with this specification does when one of its Jobs has failed like that: an action's name."""
    policy = spec.get("failurePolicy")
    if policy is None:
        return "FailJobSet"
    for rule in policy.get("rules") or []:
        reasons, patterns = rule.get("onJobFailureReasons"), rule.get("onJobFailureMessagePatterns")
        if reasons and ended.reason not in reasons:
            continue
        if not patterns or any(re.search(pattern, ended.message) for pattern in patterns):
            return rule["action"]
    return "RestartJobSet"


def _succeeds(spec: Manifest, succeeded: set[int]) -> bool:
    for rule in (spec.get("successPolicy") or {}).get("rules") or []:
        wanted = _indexes(rule["succeededIndexes"]) if "succeededIndexes" in rule else set(range(spec["completions"]))
        if len(wanted & succeeded) >= rule.get("succeededCount", len(wanted)):
            return True
    return len(succeeded) >= spec["completions"]


def _indexes(text: str) -> set[int]:
    """`0,3-5` as numbers."""
    found = set[int]()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found
