"""Machines whose own name stands for an address on loopback; `cluster/test_loopback_names.py` makes real ones."""

import socket

import pytest

from fd_scale import interfaces
from fd_scale.errors import BadInput
from fd_scale.exits import LostPeer, expected_error
from fd_scale.interfaces import GLOO, gloo_variables, loopback_address

REFUSED = (
    "Gloo connectFullMesh failed with [pair.cc:152] timed out connecting: SO_ERROR: Connection refused, remote=[{}]"
)


@pytest.fixture
def named(monkeypatch):
    """Makes the host name stand for an address."""
    monkeypatch.delenv(GLOO, raising=False)

    def stand_for(address: str | None) -> None:
        def resolve(host, port, **options):
            if host == "peer":
                raise socket.gaierror
            found = [address] if host == socket.gethostname() else [host]
            if found == [None]:
                raise socket.gaierror
            return [(socket.AF_INET, options["type"], 0, "", (found[0], port or 0))]

        monkeypatch.setattr(interfaces.socket, "getaddrinfo", resolve)

    return stand_for


def test_what_the_name_stands_for(named):
    named("127.0.1.1")
    assert loopback_address() == "127.0.1.1"
    named(None)
    assert loopback_address() == "no address"
    named("198.51.100.7")  # of no machine
    assert loopback_address() == "an address of another machine"


def test_the_only_interface_is_taken_where_nothing_says_which(named, monkeypatch):
    named("127.0.1.1")
    monkeypatch.setattr(interfaces, "_interface_towards", lambda peer: None)
    monkeypatch.setattr(interfaces, "_interfaces", lambda: {"127.0.0.1": "lo", "10.0.0.1": "eth7", "fe80::1": "eth7"})
    assert gloo_variables("peer", required=True) == {GLOO: "eth7"}
    assert gloo_variables("localhost", required=True) == gloo_variables("127.0.0.1", required=True) == {}
    monkeypatch.setattr(interfaces, "_interfaces", lambda: {"10.0.0.1": "eth0", "10.1.0.1": "eth1"})
    assert gloo_variables("peer", required=False) == {}
    with pytest.raises(BadInput, match=f"stands for 127.0.1.1: set {GLOO} there to the interface"):
        gloo_variables("peer", required=True)
    monkeypatch.setenv(GLOO, "eth1")
    assert gloo_variables("peer", required=True) == {}


def test_a_name_that_others_reach_changes_nothing(named):
    found = [address for address in interfaces._interfaces() if not interfaces._is_loopback(address)]
    if not [address for address in found if ":" not in address]:
        pytest.skip("this machine has no address but on loopback")
    named(next(address for address in found if ":" not in address))
    assert loopback_address() is None
    assert gloo_variables("peer", required=True) == {}


def test_loopback_is_an_interface():
    assert interfaces._interfaces()["127.0.0.1"] == "lo"


@pytest.mark.parametrize(
    ("own", "remote", "kind"),
    [("127.0.1.1", "10.77.0.2", BadInput), (None, "127.0.1.1", BadInput), (None, "10.77.0.2", LostPeer)],
)
def test_what_gloo_says_of_such_a_name(monkeypatch, own, remote, kind):
    monkeypatch.delenv(GLOO, raising=False)
    monkeypatch.setattr("fd_scale.exits.loopback_address", lambda: own)
    error = expected_error(RuntimeError(REFUSED.format(remote)))
    assert type(error) is kind
    assert (GLOO in str(error)) == (kind is BadInput)
