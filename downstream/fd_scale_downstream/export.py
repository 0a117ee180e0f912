"""Export of our checkpoints to ordinary ones of mmengine, for the test scripts of MMSegmentation and MMDetection."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fd_scale.errors import BadInput
from fd_scale.files import check_target, whole_file
from fd_scale.lease import held
from fd_scale.parallel.checkpoint.reader import BUFFER, WEIGHT, CheckpointReader, read_whole
from fd_scale.parallel.checkpoint.storage import CHECKPOINTS, open_storage
from fd_scale.parallel.ema import EMA
from fd_scale.redaction import redacted


def export(run: str, out: Path, *, step: int | None = None, best: str | None = None, ema: bool | None = None) -> Path:
    """Write the whole model of a run, in fp32, to `out`. Holds it in memory once.

    Args:
        run: work folder, or a folder or URL of checkpoints.
        best: take the best checkpoint by this metric, that CheckpointHook's `save_best` kept.
        ema: the moving average; by default where there is one, as evaluation in training does.

    Raises:
        BadInput: no such whole checkpoint; `out` is no place for a file.
        Retry: another start writes `out`; or the run continues and removes its checkpoints faster than they are read.
    """
    check_target(out, "OUT")
    inside = Path(run) / CHECKPOINTS
    base = str(inside) if "://" not in run and inside.is_dir() else run.rstrip("/")
    storage = open_storage(f"{base}_best_{best.replace('/', '_')}" if best else base)
    content = read_whole(storage, step, partial(_content, ema))
    with held(out) as lease, whole_file(out, lease) as file:
        torch.save(content, file)
    return out


def _content(ema: bool | None, reader: CheckpointReader) -> dict[str, Any]:
    averaged = EMA in reader.keys if ema is None else ema
    if averaged and EMA not in reader.keys:
        raise BadInput(f"{reader.where} holds no moving average; leave out --ema, or train with strategy.ema_decay")
    state = {name: _whole(reader, name, WEIGHT) for name in reader.names(WEIGHT)}
    state |= {name: _whole(reader, name, BUFFER) for name in reader.names(BUFFER)}
    if averaged:
        state |= {name: _whole(reader, name, EMA) for name in reader.names(EMA)}
    meta: dict[str, Any] = redacted({**reader.record["meta"], "ema": averaged, "from": reader.where})
    return {"meta": meta, "state_dict": state}


def _whole(reader: CheckpointReader, name: str, key: str) -> Tensor:
    value = reader.read(name, key).view(reader.shape(name, key))
    return value.float() if value.is_floating_point() else value
