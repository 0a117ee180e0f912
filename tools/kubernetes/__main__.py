"""`python -m tools.kubernetes check|pods`: see the package."""

import argparse
import sys
from pathlib import Path

from fd_scale.errors import BadInput
from fd_scale.exits import run_to_exit_code
from tools.kubernetes import manifests, rules
from tools.kubernetes.pods import for_podman, pods, scratch_folders


def check(paths: list[Path]) -> None:
    from tools.kubernetes import schemas  # loads thousands of types

    count = 0
    for path in paths:
        resources = manifests.read(path)
        lines = [
            f"{resource['kind']} {resource['metadata']['name']}: {line}"
            for resource in resources
            for line in schemas.problems(resource)
        ]
        lines += rules.broken(resources) if not lines else []  # they expect the shape that the schemas ask for
        count += len(lines)
        for line in lines or [f"{len(resources)} resources, no problems"]:
            print(f"{path}: {line}")
    if count:
        raise BadInput(f"{count} problems in the manifests; docs/cluster/kubernetes.md says what they must agree on")


def show_pods(path: Path, index: int | None, claims: list[str], scratch: Path | None) -> None:
    made = pods(rules.check_indexed(manifests.read(path)))
    if index is not None:
        if not 0 <= index < len(made):
            raise BadInput(f"--index {index} is not one of the Job's 0 to {len(made) - 1}")
        made = [made[index]]
    folders = {}
    for claim in claims:
        name, _, folder = claim.partition("=")
        folders[name] = Path(folder)
    if scratch is not None:
        made = [for_podman(pod, folders, scratch) for pod in made]
        for made_folder in scratch_folders(made, scratch):
            made_folder.mkdir(parents=True, exist_ok=True)
            made_folder.chmod(0o777)
    sys.stdout.write(manifests.dump(made))


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(prog="python -m tools.kubernetes", description=__doc__)
    verbs = whole.add_subparsers(dest="verb", required=True)
    checking = verbs.add_parser("check", help="hold manifests to schemas and rules")
    checking.add_argument("paths", nargs="+", type=Path, help="YAML files, or folders that kustomize renders")
    showing = verbs.add_parser("pods", help="print the Pods that the Job controller would make")
    showing.add_argument("path", type=Path, help="a YAML file, or a folder that kustomize renders")
    showing.add_argument("--index", type=int, help="of one Pod (default: all)")
    showing.add_argument(
        "--podman", type=Path, metavar="SCRATCH", help="for `podman kube play`; emptyDirs are made here"
    )
    showing.add_argument("--claim", action="append", default=[], metavar="NAME=FOLDER", help="for --podman")
    return whole


def main() -> None:
    options = parser().parse_args()
    if options.verb == "check":
        check(options.paths)
    else:
        show_pods(options.path, options.index, options.claim, options.podman)


if __name__ == "__main__":
    sys.exit(run_to_exit_code(main))
