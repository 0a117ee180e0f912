"""Tests of whole clusters: daemons of their own, hosts that are lost. `make test-cluster` runs them; root is needed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.hosts import Network, why_not

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.real_start)  # programs that run on other hosts


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """Two hosts, node1 and node2."""
    if reason := why_not():
        pytest.skip(reason)
    with Network(tmp_path / "network") as network:
        yield network
