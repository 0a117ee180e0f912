"""Any timm model as a student, through the `Backbone` interface and under timm's own parameter names.

timm builds the modules, computes the tokens and initialises them. What the interface asks beyond that is here:
  - blocks are called through `call_block`, so that they can be recomputed;
  - drop path takes the draws of `fd_scale.keyed` instead of torch's generator;
  - it can be built in shards. timm's constructors fill parameters by walking over modules, which `deepspeed.zero.Init`
    loses or stumbles over, and compute buffers, which it rounds. So the structure is copied from an outline, each
    module's parameters are made anew, and their values come from one whole model that timm builds from the run's seed.

Memory: whoever fills parameters (every rank without shards, rank 0 with them) holds timm's whole model in fp32 until
its last parameter was asked for. The families of this library need that for one parameter at a time.
"""

import copy
import math
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import timm
import torch
from torch import Tensor, nn

from fd_scale.errors import BadInput
from fd_scale.keyed import uniform
from fd_scale.models.backbone import Backbone, unset
from fd_scale.models.drop_path import PURPOSE
from fd_scale.models.from_timm.catalogue import as_tokens, last_norm
from fd_scale.models.from_timm.structure import KeyedPath, outline_of

NUM_MAPS = 4


class TimmStudent(Backbone):
    """Student backbone that is a timm model.

    name: of timm's model.
    trained: whether it will get weights, which SwinV2's position bias must know.
    window: of a Swin, in place of the native one.

    The module and timm's model share their tables of children, parameters and buffers. So names are timm's, and what
    the model itself owns (CLS token, position embedding) is gathered in the hooks of this module.
    """

    model: Any

    def __init__(
        self,
        name: str,
        image_size: int,
        *,
        drop_path: float = 0.1,
        trained: bool = False,
        window: int | None = None,
    ):
        super().__init__()
        outline = outline_of(name, image_size, drop_path, trained, window)
        self.name, self.image_size = name, image_size
        self.width, self.num_prefix_tokens, self.stride = outline.width, outline.num_prefix_tokens, outline.stride
        self.channels_last, self.arguments = outline.channels_last, outline.arguments
        model = copy.deepcopy(outline.model)
        _make_parameters(model)
        self.__dict__["model"] = model  # not a child: its own children are
        self._modules, self._parameters, self._buffers = model._modules, model._parameters, model._buffers
        self._non_persistent_buffers_set = model._non_persistent_buffers_set
        reductions = [int(entry["reduction"]) for entry in model.feature_info]
        self.map_indices = _map_indices(reductions)
        self.strides = tuple(reductions[index] for index in self.map_indices)
        self._paths = [module for module in self.modules() if isinstance(module, KeyedPath)]
        self._draws: Tensor | None = None
        self._initial: tuple[int, dict[str, Tensor]] | None = None
        self._blocks = [self.get_submodule(block) for block in outline.blocks]
        for block in self._blocks:
            _call_through(self, block)

    def get_submodule(self, target: str) -> nn.Module:
        module: nn.Module = self
        for part in target.split(".") if target else ():  # torch's own would meet the method `blocks` first
            child = module._modules.get(part)
            if child is None:
                raise AttributeError(f"timm:{self.name} has no module {target}")
            module = child
        return module

    def blocks(self) -> list[nn.Module]:
        return list(self._blocks)

    def forward(  # type: ignore[override]
        self, images: Tensor, keys: Tensor | None = None, maps: bool = False
    ) -> Tensor | list[Tensor]:
        self._check_size(images)
        images = images.to(next(self.parameters()).dtype)
        self._draws = None if keys is None else uniform(keys, PURPOSE, len(self._paths))  # (B, paths)
        for number, path in enumerate(self._paths):  # those outside of blocks; a block sets its own once more
            path.draws = None if self._draws is None else self._draws[:, number]
        if maps:
            return self.model.forward_intermediates(
                images, indices=list(self.map_indices), norm=False, output_fmt="NCHW", intermediates_only=True
            )
        features = self.model.forward_features(images)
        norm = last_norm(self)
        return as_tokens(features if norm is None else norm(features), channels_last=self.channels_last)

    def forward_maps(self, images: Tensor, keys: Tensor | None = None) -> list[Tensor]:
        if not hasattr(self.model, "forward_intermediates"):
            raise BadInput(f"timm:{self.name} gives a token map, but none of other stages: use another for dense tasks")
        return self(images, keys, maps=True)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return height // self.stride, width // self.stride

    def train(self, mode: bool = True) -> Self:
        self.model.training = mode
        return super().train(mode)

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Fill one parameter from the model that timm builds with the run's seed."""
        seed = getattr(generator, "run_seed", generator.initial_seed())
        if self._initial is None or self._initial[0] != seed or name not in self._initial[1]:
            self._initial = seed, self._built_by_timm(seed)
        if name not in self._initial[1]:
            raise LookupError(f"timm:{self.name} has no parameter {name}")
        parameter.copy_(self._initial[1].pop(name))

    def depth_of(self, name: str) -> int | None:
        """Depth of a position bias that timm's BEiT shares, which comes after all blocks, as published."""
        return len(self.blocks()) + 1 if name.startswith("rel_pos_bias.") else None

    def no_weight_decay(self) -> set[str]:
        return set(self.model.no_weight_decay()) if hasattr(self.model, "no_weight_decay") else set()

    def _built_by_timm(self, seed: int) -> dict[str, Tensor]:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(seed)
            model = timm.create_model(self.name, **self.arguments)
        return {name: parameter.detach() for name, parameter in model.named_parameters()}

    def _check_size(self, images: Tensor) -> None:
        height, width = images.shape[-2:]
        fixed = self.model.pretrained_cfg.get("fixed_input_size")
        if height % self.stride or width % self.stride or (fixed and (height, width) != (self.image_size,) * 2):
            raise BadInput(
                f"images of {height}x{width} px do not fit timm:{self.name}, built for {self.image_size}x"
                f"{self.image_size} with a stride of {self.stride}: feed that size or build it for theirs"
            )


