"""Measures the all-reduce between two hosts; runs on each of them beside `probe`, and travels there as text as well.

Takes orders as lines of JSON on standard input and answers each on standard output. torch.distributed is the real one,
with the backend that training would have.
"""

import datetime
import fcntl
import json
import os
import socket
import struct
import sys
import time

import torch
import torch.distributed as dist

SMALLEST, LARGEST = 2**16, 2**26  # bytes of an all-reduce
LONG_ENOUGH = 0.25  # seconds for one, to be a figure
REPEATS = 3
TIMEOUT = datetime.timedelta(seconds=60)

stores: dict = {}


def open_store():
    """Where two ranks meet, on a free port of this host, which is rank 0's."""
    stores["own"] = dist.TCPStore("0.0.0.0", 0, 2, True, timeout=TIMEOUT, wait_for_workers=False)
    return {"port": stores["own"].port}


def measure(rank, host, port, peer, backend):
    """Bytes a second of an all-reduce with another host. Both must be asked at the same time.

    `host` and `port`: of the store; `peer`: name of the other one.
    """
    store = stores["own"] if rank == 0 else dist.TCPStore(host, port, 2, False, timeout=TIMEOUT)
    given = os.environ.get("GLOO_SOCKET_IFNAME")
    interface = given or interface_to(peer)
    if interface:
        os.environ["GLOO_SOCKET_IFNAME"] = interface
    device = torch.device("cuda", 0) if backend == "nccl" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(backend, store=store, rank=rank, world_size=2, timeout=TIMEOUT)
        figure = fastest(rank, device)
        dist.destroy_process_group()
    finally:
        if interface and not given:  # the next peer may be behind another
            del os.environ["GLOO_SOCKET_IFNAME"]
        stores.pop("own", None)
    return {"bytes_per_second": figure}


def fastest(rank, device):
    """Find the highest rate. Begins small: a slow link would take minutes for what a fast one needs to show itself."""
    size, figure = SMALLEST, 0.0
    seconds_of(SMALLEST, device)  # connects
    while True:
        seconds = seconds_of(size, device)
        grow = size < LARGEST and seconds < LONG_ENOUGH
        following = torch.tensor([size * 4 if grow else 0], dtype=torch.int64, device=device)
        dist.broadcast(following, src=0)  # both must take the same sizes
        if not int(following):
            break
        size = int(following)
    repeats = REPEATS if size == LARGEST else 1
    for _ in range(repeats):
        figure = max(figure, size / seconds_of(size, device))
    return figure


def seconds_of(size, device):
    values = torch.ones(size // 4, device=device)
    wait_for(device)
    began = time.perf_counter()
    dist.all_reduce(values)
    wait_for(device)
    return time.perf_counter() - began


def wait_for(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interface_to(peer):
    """Name of the network interface by which this host reaches another; None where gloo must find it.

    gloo would take the one that the host's own name leads to, which is the loopback on many systems.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((peer, 1))  # sends nothing
        except OSError:  # has no IPv4 address
            return None
        address = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            try:
                packed = fcntl.ioctl(probe.fileno(), 0x8915, struct.pack("256s", name.encode()[:15]))  # SIOCGIFADDR
            except OSError:  # has no address
                continue
            if socket.inet_ntoa(packed[20:24]) == address:
                return name
    return None


def main():
    orders: dict = {"open_store": open_store, "measure": measure}
    answer: dict = {"cuda": torch.cuda.is_available()}
    while True:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
        line = sys.stdin.readline()
        if not line:
            return
        name, arguments = json.loads(line)
        try:
            answer = orders[name](**arguments)
        except Exception as error:
            lines = str(error).strip().splitlines()
            answer = {"error": lines[0] if lines else type(error).__name__}


main()
