"""A page for Prometheus, served by rank 0 behind `run.prometheus_port`. Needs the `prometheus` extra.

Its numbers are asked for when the page is, so a run that hangs shows: the seconds since its last step grow.
"""

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

from fd_scale.errors import BadInput
from fd_scale.watching.record import RunStatus

MEANING = {
    "step": "Optimizer steps done",
    "steps": "Optimizer steps of the whole run",
    "loss": "Mean loss of the last logged step",
    "learning_rate": "Learning rate of the last logged step",
    "images_per_second": "Images per second over all ranks, since the logged step before",
    "seconds_since_step": "Seconds since the last step was done",
    "seconds_left": "Seconds that the rest of the run will take at this speed",
    "checkpoint_step": "Step of the newest whole checkpoint of this start",
    "restarts": "Starts of this run before this one",
    "bad_samples": "Samples that could not be used, since this start",
    "loss_spikes": "Loss spikes since the run began",
    "slowest_rank_ratio": "Own time of the slowest rank for a step, in that of the median rank",
}


def check_endpoint(port: int | None, address: str) -> None:
    """Refuse, before anything is built, an endpoint that could not be opened.

    Raises:
        BadInput: the package is missing, or the port cannot be had.
    """
    if port is None:
        return
    _package(port)
    try:
        family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
            probe.listen()
    except (OSError, UnicodeError) as error:
        raise _refused(port, address, error) from None


def serve(status: RunStatus, port: int, address: str) -> Callable[[], None]:
    """Open the page; the result closes it.

    Raises:
        BadInput: see `check_endpoint`.
    """
    package = _package(port)
    registry = package.CollectorRegistry()
    registry.register(_Collector(package, status))
    try:
        server, thread = package.start_http_server(port, addr=address, registry=registry)
    except OSError as error:
        raise _refused(port, address, error) from None

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return close


def numbers(status: RunStatus) -> dict[str, float]:
    """What is known by now, by the names of `MEANING`."""
    values = status.values
    known = {
        "step": status.step,
        "steps": status.steps,
        **{name: values.get(name) for name in ("loss", "learning_rate", "images_per_second")},
        "seconds_since_step": time.monotonic() - status.stepped_at,
        "seconds_left": status.seconds_left(),
        "checkpoint_step": status.checkpoint[0] if status.checkpoint else None,
        "restarts": status.starts - 1,
        **{name: values.get(name) for name in ("bad_samples", "loss_spikes")},
        "slowest_rank_ratio": status.slowest_ratio(),
    }
    return {name: float(value) for name, value in known.items() if value is not None}


class _Collector:
    def __init__(self, package: Any, status: RunStatus):
        self._package, self._status = package, status

    def collect(self) -> Iterator[Any]:
        for name, value in numbers(self._status).items():
            gauge = self._package.core.GaugeMetricFamily(f"fd_scale_{name}", MEANING[name], labels=["run"])
            gauge.add_metric([self._status.name], value)
            yield gauge


def _package(port: int) -> Any:
    try:
        import prometheus_client
        import prometheus_client.core
    except ImportError:
        raise BadInput(
            f"run.prometheus_port={port} needs the package: pip install 'fd-scale[prometheus]', or set it to null"
        ) from None
    return prometheus_client


def _refused(port: int, address: str, error: OSError | UnicodeError) -> BadInput:
    reason = getattr(error, "strerror", None) or error
    return BadInput(
        f"run.prometheus_port={port} on run.prometheus_address={address} cannot be opened: {reason}; choose another "
        f"port or address, or null"
    )
