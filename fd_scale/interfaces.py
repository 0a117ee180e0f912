"""The network interface by which this machine reaches others, where its own name does not say it.

Gloo takes the first address that the host name stands for. Debian's installer, and cloud images, map that name to
127.0.1.1 in /etc/hosts; gloo then tells the ranks of other hosts to connect to 127.0.1.1, and they wait for minutes.
GLOO_SOCKET_IFNAME makes it take an interface instead. NCCL looks at the interfaces itself and needs none of this.

Source: `createDefaultDevice` of torch's ProcessGroupGloo; netdevice(7). Leaves out: other systems than Linux.

A leaf: imports `errors` alone.
"""

import array
import fcntl
import ipaddress
import os
import socket
import struct
from pathlib import Path

from fd_scale.errors import BadInput

GLOO = "GLOO_SOCKET_IFNAME"
SIOCGIFCONF = 0x8912
ENTRY_BYTES, MOST_ENTRIES = 40, 512  # of struct ifreq
FIX = (
    f"set {GLOO} there to the interface that leads to the other hosts (`ip -br addr` lists them), or map the name to "
    f"its address in that host's /etc/hosts"
)
OUTSIDE = "192.0.2.1"  # of no machine (RFC 5737); nothing is sent there


def gloo_variables(peer: str, *, required: bool) -> dict[str, str]:
    """What gloo has to be told for ranks that meet ranks of other machines; empty where the host name says it, where
    the user does, or where all are on this machine.

    Args:
        peer: a name or an address of another of the machines. Where it turns out to be this one, the interface of the
            default route is taken, or the only one that there is.
        required: whether the ranks are known to be on several machines.

    Raises:
        BadInput: they are, and no interface is known to be the right one.
    """
    if os.environ.get(GLOO) or peer == "localhost" or _is_loopback(peer) or (own := loopback_address()) is None:
        return {}
    interface = _interface_towards(peer) or _usual_interface()
    if interface is None and required:
        raise BadInput(f"host {socket.gethostname()}: its own name stands for {own}: {FIX}")
    return {GLOO: interface} if interface else {}


def loopback_address() -> str | None:
    """What gloo would take for the address of this machine, where that is on loopback; None where it is not."""
    try:
        found = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
    except OSError:
        return "no address"  # gloo falls back on 127.0.0.1
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.bind(address)
            except OSError:
                continue
        return str(address[0]) if _is_loopback(address[0]) else None
    return "an address of another machine"


def _interface_towards(peer: str) -> str | None:
    try:
        found = socket.getaddrinfo(peer, 9, type=socket.SOCK_DGRAM)
    except OSError:
        return None  # a name that only the ssh of the first machine knows
    interfaces = _interfaces()
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.connect(address)  # of a datagram: asks for the route and sends nothing
            except OSError:
                continue
            own = str(probe.getsockname()[0])
        if not _is_loopback(own) and own in interfaces:
            return interfaces[own]
    return None


def _usual_interface() -> str | None:
    """That of the default route, or the only one beside loopback."""
    names = {name for address, name in _interfaces().items() if not _is_loopback(address)}
    return _interface_towards(OUTSIDE) or (names.pop() if len(names) == 1 else None)


def _interfaces() -> dict[str, str]:
    """Address -> name of its interface."""
    names = array.array("B", bytes(ENTRY_BYTES * MOST_ENTRIES))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        asked = struct.pack("iL", len(names), names.buffer_info()[0])
        length = struct.unpack("iL", fcntl.ioctl(probe.fileno(), SIOCGIFCONF, asked))[0]
    entries = [names[start : start + ENTRY_BYTES].tobytes() for start in range(0, length, ENTRY_BYTES)]
    found = {socket.inet_ntoa(entry[20:24]): entry[:16].rstrip(b"\0").decode().partition(":")[0] for entry in entries}
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        digits, *_, name = line.split()
        found[str(ipaddress.IPv6Address(bytes.fromhex(digits)))] = name
    return found


def _is_loopback(address: str | int) -> bool:
    try:
        return ipaddress.ip_address(str(address).partition("%")[0]).is_loopback
    except ValueError:
        return False
