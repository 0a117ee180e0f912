"""The files beside the Dockerfile, and the Dockerfile as a linter sees it; nothing is built."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from support.helpers import REPOSITORY

DOCKER = REPOSITORY / "docker"
BIN = Path(sys.executable).parent
FAULT = "\nFROM train\nUSER root\nRUN cd /tmp && apt-get install -y vim | cat\n"


def hadolint(text: str) -> set[str]:
    """The rules that the text of a Dockerfile breaks."""
    program = shutil.which("hadolint", path=f"{BIN}:{os.environ['PATH']}")
    assert program, "hadolint is among the packages of `dev`"
    done = subprocess.run([program, "--format", "json", "-"], input=text, capture_output=True, text=True)
    return {found["code"] for found in json.loads(done.stdout)}


def test_the_dockerfile_passes_the_linter_which_finds_planted_faults():
    text = (DOCKER / "Dockerfile").read_text()
    assert hadolint(text) == set()
    assert {"DL3002", "DL3003", "DL3008", "DL4006"} <= hadolint(text + FAULT)


def test_compose_starts_two_nodes_of_one_run_that_are_given_time_to_save():
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    assert [service["environment"]["PET_NODE_RANK"] for service in services.values()] == ["0", "1"]
    for service in services.values():
        assert service["environment"]["PET_NNODES"] == str(len(services))
        assert service["environment"]["PET_MASTER_ADDR"] == next(iter(services))
        assert service["volumes"] == ["runs:/workspace/runs"]
        assert service["stop_grace_period"] == "5m"
        assert service["restart"] == "no"


def test_docker_compose_accepts_the_file_and_no_unknown_key(tmp_path):
    """podman-compose, which cluster/test_image.py runs it with, says nothing of unknown keys."""
    compose = next((words for words in (["docker", "compose"], ["docker-compose"]) if works([*words, "version"])), None)
    if compose is None:
        pytest.skip("needs the compose plugin of Docker (Debian 13: apt-get install docker-compose)")
    text = (DOCKER / "compose.yaml").read_text()
    for content, code in ((text, 0), (text.replace("stop_grace_period", "stop_grace_perid"), 15)):
        (tmp_path / "compose.yaml").write_text(content)
        done = subprocess.run([*compose, "--file", tmp_path / "compose.yaml", "config", "-q"], capture_output=True)
        assert done.returncode == code, done.stderr


def works(command: list[str]) -> bool:
    return shutil.which(command[0]) is not None and subprocess.run(command, capture_output=True).returncode == 0


def pins(*names: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", DOCKER / "pins.py", *names]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)


def test_the_packages_of_an_image_are_those_of_pyproject():
    printed = pins("dependencies", "s3").stdout.splitlines()
    text = (REPOSITORY / "pyproject.toml").read_text()
    assert {"torch", "deepspeed", "timm", "s3fs"} <= {re.split(r"[=><]", line)[0] for line in printed}
    assert all(f'"{line}"' in text for line in printed)
    refused = pins("demoo")
    assert refused.returncode == 1
    assert "demoo is not in pyproject.toml" in refused.stderr


def health(**variables: str) -> tuple[int, str]:
    command = [sys.executable, "-I", DOCKER / "healthcheck"]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)
    assert not done.stderr
    return done.returncode, done.stdout


@pytest.mark.parametrize("log", ["run/logs/rank_00003.log", "run/20260101_000000/20260101_000000.log"])
def test_a_run_is_healthy_while_what_it_writes_is_young(tmp_path, log):
    """Of a run of ours, and of one of MMEngine. Other processes of this machine may be unhealthy meanwhile."""
    path = tmp_path / log
    path.parent.mkdir(parents=True)
    with path.open("w"):
        assert f"{tmp_path}/run: last progress 0 s ago" in health(FD_SCALE_HEALTH_SECONDS="600")[1]
        past = time.time() - 3600
        os.utime(path, (past, past))
        code, line = health(FD_SCALE_HEALTH_SECONDS="600")
        assert (code, f"{tmp_path}/run: last progress 3600 s ago, 600 s are allowed" in line) == (1, True)
    assert f"{tmp_path}/run" not in health()[1]  # it is over