class _Fresh(nn.Module):
    """New parameters, made in a constructor: at its end `zero.Init` cuts them into shards."""

    def __init__(self, shapes: dict[str, torch.Size]):
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, unset(*shape))


def _make_parameters(model: nn.Module) -> None:
    """Real parameters, full of NaN, in the place of the outline's; buffers follow to the device of construction."""
    made: dict[int, nn.Parameter] = {}  # a parameter that two modules share stays one
    for module in model.modules():
        parameters = dict(module.named_parameters(recurse=False))
        fresh = _Fresh({name: parameter.shape for name, parameter in parameters.items() if id(parameter) not in made})
        for name, parameter in parameters.items():
            new = made.setdefault(id(parameter), fresh._parameters.get(name))  # type: ignore[arg-type]
            new.requires_grad_(parameter.requires_grad)
            module._parameters[name] = new
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(torch.get_default_device())


@dataclass(frozen=True)
class Repeat:
    """Mark of a call of a block that comes from `call_block`. `names`: of the last values, which are keywords."""

    names: tuple[str, ...]


class BlockCall:
    """Call of a timm block, handed to the student's `call_block`, which calls the block again.

    The draws of drop path go along as an argument, so that a recomputed block repeats itself.
    """

    def __init__(self, student: TimmStudent, paths: dict[int, KeyedPath]):
        """`paths`: those of the block, by their numbers among the student's."""
        self.student, self.paths = student, paths

    def __call__(self, block: nn.Module, tokens: Tensor, values: tuple, keywords: dict[str, Any]) -> Tensor:
        if len(values) > 1 and isinstance(values[1], Repeat):
            draws, repeat, *values = values  # type: ignore[assignment]
            split = len(values) - len(repeat.names)
            for column, path in enumerate(self.paths.values()):
                path.draws = None if draws is None else draws[:, column]
            keywords = dict(zip(repeat.names, values[split:], strict=True))
            return nn.Module.__call__(block, tokens, *values[:split], **keywords)
        draws = self.student._draws
        block_draws = None if draws is None else draws[:, list(self.paths)]  # (B, paths of this block)
        return self.student.call_block(block, tokens, block_draws, Repeat(tuple(keywords)), *values, *keywords.values())


class Called:
    """Mixin for the class of a block, whose calls by timm's code then go through `BlockCall`."""

    block_call: BlockCall

    def __call__(self, tokens: Tensor, *values: Any, **keywords: Any) -> Tensor:
        return self.block_call(self, tokens, values, keywords)  # type: ignore[arg-type]


def _call_through(student: TimmStudent, block: nn.Module) -> None:
    within = {id(module) for module in block.modules()}
    paths = {number: path for number, path in enumerate(student._paths) if id(path) in within}
    block.__dict__["block_call"] = BlockCall(student, paths)
    block.__class__ = _called(type(block))  # type: ignore[arg-type]


@cache
def _called(kind: type) -> type:
    return type(kind.__name__, (Called, kind), {})


def _map_indices(reductions: list[int]) -> tuple[int, ...]:
    """Which of the model's feature maps: the last of each stage, or of a plain transformer four at even depths."""
    depth = len(reductions)
    if len(set(reductions)) == 1:
        return tuple(math.ceil(depth * (number + 1) / NUM_MAPS) - 1 for number in range(NUM_MAPS))
    return tuple(range(depth))[-NUM_MAPS:]
