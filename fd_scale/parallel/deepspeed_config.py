"""One DeepSpeed configuration from two files, each fact with one owner.

The JSON owns how the model is spread (ZeRO stage, buckets, overlap, offload). The run's YAML owns everything that
changes what is computed (batch, precision, clipping, optimizer). A JSON that states a fact of the YAML is refused.
"""

import json
import reprlib
from pathlib import Path
from typing import Any

from fd_scale.batch_plan import BatchPlan
from fd_scale.errors import BadInput
from fd_scale.files import parse_json, read_small
from fd_scale.parallel.config import ParallelConfig

OWNED_BY_YAML = {
    "train_batch_size": "train.global_batch",
    "train_micro_batch_size_per_gpu": "train.micro_batch",
    "gradient_accumulation_steps": "train.global_batch and train.micro_batch",
    "gradient_clipping": "optim.clip",
    "optimizer": "optim",
    "scheduler": "schedule",
    "bf16": "parallel.precision",
    "fp16": "parallel.precision",
    "data_types": "parallel.precision",
    "activation_checkpointing": "parallel.recompute",
}


def read_json(path: Path) -> dict[str, Any]:
    """Read the sharding half of the configuration.

    Raises:
        BadInput: no such file, no JSON object, no ZeRO stage 1..3, a key that the YAML owns, or a ZeRO setting that
            DeepSpeed does not know or does not take.
    """
    try:
        content = parse_json(read_small(path))
    except OSError as error:
        raise BadInput(
            f"parallel.deepspeed: {path} cannot be read ({error.strerror}); see deepspeed_configs/"
        ) from None
    except json.JSONDecodeError as error:
        raise BadInput(f"parallel.deepspeed: {path} line {error.lineno} is not JSON: {error.msg}") from None
    except ValueError as error:  # bytes that are no text, integers of thousands of digits, endless brackets
        raise BadInput(f"parallel.deepspeed: {path} is not a JSON file ({error}); see deepspeed_configs/") from None
    if not isinstance(content, dict):
        raise BadInput(f"parallel.deepspeed: {path} must hold a JSON object")
    for key, owner in OWNED_BY_YAML.items():
        if key in content:
            raise BadInput(f"{path}: `{key}` belongs to the run's YAML; remove it here and set {owner} there")
    zero = content.get("zero_optimization")
    zero = zero if isinstance(zero, dict) else {}
    stage = zero.get("stage")
    if type(stage) is not int or stage not in (1, 2, 3):
        raise BadInput(f"{path}: zero_optimization.stage is {reprlib.repr(stage)}; set 1, 2 or 3")
    _check_zero(zero, path)
    return content


def _check_zero(zero: dict[str, Any], path: Path) -> None:
    """Ask DeepSpeed's own schema now, which would otherwise refuse the file in the middle of the start."""
    from pydantic import ValidationError

    try:
        zero_settings({"zero_optimization": zero})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, ("zero_optimization", *first["loc"])))
        raise BadInput(f"{path}: {name}={reprlib.repr(first['input'])}: DeepSpeed says {first['msg']!r}") from None


def zero_settings(sharding: dict[str, Any]) -> Any:
    """Read the `zero_optimization` of a JSON as DeepSpeed does, with its defaults.

    Returns a `DeepSpeedZeroConfig`.
    """
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    return DeepSpeedZeroConfig(**sharding["zero_optimization"])


def resolve(sharding: dict[str, Any], parallel: ParallelConfig, batch: BatchPlan, clip: float) -> dict[str, Any]:
    """Build the whole DeepSpeed configuration of a training engine."""
    bf16 = parallel.precision == "bf16"
    resolved = {
        **sharding,
        "train_batch_size": batch.global_batch,
        "train_micro_batch_size_per_gpu": batch.micro_batch,
        "gradient_accumulation_steps": batch.accumulation,
        "gradient_clipping": clip,
        "bf16": {"enabled": bf16},
        # We hand over our own torch optimizer and drive its learning rate.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31 - 1,
    }
    if bf16:
        # Summing micro-batches in bf16 loses the small ones.
        resolved["data_types"] = {"grad_accum_dtype": "fp32"}
    return resolved
