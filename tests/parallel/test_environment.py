"""What a launcher sets is checked before anything waits for peers."""

import pytest

from fd_scale.errors import BadInput
from fd_scale.exits import is_first_rank
from fd_scale.parallel.ranks import start

GOOD = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("RANK", "abc", "RANK='abc' in the environment is no whole number from 0 to"),
        ("RANK", "", "RANK='' in the environment"),
        ("RANK", "-1", "RANK='-1' in the environment"),
        ("RANK", "1", "RANK=1 with WORLD_SIZE=1 in the environment"),
        ("WORLD_SIZE", None, "RANK=0 is set in the environment, and WORLD_SIZE is not; start with `fd-scale launch`"),
        ("WORLD_SIZE", "0", "WORLD_SIZE='0' in the environment"),
        ("WORLD_SIZE", "9" * 5000, "WORLD_SIZE='9999999999"),
        ("LOCAL_RANK", "x", "LOCAL_RANK='x' in the environment"),
        ("LOCAL_RANK", "-1", "LOCAL_RANK='-1' in the environment"),
        ("MASTER_ADDR", None, "MASTER_ADDR is not; start with"),
        ("MASTER_ADDR", "", "MASTER_ADDR is not; start with"),
        ("MASTER_ADDR", "{1: 2}", "MASTER_ADDR='{1: 2}' is neither a host nor an address"),
        ("MASTER_ADDR", "a host", "is neither a host nor an address"),
        ("MASTER_PORT", None, "MASTER_PORT is not; start with"),
        ("MASTER_PORT", "abc", "MASTER_PORT='abc' in the environment is no whole number from 0 to 65535"),
        ("MASTER_PORT", "70000", "MASTER_PORT='70000' in the environment"),
    ],
)
def test_an_odd_variable_is_refused_with_its_name_and_value(monkeypatch, name, value, line):
    for key, good in {**GOOD, name: value}.items():
        if good is None:
            monkeypatch.delenv(key, raising=False)
        else:
            monkeypatch.setenv(key, good)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    with pytest.raises(BadInput) as refused:
        start()
    assert line in str(refused.value)
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize(("rank", "first"), [(None, True), ("0", True), ("1", False), ("abc", False)])
def test_who_speaks_is_known_with_any_rank(monkeypatch, rank, first):
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert is_first_rank() is first
