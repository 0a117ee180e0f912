"""Where a logged step goes: metrics.jsonl always, TensorBoard by default, W&B and MLflow behind a key."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from tqdm import tqdm

from fd_scale.errors import BadInput
from fd_scale.files import sync_folder
from fd_scale.train.config import RunConfig
from fd_scale.train.run_folder import RunFolder

Sink = Callable[[int, dict[str, float]], None]


class Metrics:
    """Writes one step's numbers to every sink. Made on rank 0 alone."""

    def __init__(self, config: RunConfig, folder: RunFolder, resolved: dict[str, Any], first_step: int):
        self._file = open(folder.metrics, "a", buffering=1)  # noqa: SIM115  lives as long as the run
        sync_folder(folder.folder)
        self._sinks: list[Sink] = [self._to_file]
        self._closers: list[Callable[[], None]] = [self._file.close]
        name = folder.folder.name
        if config.tensorboard:
            self._open_tensorboard(folder, first_step)
        if config.wandb:
            self._open_wandb(config.wandb, folder, name, resolved)
        if config.mlflow:
            self._open_mlflow(config.mlflow, name)

    def log(self, step: int, values: dict[str, float]) -> None:
        for sink in self._sinks:
            sink(step, values)

    def sync(self) -> None:
        """Have what was logged in metrics.jsonl on the disk: a checkpoint is to follow, behind which nobody computes
        it again."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self.sync()
        for close in self._closers:
            close()

    def _to_file(self, step: int, values: dict[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")

    def _open_tensorboard(self, folder: RunFolder, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Events of steps that are computed again are purged, as in metrics.jsonl.
        writer = SummaryWriter(str(folder.folder / "tensorboard"), purge_step=first_step + 1)

        def sink(step: int, values: dict[str, float]) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, step)

        self._sinks.append(sink)
        self._closers.append(writer.close)

    def _open_wandb(self, project: str, folder: RunFolder, name: str, resolved: dict[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            raise BadInput(f"run.wandb={project} needs the package: pip install 'fd-scale[wandb]'") from None
        run = wandb.init(project=project, name=name, id=name, resume="allow", dir=str(folder.folder), config=resolved)
        self._sinks.append(lambda step, values: run.log(values, step=step))
        self._closers.append(run.finish)

    def _open_mlflow(self, uri: str, name: str) -> None:
        try:
            import mlflow
        except ImportError:
            raise BadInput(f"run.mlflow={uri} needs the package: pip install 'fd-scale[mlflow]'") from None
        mlflow.set_tracking_uri(_with_credentials_aside(uri))
        mlflow.set_experiment("fd_scale")
        mlflow.start_run(run_name=name)
        self._sinks.append(lambda step, values: mlflow.log_metrics(values, step=step))
        self._closers.append(mlflow.end_run)


def _with_credentials_aside(uri: str) -> str:
    """The address of a server without user and password, which MLflow then finds in the environment: it prints the
    address as a link. Addresses of databases stay as they are.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.username:
        return uri
    if parts.password:
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password)
    else:
        os.environ["MLFLOW_TRACKING_TOKEN"] = unquote(parts.username)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


class Throughput:
    """Images per second since the last figure. Evaluations do not count, nor a save right after a figure."""

    def __init__(self) -> None:
        self._images, self._since = 0, time.monotonic()

    def add(self, images: int) -> None:
        self._images += images

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._since += time.monotonic() - began

    def after_save(self) -> None:
        if self._images == 0:
            self._since = time.monotonic()

    def images_per_second(self) -> float:
        """The figure; the next one starts here."""
        now = time.monotonic()
        figure = self._images / (now - self._since)
        self._images, self._since = 0, now
        return figure


class ProgressLine:
    """A bar with rate and time left on a terminal, a plain line at every logged step elsewhere."""

    def __init__(self, first_step: int, steps: int):
        self.steps = steps
        self._began = time.monotonic()
        self._first = first_step
        on_terminal = sys.stderr.isatty()
        self._bar = tqdm(total=steps, initial=first_step, unit="step", dynamic_ncols=True) if on_terminal else None

    def advance(self, loss: float) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            self._bar.update()

    def line(self, step: int, values: dict[str, float]) -> None:
        if self._bar is None:
            left = (time.monotonic() - self._began) / (step - self._first) * (self.steps - step)
            numbers = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            line = f"step {step}/{self.steps}  {numbers}  {tqdm.format_interval(left)} left\n"
            sys.stderr.write(line)  # at once, and whole, also where Python writes each piece as it comes
            sys.stderr.flush()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
