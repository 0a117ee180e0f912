"""The arrows of docs/architecture.md: what each part may import of ours. Read from the source, nothing is run."""

import ast
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "fd_scale"
DOWNSTREAM = REPOSITORY / "downstream" / "fd_scale_downstream"

ALLOWED = {
    "batch_plan": set(),
    "children": set(),
    "errors": {"redaction"},
    "redaction": set(),
    "fields": set(),
    "files": set(),
    "finite": set(),
    "keyed": set(),
    "lease": {"exits"},
    "schedulers": set(),
    "interfaces": set(),
    "signals": set(),
    "progress": set(),
    "models": {"keyed"},
    "data": {"keyed"},
    "objective": set(),
    "diagnosis": set(),
    "pixels": set(),
    "evaluate": {"models", "data", "teachers", "parallel", "export", "train"},
    "parallel": {"exits"},
    "output": set(),
    "exits": {"output"},
    "launch": {"exits"},
    "stops": {"exits"},
    "teachers": {"models"},
    "train": {"parallel", "data", "keyed", "stops", "output"},
    "live_bytes": set(),
    "memory": set(),
    "plan": {"live_bytes"},
    "tasks": {
        *("config", "train", "stops", "models", "teachers", "objective", "parallel", "data", "export"),
        *("evaluate", "plan", "memory", "live_bytes"),
    },
    "export": {"models", "parallel"},
    "convert": {"models", "export"},
    "config": set(),
    "config_keys": set(),
    "demo": {"launch", "export", "models", "teachers", "objective", "diagnosis", "parallel", "data"},
    "verbs": {
        *(
            "config",
            "config_keys",
            "data",
            "parallel",
            "train",
            "tasks",
            "teachers",
            "models",
            "export",
            "convert",
            "launch",
            "demo",
        ),
        *("evaluate", "exits"),
    },
    "api": {"verbs"},
    "cli": {"verbs", "launch", "exits"},
    "__main__": {"cli"},
    "__init__": {"api"},
}
ALLOWED_DOWNSTREAM = {"config", "models", "parallel", "stops", "export", "plan", "keyed", "launch", "exits", "output"}
EVERYWHERE = {
    "batch_plan",
    "children",
    "errors",
    "fields",
    "files",
    "finite",
    "interfaces",
    "redaction",
    "lease",
    "pixels",
    "progress",
    "schedulers",
    "signals",
    "__init__",
}


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def ours(tree: ast.AST) -> set[str]:
    """Parts of the package that a module imports, at its head or inside functions."""
    parts: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "fd_scale" else [node.module]
            )
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name and name.split(".")[0] == "fd_scale":
                tail = name.split(".")[1:2]
                parts.add(tail[0] if tail and not tail[0].startswith("__") else "__init__")
    return parts


def test_imports_point_one_way():
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        part = part_of(path)
        for imported in ours(ast.parse(path.read_text())) - EVERYWHERE - {part}:
            if imported not in ALLOWED[part]:
                wrong.append(f"{path.relative_to(PACKAGE.parent)} imports {imported}")
    assert not wrong, "\n".join(wrong)


def test_every_part_has_its_arrows_written_down():
    assert {part_of(path) for path in PACKAGE.rglob("*.py")} <= set(ALLOWED)


def test_deepspeed_appears_only_in_parallel():
    users = {part_of(path) for path in PACKAGE.rglob("*.py") if "import deepspeed" in path.read_text()}
    assert users == {"parallel"}


def packages(path: Path) -> set[str]:
    """Top-level packages that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
    return names


def test_downstream_imports_only_what_a_trainer_of_others_may():
    wrong = {
        f"{path.name} imports {part}"
        for path in DOWNSTREAM.rglob("*.py")
        for part in ours(ast.parse(path.read_text())) - EVERYWHERE - ALLOWED_DOWNSTREAM
    }
    assert not wrong


def test_only_downstream_imports_mmengine_and_nothing_imports_downstream():
    foreign = {"mmengine", "mmcv", "mmdet", "mmseg", "fd_scale_downstream"}
    users = {path for folder in ("fd_scale", "tools") for path in (REPOSITORY / folder).rglob("*.py")}
    assert {path.name: packages(path) & foreign for path in users if packages(path) & foreign} == {}
    assert any(packages(path) & foreign for path in DOWNSTREAM.rglob("*.py"))
