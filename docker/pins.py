"""Print the requirements of pyproject.toml that the Dockerfile asks for, so that no second list of pins exists.

    python3 pins.py dependencies demo s3     # what the package needs, and two of its extras
    python3 pins.py build-system             # what builds it

Reads the pyproject.toml in the current folder, with the standard library alone. Leaves out: extras that name others.
"""

import sys
import tomllib
from pathlib import Path


def requirements(names: list[str]) -> list[str]:
    """Raises SystemExit, with a line, for a name that pyproject.toml does not have."""
    content = tomllib.loads(Path("pyproject.toml").read_text())
    project = content["project"]
    lists = {
        "build-system": content["build-system"]["requires"],
        "dependencies": project["dependencies"],
        **project["optional-dependencies"],
    }
    unknown = [name for name in names if name not in lists]
    if unknown or not names:
        sys.exit(f"pins.py: {', '.join(unknown) or 'nothing'} is not in pyproject.toml, which has {', '.join(lists)}")
    return [line for name in names for line in lists[name]]


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1:])))
