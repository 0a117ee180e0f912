"""Runs one input through the command line, as a process of its own, and judges how it ended."""

import json
import math
import os
import resource
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CPU_SECONDS = 60
WALL_SECONDS = 240.0  # other work on the machine makes a process slow, but takes no core time of it
MEMORY_BYTES = 6 * 2**30
"""Of private memory. A tiny run takes a quarter of it, most of which is libraries."""
EXPECTED = (0, 2, 75)
LONGEST_LINE = 4000


@dataclass(frozen=True)
class Case:
    """`of`: what was varied and how, for people. `folder`: of the run whose numbers must be finite, if it made any."""

    of: str
    arguments: Sequence[str]
    environment: Mapping[str, str | None] = field(default_factory=dict)
    folder: Path | None = None
    must_fail: bool = False

    def command(self) -> str:
        """To try it again in a shell."""
        words = [f"{name}={value}" for name, value in self.environment.items() if value is not None]
        return shlex.join([*(["env", *words] if words else []), "fd-scale", *self.arguments])


@dataclass
class Account:
    """What was tried, by how it ended."""

    ends: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)

    def add(self, case: Case, end: str, complaint: str | None) -> None:
        self.ends[end] += 1
        if complaint:
            self.complaints.append(f"{case.of}: {complaint}\n    {case.command()}")

    def close(self, what: str) -> None:
        """Fail with every input that ended outside the contract, and a command that tries it again."""
        print(f"{what}: {sum(self.ends.values())} inputs, {dict(self.ends)}")
        log = os.environ.get("FD_SCALE_FUZZ_LOG")
        if log:
            with open(log, "a") as file:
                file.write(json.dumps({"what": what, "ends": self.ends, "complaints": self.complaints}) + "\n")
        assert not self.complaints, f"{len(self.complaints)} inputs:\n" + "\n".join(self.complaints)


def tried(case: Case, account: Account) -> None:
    """Run it within bounds of time and memory, and enter how it ended."""
    environment = {**os.environ, **{k: v for k, v in case.environment.items() if v is not None}}
    for name, value in case.environment.items():
        if value is None:
            environment.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, "-m", "fd_scale", *case.arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    for kind, most in ((resource.RLIMIT_CPU, CPU_SECONDS), (resource.RLIMIT_DATA, MEMORY_BYTES)):
        try:
            resource.prlimit(process.pid, kind, (most, most))
        except ProcessLookupError:
            break
    try:
        _, errors = process.communicate(timeout=WALL_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        account.add(case, "hang", f"did not end within {WALL_SECONDS:g} s")
        return
    code = process.returncode
    account.add(case, f"exit {code}", complaint(case, code, errors.decode(errors="replace")))


def complaint(case: Case, code: int, errors: str) -> str | None:
    """How an end breaks the contract."""
    lines = errors.splitlines()
    said = [line for line in lines if line.startswith("fd-scale: ")]
    if code not in EXPECTED:
        return f"exit {code}: {' | '.join(lines[-2:])[-500:]}"
    if "Traceback (most recent call last)" in errors:
        return f"exit {code} with a traceback: {lines[-1][-300:]}"
    if code and len(said) != 1:
        return f"exit {code} with {len(said)} lines: {errors[-500:]!r}"
    if said and len(said[0]) > LONGEST_LINE:
        return f"exit {code} with a line of {len(said[0])} letters"
    if code == 0 and case.must_fail:
        return "was taken"
    return _not_finite(case.folder) if code == 0 and case.folder else None


def _not_finite(folder: Path) -> str | None:
    metrics = folder / "metrics.jsonl"
    for line in metrics.read_text().splitlines() if metrics.exists() else ():
        for name, value in json.loads(line).items():
            if isinstance(value, float) and not math.isfinite(value):
                return f"exit 0 with {name} = {value}"
    return None
