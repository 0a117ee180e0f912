"""What several hosts are asked at the same time, because it is about what lies between them."""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from fd_scale.launch.check.far import Failed, Far, Gone, source_of
from fd_scale.launch.check.findings import Finding
from fd_scale.launch.check.pairs import Pair, judged, sample, tournament
from fd_scale.launch.hostfile import address_of, is_loopback

T = TypeVar("T")

CLOCK_TRIES = 5
CONNECT_SECONDS = 5.0
TORCH_SECONDS = 180.0
"""To import it, from storage that is slow the first time."""
LINK_SECONDS = 180.0


def together(hosts: Sequence[Far], ask: Callable[[Far], T]) -> dict[str, T | Exception]:
    """Ask all hosts at once. What one of them raises is its answer."""

    def answer(host: Far) -> T | Exception:
        try:
            return ask(host)
        except (Gone, Failed) as error:
            return error

    with ThreadPoolExecutor(max(1, len(hosts))) as pool:
        return dict(zip([host.host for host in hosts], pool.map(answer, hosts), strict=True))


def unknown(check: str, host: str, answer: object) -> Finding:
    """Finding about a host that could not say."""
    return Finding(check, host, "wrong", f"not known: {answer}", "look at that host, and check again")


def clock_of(host: Far) -> tuple[float, float]:
    """Clock of a host minus ours, from the quickest of some round trips, and how long that took; in seconds."""
    tries = []
    for _ in range(CLOCK_TRIES):
        began, clock = time.perf_counter(), time.time()
        there = host.ask("clock")["time"]
        round_trip = time.perf_counter() - began
        tries.append((round_trip, there - (clock + round_trip / 2)))
    round_trip, offset = min(tries)
    return offset, round_trip


def shared_folder(hosts: Sequence[Far], run_folder: str, named: bool) -> Iterator[Finding]:
    """A token that one host writes must be read on all, and one that a second writes, on the first.

    Args:
        named: the configuration says that it is the run folder; else it stands for one, and nothing is wrong yet.
    """
    folder = hosts[0].ask("nearest", path=run_folder)["path"]
    if len(hosts) == 1:
        return
    for writer, readers in ((hosts[0], hosts[1:]), (hosts[1], hosts[:1])):
        name, token = f".fd_scale_check_{secrets.token_hex(8)}", secrets.token_hex(16)
        try:
            writer.ask("write_token", folder=folder, name=name, token=token)
        except Failed as error:
            fix = "make it writable for the user there, or choose another run.folder"
            yield Finding("run folder", writer.host, "wrong", f"{folder} cannot be written to: {error}", fix)
            continue
        read = partial(_read, folder=folder, name=name)
        try:
            answers = together(readers, read)
        finally:
            writer.ask("remove_token", folder=folder, name=name)
        seen = {host: isinstance(answer, dict) and answer["token"] == token for host, answer in answers.items()}
        for host, answer in answers.items():
            if seen[host]:
                yield Finding("run folder", host, "ok", f"{folder} is shared")
            elif isinstance(answer, Exception):
                yield unknown("run folder", host, answer)
            else:
                yield _not_shared(host, writer.host, folder, named)
        if not seen.get(hosts[1].host):
            return  # the way back would say the same of the first


def _read(host: Far, folder: str, name: str) -> dict[str, Any]:
    return host.ask("read_token", folder=folder, name=name)


def _not_shared(host: str, writer: str, folder: str, named: bool) -> Finding:
    if not named:
        fix = "name the run, to have its folder checked: fd-scale launch --check ... -- distill CONFIG"
        return Finding("run folder", host, "note", f"{folder}, the working folder, is not shared", fix)
    return Finding(
        "run folder",
        host,
        "wrong",
        f"{folder} is not shared: what {writer} writes there does not show",
        f"mount the storage of {writer} there at the same path, or choose a run.folder that all share",
    )


