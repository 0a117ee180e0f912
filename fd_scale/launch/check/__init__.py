"""`fd-scale launch --check`: looks at the hosts before a start, and says what to fix.

    ssh, python, packages, code    each host has what the others have
    data, run folder               the same data on all, and one folder that all of them share
    clock, disk, temporary files, shared memory, gpu
    port, bandwidth                ranks will meet, and each pair of hosts is as fast as the others

Every host runs `probe`, which `far` starts and asks. `alone` judges what each host says of itself, `between` asks
several at a time, `pairs` says which of them are measured together (`links`), and `findings` shows it all.

Leaves out: how much memory and disk a job takes (`fd-scale plan`), the links between the GPUs of one host, and
checkpoints at URLs.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fd_scale.errors import BadInput
from fd_scale.launch.check import alone, between
from fd_scale.launch.check.far import START_SECONDS, Failed, Far, Gone
from fd_scale.launch.check.findings import Finding, as_json, as_table, what_to_fix
from fd_scale.launch.hosts import ssh_program
from fd_scale.launch.ranks import Group

PACKAGES = ("fd-scale", "torch", "torchvision", "deepspeed", "timm", "numpy")
PACKAGE = "fd_scale"


@dataclass(frozen=True)
class Places:
    """What the command that is to be started will use, as its configuration says."""

    run_folder: str | None = None
    data: Sequence[tuple[str, str]] = ()
    """Configuration key and folder of shards."""


def check(
    slots: Mapping[str, int], port: int, places: Places = Places(), *, remote: bool = True, json: bool = False
) -> int:
    """Look at the hosts, print what was found, and return 0.

    Args:
        slots: host -> number of ranks.
        port: where the ranks are to meet, on the first host.
        places: what to look at there.
        remote: they are reached by ssh; else there is one, which is this machine.
        json: print JSON instead of a table.

    Raises:
        BadInput: something must be fixed before a start; what it is has been printed.
    """
    if remote:
        ssh_program()  # raises
    say = _progress if sys.stderr.isatty() else lambda line: None
    with Group() as group:
        hosts = [Far(host, count, group, remote=remote) for host, count in slots.items()]
        findings = list(_findings(hosts, port, places, remote, say))
    if sys.stderr.isatty():
        _progress("")
    print(as_json(findings, list(slots)) if json else as_table(findings, list(slots)), flush=True)
    line = what_to_fix(findings)
    if line:
        raise BadInput(line)
    return 0


def _findings(
    hosts: Sequence[Far], port: int, places: Places, remote: bool, say: Callable[[str], None]
) -> Iterator[Finding]:
    say(f"reaching {len(hosts)} hosts")
    begun = between.together(hosts, lambda host: host.ask("begin", folder=os.getcwd(), seconds=START_SECONDS))
    here: list[Far] = []
    for host in hosts:
        finding = _reached(host, begun[host.host], remote)
        if finding.check == "ssh" and finding.status == "ok":
            here.append(host)
        if remote or finding.status != "ok":
            yield finding
    if not here:
        return
    slots = {host.host: host.slots for host in here}
    yield from alone.pythons(_answers(begun, here))

    say("asking each host about itself")
    found, failures = _asked(here, "packages", "packages", names=PACKAGES, sources=[PACKAGE])
    yield from failures
    if found:
        yield from alone.package_versions(found)
        yield from alone.code(found, PACKAGE)
    for key, folder in places.data:
        yield from _data(here, key, folder)
    if places.run_folder is not None or remote:
        yield from _merged(between.shared_folder(here, places.run_folder or ".", places.run_folder is not None))
    if remote:
        offsets = between.together(here, between.clock_of)
        yield from alone.clocks({host: answer for host, answer in offsets.items() if isinstance(answer, tuple)})
        for host_name, answer in offsets.items():
            if isinstance(answer, Exception):
                yield between.unknown("clock", host_name, answer)
    found, failures = _asked(here, "disk", "disks", run_folder=places.run_folder or ".")
    yield from failures
    yield from alone.disks(found, slots)
    found, failures = _asked(here, "gpu", "gpus")
    yield from failures
    yield from alone.gpus(found, slots)
    if here[0] is hosts[0]:  # where the ranks are to meet
        yield from between.ports(here, port)
    if len(here) > 1:
        yield from between.bandwidth(here, say)


def _reached(host: Far, answer: dict[str, Any] | Exception, remote: bool) -> Finding:
    """The first thing that is wrong with a host, if anything is."""
    if isinstance(answer, dict):
        return Finding("ssh", host.host, "ok", "reached, without a question")
    if isinstance(answer, Failed):
        fix = f"make the folder {Path.cwd()} there, shared or a copy: ranks are started in it on every host"
        return Finding("folder", host.host, "wrong", f"no working folder: {answer}", fix)
    if host.no_program():
        fix = "make the environment at the same path on every host, or put it on storage that all share"
        return Finding("python", host.host, "wrong", f"{sys.executable} is not there: {answer}", fix)
    if isinstance(answer, Gone) and answer.reached:
        fix = f"try there: {sys.executable} -c 'print(1)'"
        return Finding("python", host.host, "wrong", f"{sys.executable} does not run: {answer}", fix)
    fix = (
        f"make `ssh {host.host} true` work without a question: sshd runs there, your key is in its authorized_keys, "
        f"its host key is known here (FD_SCALE_SSH may name another ssh command)"
    )
    return Finding("ssh", host.host, "wrong", f"not reached: {answer}", fix)


def _asked(hosts: Sequence[Far], check_name: str, what: str, **arguments: Any) -> tuple[dict[str, Any], list[Finding]]:
    """The answers of those that have one, and what became of the others."""
    answers = between.together(hosts, lambda host: host.ask(what, **arguments))
    found = {host: answer for host, answer in answers.items() if isinstance(answer, dict)}
    return found, [
        between.unknown(check_name, host, answer) for host, answer in answers.items() if not isinstance(answer, dict)
    ]


def _answers(answers: Mapping[str, Any], hosts: Sequence[Far]) -> dict[str, dict[str, Any]]:
    return {host.host: answers[host.host] for host in hosts}


def _data(hosts: Sequence[Far], key: str, folder: str) -> Iterator[Finding]:
    answers = between.together(hosts, lambda host: host.ask("data", folder=folder, seconds=300.0))
    prints = {host: answer["fingerprint"] for host, answer in answers.items() if isinstance(answer, dict)}
    right, first = alone.usual(prints) if prints else ("", "")
    for host, answer in answers.items():
        if not isinstance(answer, dict):
            fix = "copy the data there, or mount it, at the same path; `fd-scale verify` reads all of it"
            yield Finding("data", host, "wrong", f"{key}={folder}: {answer}", fix)
        elif answer["fingerprint"] == right:
            yield Finding("data", host, "ok", f"{key} {right[:10]} of {answer['shards']} shards")
        else:
            value = f"{key}={folder} is {answer['fingerprint'][:10]}, where {first} has {right[:10]}"
            yield Finding(
                "data", host, "wrong", value, f"copy the data of {first} there: the folders hold other images"
            )


def _merged(findings: Iterator[Finding]) -> list[Finding]:
    """One finding a host: the first that is not ok, if there is one."""
    of_host: dict[str, Finding] = {}
    for finding in findings:
        if finding.host not in of_host or of_host[finding.host].status == "ok":
            of_host[finding.host] = finding
    return list(of_host.values())


def _progress(line: str) -> None:
    print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
