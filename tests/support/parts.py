"""The exhaustive sweeps, and which files each of them is about.

`make test` runs a spread of every sweep; the rest is marked `exhaustive`. `make test-all` runs everything and records,
for each part, the hash of the files that it is about. CI runs the parts whose files have changed since then:

    python -m support.parts changed    # the tests to run, one path a line
    python -m support.parts record     # after everything has passed
    python -m support.parts            # every part and its state
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
RECORD = REPOSITORY / "tests" / "parts.json"


@dataclass(frozen=True)
class Part:
    tests: tuple[str, ...]
    """Paths that hold tests marked `exhaustive` or `cluster`."""
    files: tuple[str, ...]
    """Patterns of what they are about, besides themselves; `*` also matches `/`."""
    for_releases: bool = False
    """Left to `make test-all`: a search, or a measurement that wants the machine for itself."""


LEAVES = tuple(
    f"fd_scale/{name}.py"
    for name in (
        *("children", "errors", "fields", "files", "finite", "interfaces", "keyed", "odd_values", "output", "pixels"),
        *("redaction", "signals"),
    )
)
MODELS = ("fd_scale/models/*", "pyproject.toml", *LEAVES)
TRAINING = (
    *MODELS,
    "fd_scale/batch_plan.py",
    "fd_scale/config.py",
    "fd_scale/data/*",
    "fd_scale/objective/*",
    "fd_scale/exits.py",
    "fd_scale/export.py",
    "fd_scale/launch/*",
    "fd_scale/lease/*",
    "fd_scale/parallel/*",
    "fd_scale/schedulers.py",
    "fd_scale/stops/*",
    "fd_scale/tasks/*",
    "fd_scale/teachers/*",
    "fd_scale/train/*",
    "fd_scale/verbs/job.py",
    "configs/*",
    "deepspeed_configs/*",
)

STARTING = (
    *("fd_scale/launch/*", "fd_scale/exits.py", "fd_scale/schedulers.py", "fd_scale/lease/*", "fd_scale/stops/*"),
    *("fd_scale/verbs/launch.py", "fd_scale/verbs/launched.py", "fd_scale/verbs/job.py", "tests/cluster/*.py"),
    *("fd_scale/interfaces.py", "fd_scale/parallel/ranks.py", "fd_scale/tasks/job.py"),
)
"""What starts ranks, and what tests of clusters are made of."""

SUPPORT = ("tests/conftest.py", "tests/support/*.py")
"""What every test stands on."""

PARTS = {
    "sizes": Part(("tests/models/test_sizes.py",), MODELS),
    "plans": Part(("tests/test_config.py",), TRAINING),
    "packing": Part(
        ("tests/data/packing/test_pack_resume.py",),
        ("fd_scale/data/*", "fd_scale/files.py", "fd_scale/lease/*", "fd_scale/verbs/pack.py"),
    ),
    "flips": Part(
        ("tests/data/test_flips.py", "tests/parallel/checkpoint/test_reader.py"),
        ("fd_scale/data/*", "fd_scale/parallel/checkpoint/*", "fd_scale/fields.py", "tests/parallel/*.py"),
    ),
    "workers": Part(("tests/test_children.py",), ("fd_scale/children.py", "fd_scale/data/*")),
    "checkpoints": Part(
        ("tests/parallel/checkpoint/test_on_ranks.py", "tests/parallel/test_initial_weights.py"),
        (*TRAINING, "tests/parallel/*.py"),  # the programs that run on every rank
    ),
    "precision": Part(
        ("tests/parallel/test_teacher_precision.py",),
        (*MODELS, "fd_scale/parallel/engine.py", "fd_scale/teachers/*", "tests/parallel/precision_program.py"),
    ),
    "shipped": Part(
        ("tests/tasks/test_shipped_steps.py",), (*TRAINING, "fd_scale/cli.py", "fd_scale/verbs/*", "tests/tasks/*.py")
    ),
    "miniature": Part(("tests/tools/test_miniature.py",), (*TRAINING, "experiments/miniature/*")),
    "launchers": Part(
        ("tests/tasks/test_distill_runs.py", "tests/tasks/test_started_by_schedulers.py"),
        (*TRAINING, "tests/tasks/*.py"),
    ),
    "published": Part(
        ("tests/teachers/test_published.py",),
        (*TRAINING, "tests/reference/efficientnet_lite0.*", "tools/efficientnet_lite.py"),
    ),
    "downstream": Part(
        ("tests/downstream/test_config_steps.py", "tests/downstream/test_shards.py"),
        (*TRAINING, "downstream/*", "tests/downstream/*.py"),
    ),
    "hosts": Part(
        tuple(
            f"tests/cluster/test_{name}.py"
            for name in (
                *("harness", "launchers", "loopback_names", "lost_hosts", "preflight", "ssh", "ssh_page"),
                *("two_launchers", "watching"),
            )
        ),
        (*STARTING, "fd_scale/watching/*", "docs/cluster/*"),
    ),
    "slurm": Part(("tests/cluster/test_slurm_jobs.py",), (*STARTING, "docker/slurm/*", "docs/cluster/slurm.md")),
    "images": Part(
        ("tests/cluster/test_image.py",),
        (*STARTING, "docker/*", ".dockerignore", "pyproject.toml", "tools/cluster/*", "docs/cluster/docker.md"),
    ),
    "kubernetes": Part(
        ("tests/cluster/test_pods.py",),
        (*STARTING, "docker/*", "tools/kubernetes/*", "tools/cluster/podman.py", "docs/cluster/kubernetes.md"),
    ),
    "memory": Part(
        ("tests/tools/test_measure_memory.py",),
        (*TRAINING, "fd_scale/memory.py", "fd_scale/live_bytes.py", "tools/measure_memory/*", "tools/tiny_run.py"),
        for_releases=True,
    ),
    "fuzz": Part(("tests/fuzz",), (*TRAINING, "fd_scale/*.py", "fd_scale/verbs/*"), for_releases=True),
    "matrix": Part(("tests/matrix",), (*TRAINING, "tests/tasks/running.py", "tests/teachers/tiny_models.py")),
    "demo": Part(("tests/demo",), (*TRAINING, "fd_scale/demo/*")),
    "site": Part(
        ("tests/docs/test_site.py",), ("docs/*", "README.md", "CONTRIBUTING.md", "pyproject.toml", "fd_scale/*.py")
    ),
    "tutorials": Part(
        ("tests/docs/test_tutorials.py",),
        (
            *TRAINING,
            "docs/tutorials/*",
            "fd_scale/cli.py",
            "fd_scale/verbs/*",
            "fd_scale/evaluate/*",
            "tests/docs/*.py",
        ),
    ),
    "breakages": Part(("tests/breakages",), (*TRAINING, "tests/*.py")),
}


def sweep(cases: Iterable[Any], spread: Sequence[Any]) -> list:
    """For `parametrize`: all cases, of which only those of the `spread` are part of `make test`."""
    cases = list(cases)
    absent = [case for case in spread if case not in cases]
    assert not absent, f"the spread names {absent}, which the sweep does not have"
    return [case if case in spread else _rest(case) for case in cases]


def _rest(case: Any) -> Any:
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.exhaustive)


def hash_of(part: Part) -> str:
    """SHA-256 over names and contents of the files that a part is about, of its tests, and of what all tests share."""
    digest = hashlib.sha256()
    for name in _tracked():
        if name == "tests/parts.json":
            continue
        if any(fnmatch(name, pattern) for pattern in (*part.files, *SUPPORT)) or name.startswith(part.tests):
            digest.update(f"{name}\0".encode() + hashlib.sha256((REPOSITORY / name).read_bytes()).digest())
    return digest.hexdigest()


def _tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.splitlines() if (REPOSITORY / name).is_file()]


def passed() -> dict[str, str]:
    return json.loads(RECORD.read_text()) if RECORD.exists() else {}


def main(word: str = "", *names: str) -> None:
    """`record`: all have passed, or those that are named; `changed`: print the tests of those that have not,
    but for the parts that are left to releases.
    """
    before = passed()
    now = {name: hash_of(part) for name, part in PARTS.items()}
    if word == "record":
        recorded = {name: now[name] if name in (names or PARTS) else before.get(name) for name in PARTS}
        kept = {name: digest for name, digest in recorded.items() if digest}
        RECORD.write_text(json.dumps(kept, indent=1) + "\n")
    elif word == "changed":
        changed = [part for name, part in PARTS.items() if before.get(name) != now[name] and not part.for_releases]
        print("\n".join(path for part in changed for path in part.tests))
    else:
        for name in PARTS:
            print(f"{name:20} {'passed as it is' if before.get(name) == now[name] else 'changed since it passed'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