def ports(hosts: Sequence[Far], port: int) -> Iterator[Finding]:
    """Check that the first host can listen there, and that the others reach it by its name in the hostfile."""
    first, name, token = hosts[0], address_of(hosts[0].host), secrets.token_hex(16)
    taken = first.ask("listen", port=port, token=token)
    if taken["error"]:
        value = f"port {port} is in use" if taken["in_use"] else f"port {port} cannot be used: {taken['error']}"
        fix = "choose another with --master-port, or end what listens there (ss -ltnp shows it)"
        yield Finding("port", first.host, "wrong", value, fix)
        return
    answers = together(
        hosts[1:],
        lambda host: host.ask("connect", host=name, port=port, patience=CONNECT_SECONDS),
    )
    first.ask("hang_up", port=port)
    reached = [isinstance(answer, dict) and answer["token"] == token for answer in answers.values()]
    free = f"{port} is free and reached"
    yield Finding("port", first.host, "ok", free if reached and all(reached) else f"{port} is free")
    for host, answer in answers.items():
        if not isinstance(answer, dict):
            yield unknown("port", host, answer)
            continue
        if answer["token"] == token:
            yield Finding("port", host, "ok", free)
            continue
        address = answer["address"]
        if address is None:
            value, fix = f"does not know the name {name}", f"give {name} an address in DNS or in its /etc/hosts"
        elif is_loopback(address) and not is_loopback(name):
            value = f"{name} leads to {address} there, which is the host itself"
            fix = f"correct {name} in its /etc/hosts: it must be the address by which others reach it"
        else:
            value = f"cannot reach {name} ({address}) on port {port}: {answer.get('reason', 'another program answers')}"
            fix = f"let the firewalls pass all TCP ports between the hosts; `nc -zv {name} {port}` tries it"
        yield Finding("port", host, "wrong", value, fix)


def bandwidth(hosts: Sequence[Far], say: Callable[[str], None]) -> Iterator[Finding]:
    """Measure the all-reduce of each pair, in rounds of disjoint pairs, so that none disturbs another."""
    started = together(hosts, lambda host: host.ask("start_links", source=source_of("links"), seconds=TORCH_SECONDS))
    able: list[Far] = []
    on_gpu = True
    for host in hosts:
        answer = started[host.host]
        if isinstance(answer, dict):
            able.append(host)
            on_gpu = on_gpu and answer["cuda"]
        else:
            fix = "make torch work there: python -c 'import torch'"
            yield Finding("bandwidth", host.host, "wrong", f"torch cannot be used: {answer}", fix)
    rounds = sample(tournament(len(able)))
    backend = "nccl" if on_gpu else "gloo"
    figures: dict[Pair, float | str] = {}
    for number, pairs in enumerate(rounds, start=1):
        say(f"measuring all-reduce between pairs of hosts, round {number} of {len(rounds)}")
        with ThreadPoolExecutor(len(pairs)) as pool:
            results = pool.map(lambda pair: _measure(able[pair[0]], able[pair[1]], backend), pairs)
            figures.update(zip(pairs, results, strict=True))
    yield from judged(figures, [host.host for host in able], backend)
    together(able, lambda host: host.ask("stop_links"))


def _measure(first: Far, second: Far, backend: str) -> float | str:
    """GB/s, or why there is none."""
    try:
        port = _ordered(first, "open_store", {})["port"]
    except (Gone, Failed) as error:
        return str(error)
    where = {"host": address_of(first.host), "port": port, "backend": backend}
    peers = {first.host: (0, second), second.host: (1, first)}

    def measured(host: Far) -> dict[str, Any]:
        rank, peer = peers[host.host]
        return _ordered(host, "measure", {"rank": rank, "peer": address_of(peer.host), **where})

    answers = together([first, second], measured)
    failures = [f"{host}: {answer}" for host, answer in answers.items() if isinstance(answer, Exception)]
    if failures:
        return failures[0]
    answer = answers[first.host]
    assert isinstance(answer, dict)
    return answer["bytes_per_second"] / 1e9


def _ordered(host: Far, order: str, arguments: dict[str, Any]) -> dict[str, Any]:
    answer = host.ask("link", order=[order, arguments], seconds=LINK_SECONDS)
    if "error" in answer:
        raise Failed(answer["error"])
    return answer
