"""Ten ways to break the project, each a small edit that certain tests must catch.

An edit finds its place by symbol and text, so code may move freely. Where the symbol or the text is gone, the test says
so, and whoever changed the code writes the edit anew.
"""

import ast
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Edit:
    symbol: str
    """Function, class or `Class.method`; the package has just one of that name that holds the text."""
    before: str
    after: str
    tests: tuple[str, ...]
    """Arguments of pytest; at least one of these tests must fail."""

    def apply(self, package: Path) -> Path:
        """Edit the one file of the package where it belongs.

        Raises:
            LookupError: there is no such place, or more than one.
        """
        matches = []
        for path in package.rglob("*.py"):
            text = path.read_text()
            for name, start, end in _symbols(ast.parse(text)):
                lines = text.splitlines(keepends=True)
                body = "".join(lines[start - 1 : end])
                if name == self.symbol and body.count(self.before) == 1:
                    matches.append((path, "".join(lines[: start - 1]), body, "".join(lines[end:])))
        if len(matches) != 1:
            raise LookupError(f"{len(matches)} places in {self.symbol} hold {self.before!r} once; renew the edit")
        ((path, head, body, tail),) = matches
        path.write_text(head + body.replace(self.before, self.after) + tail)
        return path


def _symbols(tree: ast.AST, prefix: str = "") -> list[tuple[str, int, int]]:
    """(qualified name, first line, last line) of every function and class."""
    found = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.append((f"{prefix}{node.name}", node.lineno, node.end_lineno or node.lineno))
            found += _symbols(node, f"{prefix}{node.name}.")
    return found


EDITS = {
    "gradient of the bias": Edit(
        "_backward",
        "of_biases[kind, head] += ds.sum(0)",
        "of_biases[kind, head] += ds.mean(0)",
        ("tests/models/attention/test_paths.py",),
    ),
    "rename of a checkpoint": Edit(
        "LocalStorage._aside",
        'return self.folder / f".{name_of(step)}.partial"',
        "return self.folder / name_of(step)",
        ("tests/parallel/checkpoint/test_storage.py",),
    ),
    "order of two samples": Edit(
        "DatasetOrder._make_group",
        ".permutation(numbers)",
        ".permutation(numbers)[[1, 0, *range(2, len(numbers))] if len(numbers) > 1 else slice(None)]",
        ("tests/data/test_order.py",),
    ),
    "exit code": Edit(
        "expected_error",
        "return LostPeer(f",
        "return BadInput(f",
        ("tests/test_exits.py",),
    ),
    "missing all-reduce": Edit(
        "sum_over_ranks",
        "    dist.all_reduce(total, group=_control)\n",
        "",
        ("tests/parallel/test_two_processes.py", "-k", "an_error_of_one_rank"),
    ),
    "drop path keyed by rank": Edit(
        "Batch.to",
        "sample_keys(seed, self.step, self.positions)",
        "sample_keys(seed, self.step, range(len(self.positions)))",
        ("tests/tasks/test_distill_runs.py", "-k", "who_computes_which_sample"),
    ),
    "class number": Edit(
        "class_numbers",
        "enumerate(ordered)",
        "enumerate(sorted(ordered))",
        ("tests/data/test_numbering.py",),
    ),
    "stale temporary file": Edit(
        "LocalStorage.prepare",
        "shutil.rmtree(left)",
        "pass",
        ("tests/parallel/checkpoint/test_storage.py",),
    ),
    "resize": Edit(
        "resized_positions",
        "antialias=True",
        "antialias=False",
        ("tests/models/test_weights_resizing.py",),
    ),
    "hash": Edit(
        "_file_damage",
        "return None if digest.hexdigest() == sha256 else",
        "return None if digest.hexdigest() else",
        ("tests/parallel/checkpoint/test_reader.py",),
    ),
}
