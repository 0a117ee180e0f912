"""What each host says of itself, judged: pure functions of the answers of `probe`."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fd_scale.launch.check.findings import Finding

GIB = 2**30
LEAST_RUN_GIB = 5.0
"""Free for the run folder. Checkpoints of a small student take less, those of a large one more; `fd-scale plan` says
how much."""
LEAST_TMP_GIB = 1.0
LEAST_SHM_MIB = 128
"""Of shared memory a rank, through which its workers hand over images. Docker gives a container 64 in all."""
IN_USE_MIB = 1024
"""Of a GPU that should be free; a driver and a desktop take less."""
MOST_SECONDS = 1.0
"""Between two clocks."""

Answers = Mapping[str, Mapping[str, Any]]
"""Host -> answer, in the order of the hosts."""


def usual(values: Mapping[str, Any]) -> tuple[Any, str]:
    """What most hosts have, or the first of equals, and the first host that has it."""
    counts = Counter(values.values())
    most = max(counts.values())
    return next((value, host) for host, value in values.items() if counts[value] == most)


def pythons(answers: Answers) -> Iterator[Finding]:
    versions = {host: answer["python"] for host, answer in answers.items()}
    for host, version in versions.items():
        right, there = usual(versions)
        if version == right:
            yield Finding("python", host, "ok", f"{version} ({answers[host]['executable']})")
        else:
            yield Finding(
                "python",
                host,
                "wrong",
                f"{version} at {answers[host]['executable']}, where {there} has {right}",
                f"install Python {right} there and make the environment again, at the same path",
            )


def package_versions(answers: Answers) -> Iterator[Finding]:
    all_versions = {host: answer["versions"] for host, answer in answers.items()}
    names = next(iter(all_versions.values()))
    right = {name: usual({host: versions[name] for host, versions in all_versions.items()}) for name in names}
    for host, versions in all_versions.items():
        missing = [name for name in names if versions[name] is None]
        other = [name for name in names if versions[name] is not None and versions[name] != right[name][0]]
        if not missing and not other:
            yield Finding("packages", host, "ok", ", ".join(f"{name} {version}" for name, version in versions.items()))
            continue
        said = [f"{name} is missing" for name in missing]
        said += [f"{name} {versions[name]}, where {right[name][1]} has {right[name][0]}" for name in other]
        wanted = [f"{name}=={right[name][0]}" if right[name][0] else name for name in (*missing, *other)]
        fix = f"install the same there: pip install {' '.join(wanted)}"
        yield Finding("packages", host, "wrong", "; ".join(said), fix)


def code(answers: Answers, package: str) -> Iterator[Finding]:
    sources = {host: answer["sources"][package] for host, answer in answers.items()}
    there = {host: source["sha256"] for host, source in sources.items() if source}
    right, first = usual(there) if there else ("", "")
    for host, source in sources.items():
        if source is None:
            yield Finding(
                "code",
                host,
                "wrong",
                f"no package {package}",
                "install it there, or mount the checkout at the same path and pass PYTHONPATH on",
            )
        elif source["sha256"] == right:
            yield Finding("code", host, "ok", described(source))
        else:
            yield Finding(
                "code",
                host,
                "wrong",
                f"{described(source)} in {source['folder']}, where {first} has {described(sources[first])}",
                f"bring the code of {first} there (git pull, or the same wheel); an older copy may come first in "
                f"PYTHONPATH",
            )


def described(source: Mapping[str, Any]) -> str:
    git = source["git"]
    revision = f"revision {git['revision'][:10]}{' with changes' if git['changed'] else ''}, " if git else ""
    return f"{revision}source {source['sha256'][:10]}"


def clocks(offsets: Mapping[str, tuple[float, float]]) -> Iterator[Finding]:
    """`offsets`: host -> its clock minus ours, and the round trip in which that was learned, in seconds. The host may
    have read its clock at any time of the round trip, so half of it is the error of the difference."""
    for host, (offset, round_trip) in offsets.items():
        error = round_trip / 2
        if abs(offset) - error <= MOST_SECONDS:
            milliseconds = round(1000 * offset)
            yield Finding("clock", host, "ok", f"{milliseconds:+d} ms", number=milliseconds, unit="ms")
        else:
            yield Finding(
                "clock",
                host,
                "wrong",
                f"{offset:+.1f} s from this machine's (to within {error:.2f} s)",
                "set it and keep it by NTP (chrony or systemd-timesyncd): logs are merged by time, and S3 refuses "
                "requests signed by a wrong clock",
            )


def disks(answers: Answers, slots: Mapping[str, int]) -> Iterator[Finding]:
    for label, name, least in (("run", "disk", LEAST_RUN_GIB), ("tmp", "temporary files", LEAST_TMP_GIB)):
        for host, answer in answers.items():
            if label not in answer:
                continue
            free, path = answer[label]["free"] / GIB, answer[label]["path"]
            if not answer[label]["writable"]:
                fix = f"make it writable for the user there, or {ELSEWHERE[label]}"
                yield Finding(name, host, "wrong", f"{path} cannot be written to", fix)
            elif free < least:
                fix = f"free {least:g} GiB there, or {ELSEWHERE[label]}"
                left = f"{free:.3g} GiB" if free >= 1 else f"{1024 * free:.0f} MiB"
                yield Finding(name, host, "wrong", f"{left} free in {path}", fix)
            else:
                yield Finding(name, host, "ok", f"{free:.3g} GiB free in {path}", number=free, unit="GiB free")
    for host, answer in answers.items():
        if "shm" not in answer:
            continue
        size, least = answer["shm"]["total"] / 2**20, LEAST_SHM_MIB * slots[host]
        value = f"/dev/shm has {size:.0f} MiB"
        if size >= least:
            yield Finding("shared memory", host, "ok", value, number=size, unit="MiB")
        else:
            fix = (
                f"give it {least} MiB or more for slots={slots[host]}: --shm-size of docker and podman, an emptyDir "
                f"with medium Memory in a pod"
            )
            yield Finding("shared memory", host, "wrong", value, fix)


ELSEWHERE = {"run": "choose another run.folder", "tmp": "set TMPDIR to another place"}


def gpus(answers: Answers, slots: Mapping[str, int]) -> Iterator[Finding]:
    with_gpus = [host for host, answer in answers.items() if answer["gpus"]]
    for host, answer in answers.items():
        wrong: list[tuple[str, str]] = []
        found = answer["gpus"]
        if answer.get("error"):
            wrong.append((f"nvidia-smi fails: {answer['error']}", "repair the driver there: nvidia-smi must list GPUs"))
        elif not found and with_gpus:
            fix = f"{with_gpus[0]} has GPUs; take this host out of the hostfile, or repair its driver"
            wrong.append(("no GPU", fix))
        elif not found:
            yield Finding("gpu", host, "ok", f"no GPU: {_ranks(slots[host])} on the CPU")
            continue
        if not wrong:
            wrong = list(_faults(found, slots[host]))
        for value, fix in wrong:
            yield Finding("gpu", host, "wrong", value, fix)
        if not wrong:
            more = f", {slots[host]} of them used" if len(found) > slots[host] else ""
            yield Finding("gpu", host, "ok", f"{len(found)} x {found[0]['name']}{more}")


def _faults(found: Sequence[Mapping[str, Any]], slots: int) -> Iterator[tuple[str, str]]:
    if len(found) < slots:
        yield f"{len(found)} GPUs for slots={slots}", f"write slots={len(found)} for it in the hostfile"
    for gpu in found:
        name = f"GPU {gpu['index']}"
        if gpu["ecc_errors"]:
            fix = "drain the host and reset the GPU (nvidia-smi --gpu-reset); if they come back, have it replaced"
            yield f"{name}: {gpu['ecc_errors']} uncorrected ECC errors", fix
        if gpu["throttled"]:
            fix = "look at its cooling and power supply (nvidia-smi -q -d PERFORMANCE,TEMPERATURE)"
            yield f"{name} is slowed down: {', '.join(gpu['throttled'])}", fix
        if (gpu["used_mib"] or 0) > IN_USE_MIB:
            fix = "end what uses it (nvidia-smi shows the processes), or leave this GPU out by CUDA_VISIBLE_DEVICES"
            yield f"{name}: {gpu['used_mib']} of {gpu['total_mib']} MiB are in use", fix


def _ranks(count: int) -> str:
    return "1 rank trains" if count == 1 else f"{count} ranks train"
