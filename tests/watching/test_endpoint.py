"""A run that trains: its page for Prometheus, its status, and what it prints where nobody has a terminal."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from support.helpers import tiny_arguments
from tasks.running import FD_SCALE, wait_for

from fd_scale.errors import BadInput
from fd_scale.launch.environment import free_port
from fd_scale.verbs.status import status
from fd_scale.watching.endpoint import MEANING, check_endpoint


def scraped(port: int) -> dict[str, float]:
    """The page as Prometheus reads it, by name."""
    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as page:
        families = list(text_string_to_metric_families(page.read().decode()))
    assert {sample.labels["run"] for family in families for sample in family.samples} == {"run"}
    return {sample.name.removeprefix("fd_scale_"): sample.value for family in families for sample in family.samples}


def test_a_run_is_scraped_and_shown_while_it_trains_and_prints_whole_lines_at_once(shards, teacher_file, tmp_path):
    port, folder = free_port(), tmp_path / "run"
    arguments = tiny_arguments(shards, teacher_file, folder)
    arguments += ["schedule.steps=100000", f"run.prometheus_port={port}", "run.tensorboard=false", "data.workers=0"]
    packets, output = os.pipe2(os.O_DIRECT)  # in which each write stays by itself
    with subprocess.Popen(
        [*FD_SCALE, *arguments], stderr=output, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as process:
        os.close(output)
        try:
            wait_for(folder / "checkpoints" / "step_00000002")
            page = scraped(port)
            while "checkpoint_step" not in page:
                page = scraped(port)
            (state,) = status([str(folder)])
            while state.seconds_left is None:  # written every other second
                (state,) = status([str(folder)])
            again = scraped(port)
        finally:
            process.send_signal(signal.SIGTERM)
            said = []
            while packet := os.read(packets, 65536):
                said.append(packet.decode())
            os.close(packets)
    assert process.returncode == 0, said
    assert set(page) == set(MEANING)
    assert 2 <= page["step"] <= again["step"] < page["steps"] == 100000
    assert page["checkpoint_step"] >= 2
    assert (page["restarts"], page["bad_samples"], page["slowest_rank_ratio"]) == (0, 0, 1)
    assert 0 <= page["seconds_since_step"] < 60
    assert state.state == "running"
    assert state.seconds_left > 0
    assert status([str(folder)])[0].state == "stopped"
    lines = [packet for packet in said if packet.startswith("step ")]
    assert len(lines) >= 2
    assert all(line.endswith("left\n") and line.count("\n") == 1 for line in lines)
    with pytest.raises(OSError, match="refused"):
        scraped(port)


def test_a_port_in_use_an_odd_address_and_a_missing_package_are_refused(shards, teacher_file, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        arguments = tiny_arguments(shards, teacher_file, tmp_path / "run")
        done = subprocess.run([*FD_SCALE, *arguments, f"run.prometheus_port={port}"], capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("fd-scale:")]
    assert done.returncode == 2
    assert lines == [
        f"fd-scale: run.prometheus_port={port} on run.prometheus_address=127.0.0.1 cannot be opened: Address already "
        f"in use; choose another port or address, or null"
    ]
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    for address in ("no.such.host.invalid", "192.0.2.1", "x" * 300, "a\x00b"):
        with pytest.raises(BadInput, match=r"run\.prometheus_address"):
            check_endpoint(free_port(), address)
    check_endpoint(None, "no.such.host.invalid")


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(BadInput, match=r"pip install 'fd-scale\[prometheus\]'"):
        check_endpoint(free_port(), "127.0.0.1")


def test_own_time_counts_work_and_waiting_for_data_and_not_waiting_for_others(monkeypatch):
    import torch

    from fd_scale.parallel.ranks import Ranks
    from fd_scale.train import own_time

    def images():
        for number in range(2):
            time.sleep(0.4)
            yield number

    monkeypatch.setattr(own_time, "sum_over_ranks", lambda values: values)  # of one rank
    ranks = Ranks(0, 0, 1, torch.device("cpu"))
    own = own_time.OwnTime(ranks.device)
    data = own.waiting(images())
    for _ in range(2):
        with own.step():
            next(data)
            time.sleep(1.0)  # as in a collective
    (waited,) = own.of_all_ranks(ranks)
    with own.step():
        end = time.thread_time() + 0.3
        while time.thread_time() < end:
            pass
    (worked,) = own.of_all_ranks(ranks)
    assert 0.4 <= waited < 1.0
    assert worked >= 0.29


def test_status_json_of_the_run_has_one_time_for_each_rank(shards, teacher_file):
    from tasks.running import distilled

    folder: Path = distilled(shards, teacher_file)[0]
    written = json.loads((folder / "status.json").read_text())
    assert len(written["own_seconds"]) == 2
    assert all(seconds > 0 for seconds in written["own_seconds"])
    assert written["ended"] == "complete"
    assert written["checkpoint"][0] == 8
