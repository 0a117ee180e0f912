"""What the tests of resuming run on every rank: `program.py CHECK FOLDER...`, assertions inside."""

import json
from functools import partial
from pathlib import Path

import pytest
import timm.optim
import torch
from parallel.checkpoint.saved import SGD, content, norms, plain_step, same, save
from parallel.engines import build, engine_of, one_step, whole_parameters
from parallel.running import run_check

from fd_scale.parallel.checkpoint.loader import load_checkpoint
from fd_scale.parallel.checkpoint.reader import CheckpointReader
from fd_scale.parallel.checkpoint.state import training_state
from fd_scale.parallel.checkpoint.storage import open_storage
from fd_scale.parallel.ema import ShardedEma
from fd_scale.parallel.engine import full_parameters
from fd_scale.parallel.evaluation import fill
from fd_scale.parallel.ranks import Ranks

CASES = [  # stage, precision, and the rest of `engine_of`
    (0, "fp32", {}),
    (1, "fp32", {}),
    (1, "bf16", {}),
    (2, "fp32", {"optimizer": SGD}),
    (2, "bf16", {"offload": True}),
    (3, "fp32", {"offload": True}),
    (3, "bf16", {}),
    (3, "fp32", {"optimizer": SGD, "freeze": "student.patch_embed"}),
    (3, "bf16", {"freeze": "student.patch_embed"}),
    (2, "fp32", {"freeze": "student.patch_embed"}),
    (3, "fp32", {"optimizer": partial(torch.optim.RMSprop, lr=0.0, momentum=0.9)}),
    (3, "fp32", {"optimizer": partial(timm.optim.Lion, lr=0.0)}),
]
"""One of each stage, precision, offload, optimizer and frozen part; not all their products."""
SPREAD = (2, 3, 5, 6, 8)
"""Of these, those of `make test`: every stage, both precisions, an offload, another optimizer, a frozen part."""


def resume(ranks: Ranks, folder: str, which: str) -> None:
    """Save, go on; load into a fresh engine, go on: the same losses and weights, bit for bit."""
    for number in SPREAD if which == "spread" else range(len(CASES)):
        stage, precision, rest = CASES[number]
        case = f"stage {stage} {precision} {rest}"
        storage = open_storage(Path(folder) / str(number))
        undisturbed = engine_of(ranks, stage, precision, **rest)
        for step in range(3):
            one_step(undisturbed, ranks, step)
        save(training_state(undisturbed, ranks), storage, 3, ranks)
        expected = [one_step(undisturbed, ranks, step) for step in range(3, 5)]

        resumed = engine_of(ranks, stage, precision, seed=99, **rest)
        one_step(resumed, ranks, 7)  # so that copies of its own weights are there to be stale
        load_checkpoint(training_state(resumed, ranks), None, CheckpointReader(storage, 3))
        losses = [one_step(resumed, ranks, step) for step in range(3, 5)]
        assert losses == expected, (case, losses, expected)
        before, after = whole_parameters(undisturbed), whole_parameters(resumed)
        assert all(torch.equal(before[name], after[name]) for name in before), case


def train_and_save(ranks: Ranks, folder: str) -> None:
    """Three steps of stage 3 with an average, a checkpoint, and two more whose losses are left beside it."""
    engine = engine_of(ranks)
    state = training_state(engine, ranks)
    ema = ShardedEma(state, decay=0.9)
    for step in range(3):
        one_step(engine, ranks, step)
        ema.update(step + 1)
    save(state, open_storage(folder), 3, ranks, ema, record={"note": "kept"})
    losses = [one_step(engine, ranks, step) for step in range(3, 5)]
    if ranks.is_first:
        (Path(folder) / "losses.json").write_text(json.dumps(losses))


def elastic(ranks: Ranks, folder: str, again: str) -> None:
    """What another world wrote is read here, at any stage: saved again it is the same; training goes on as there."""
    reader = CheckpointReader(open_storage(folder), 3)
    expected = json.loads((Path(folder) / "losses.json").read_text())
    for number, (stage, offload) in enumerate([(3, False), (3, True), (2, False), (1, True), (0, False)]):
        engine = engine_of(ranks, stage, offload=offload, seed=5)
        state = training_state(engine, ranks)
        ema = ShardedEma(state, decay=0.9)
        load_checkpoint(state, ema, reader)
        storage = open_storage(Path(again) / str(number))
        save(state, storage, 3, ranks, ema)
        saved = CheckpointReader(storage, 3)
        assert same(content(reader), content(saved)), (stage, offload)
        assert saved.scalars == reader.scalars
        losses = [one_step(engine, ranks, step) for step in range(3, 5)]
        assert losses == pytest.approx(expected, rel=2e-6), (stage, offload)


