"""A pytest plugin that says what a run of the suite costs: core-seconds of every test, and which tests start processes.

Wall time depends on what else the machine does, core time less so, and the budget of the suite is set in core time. A
test's core time is that of this process, of the children that it waited for, and of the processes that the warm server
ran for it. The total is measured apart, from the root process and all that it has waited for.

`--costs FILE` also writes one JSON line for each test, for docs/testing.md. `--budget MINUTES` fails a run that took
more core-minutes in all.
"""

import json
import os
import resource
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

SLOWEST = 10
RANKS, PROCESS, WARM_RANKS, WARM_PROCESS, INSIDE = (
    "starts ranks",
    "starts one process",
    "starts warm ranks",
    "starts one warm process",
    "in process",
)
MANY = ("launch", "torch.distributed.run", "torchrun", "deepspeed")

started: list[tuple[str, bool]] = []
"""Kind of every Python program that this test process started, and whether it was warm; grows."""
warm_seconds: dict[str, float] = {}
"""Core time of the warm processes that ended for this test process, by server; grows."""


def note(command: list[str], environment: dict | None, warm: bool) -> None:
    """Count the start of a program; programs other than Python's cost next to nothing and are not counted."""
    words = [os.fsdecode(word) for word in command]
    name = os.path.basename(words[0]) if words else ""
    if not (name.startswith("python") or name in MANY):
        return
    ranks = any(os.path.basename(word) in MANY for word in words) or "RANK" in (environment or {})
    started.append((RANKS if ranks else PROCESS, warm))


def _heard(event: str, arguments: tuple) -> None:
    if event == "subprocess.Popen":
        _, command, _, environment = arguments
        if not isinstance(command, (str, bytes)):
            note(list(command), environment, warm=False)
    elif event == "support.warm":
        note(arguments[0], arguments[1], warm=True)
    elif event == "support.warm.end":
        stack, seconds = arguments
        warm_seconds[stack] = seconds


sys.addaudithook(_heard)


def core_seconds() -> float:
    """Of this process, of its children that have ended, and of the warm processes that worked for it."""
    mine, ended = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return mine.ru_utime + mine.ru_stime + ended.ru_utime + ended.ru_stime + sum(warm_seconds.values())


def kind_of(starts: list[tuple[str, bool]]) -> str:
    """The dearest kind among what a test started."""
    for wanted, kind in (
        ((RANKS, False), RANKS),
        ((PROCESS, False), PROCESS),
        ((RANKS, True), WARM_RANKS),
        ((PROCESS, True), WARM_PROCESS),
    ):
        if wanted in starts:
            return kind
    return INSIDE


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("budget")
    group.addoption("--costs", type=Path, help="write what each test cost to this file, one JSON line each")
    group.addoption("--budget", type=float, help="fail when the whole run took more core-minutes")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Account(config), "fd_scale_account")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item):
    before, count = core_seconds(), len(started)
    item.stash[BEFORE] = before, count
    return (yield)


BEFORE = pytest.StashKey[tuple[float, int]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    report = yield
    if report.when == "teardown":
        before, count = item.stash[BEFORE]
        report.user_properties.append(("core_seconds", round(core_seconds() - before, 3)))
        report.user_properties.append(("kind", kind_of(started[count:])))
        report.user_properties.append(("starts", len(started) - count))
    return report


class Account:
    """The sum, in the process that reports to people."""

    def __init__(self, config: pytest.Config):
        self.config = config
        self.began = time.monotonic()
        self.tests: dict[str, dict] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        entry = self.tests.setdefault(report.nodeid, {"wall": 0.0})
        entry["wall"] = round(entry["wall"] + report.duration, 3)
        if report.when == "teardown":
            properties = dict(report.user_properties)
            for name in ("core_seconds", "kind", "starts"):
                entry[name] = properties.get(name)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        wall, cores = time.monotonic() - self.began, core_seconds()
        limit = self.config.getoption("--budget")
        self.lines = [f"{wall:.0f} s of wall time, {cores:.0f} core-seconds ({cores / 60:.1f} core-minutes)"]
        if limit is not None and cores > 60 * limit:
            self.lines.append(f"over the budget of {limit:g} core-minutes: see the slowest tests, and docs/testing.md")
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        path = self.config.getoption("--costs")
        if path is not None:
            lines = [json.dumps({"test": name, **entry}) for name, entry in self.tests.items()]
            path.write_text("\n".join(lines) + "\n")

    def pytest_terminal_summary(self, terminalreporter) -> None:
        finished = {name: entry for name, entry in self.tests.items() if entry.get("core_seconds") is not None}
        terminalreporter.section("cost")
        kinds: Counter[str] = Counter()
        counts: Counter[str] = Counter()
        for entry in finished.values():
            kinds[entry["kind"]] += entry["core_seconds"]
            counts[entry["kind"]] += 1
        for kind, seconds in kinds.most_common():
            terminalreporter.line(f"{seconds:8.1f} core-seconds in {counts[kind]} tests: {kind}")
        terminalreporter.line(f"the {SLOWEST} dearest:")
        for name, entry in sorted(finished.items(), key=lambda pair: -pair[1]["core_seconds"])[:SLOWEST]:
            terminalreporter.line(f"{entry['core_seconds']:8.1f} core-seconds, {entry['wall']:6.1f} s  {name}")
        for line in self.lines:
            terminalreporter.line(line)