def read_as_bf16(ranks: Ranks, folder: str) -> None:
    """fp32 masters become the weights of a bf16 run: masters equal, what computes rounded."""
    reader = CheckpointReader(open_storage(folder), 3)
    for stage in (1, 3):
        engine = engine_of(ranks, stage, "bf16", seed=5)
        load_checkpoint(training_state(engine, ranks), None, reader)
        for name, value in full_parameters(engine.module):
            assert torch.equal(value, reader.read(name).view(value.shape).bfloat16()), (stage, name)


def plain(ranks: Ranks, folder: str) -> None:
    """Modules without DeepSpeed, any torch optimizer: running statistics, frozen parts, states of odd shapes."""
    makers = {
        "adamw": partial(torch.optim.AdamW, lr=1e-2),
        "adamw_amsgrad": partial(torch.optim.AdamW, lr=1e-2, amsgrad=True),
        "sgd_without_momentum": partial(torch.optim.SGD, lr=1e-2),
        "nadam": partial(torch.optim.NAdam, lr=1e-2),
        "adagrad": partial(torch.optim.Adagrad, lr=1e-2),
        "adafactor": partial(torch.optim.Adafactor, lr=1e-2),
        "rprop": partial(torch.optim.Rprop, lr=1e-2),
        "lamb": partial(timm.optim.Lamb, lr=1e-2),  # counts steps in the group
    }
    for name, make in makers.items():
        (model, optimizer), (other, other_optimizer) = ((m, make(m.parameters())) for m in (norms(0), norms(1)))
        for step in range(3):
            plain_step(model, optimizer, step)
        storage = open_storage(Path(folder) / name)
        save(training_state(model, ranks, optimizer), storage, 3, ranks)
        load_checkpoint(training_state(other, ranks, other_optimizer), None, CheckpointReader(storage, 3))
        for step in range(3, 6):
            assert plain_step(model, optimizer, step) == plain_step(other, other_optimizer, step), name
        assert same(model.state_dict(), other.state_dict()), name


def average(ranks: Ranks, folder: str) -> None:
    """The sharded average equals the formula on whole weights, bit for bit, at every stage."""
    for stage in (0, 1, 3):
        engine = engine_of(ranks, stage)
        state = training_state(engine, ranks)
        ema = ShardedEma(state, decay=0.3)
        expected = whole_parameters(engine)
        for step in range(1, 5):  # up to the third the warm-up of the decay is what counts
            one_step(engine, ranks, step)
            ema.update(step)
            weight = 1 - min(0.3, (1 + step) / (10 + step))
            expected = {n: expected[n].lerp(w, weight) for n, w in whole_parameters(engine).items()}
        save(state, open_storage(Path(folder) / str(stage)), 4, ranks, ema)
        reader = CheckpointReader(open_storage(Path(folder) / str(stage)), 4)
        for name, value in expected.items():
            assert torch.equal(reader.read(name, "ema").view(value.shape), value), (stage, name)
        assert not torch.equal(reader.read("head.weight", "ema"), reader.read("head.weight"))


def evaluation_copy(ranks: Ranks) -> None:
    """The plain copy holds the fp32 masters, or their average, and buffers and frozen parts, at every stage."""
    for stage, precision in ((0, "fp32"), (2, "bf16"), (3, "fp32"), (3, "bf16")):
        engine = engine_of(ranks, stage, precision, freeze="student.patch_embed")
        engine.module.register_buffer("seen", torch.tensor([float(ranks.rank), 7.0]))
        state = training_state(engine, ranks)
        ema = ShardedEma(state, decay=0.5)
        one_step(engine, ranks, 0)
        ema.update(1)
        copy, averaged = build(), build()
        for module in (copy, averaged):
            module.register_buffer("seen", torch.zeros(2))
        fill(copy, state, None, ranks)
        fill(averaged, state, ema, ranks)
        assert copy.seen.tolist() == [0.0, 7.0]  # the first rank's
        trained = whole_parameters(engine)
        for name, parameter in copy.named_parameters():
            now = trained[name]
            assert torch.equal(parameter.to(now.dtype), now), (stage, precision, name)
            moved = not torch.equal(averaged.get_parameter(name), parameter)
            assert moved or name.startswith("student.patch_embed") or not parameter.abs().sum(), name
        images = torch.randn(2, 3, 32, 32)
        copy.eval()
        engine.module.eval()
        theirs = engine(images.to(next(engine.module.parameters()).dtype))[0].float()
        assert torch.allclose(copy(images)[0], theirs, atol=1e-5 if precision == "fp32" else 0.05), (stage, precision)


if __name__ == "__main__":
    run_check(globals())
