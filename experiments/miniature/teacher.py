"""The miniature's teacher: a small ViT with a class token and absolute positions, trained contrastively without labels.

Recipe, losses and views are those of `train_demo_teacher`; here training can be stopped and goes on. A resumed start
draws other views than an undisturbed one would have. Leaves out several processes.
"""

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightly
import numpy as np
import torch
from lightly.loss import NTXentLoss
from lightly.models.utils import deactivate_requires_grad, update_momentum
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader

from experiments.miniature.images import LABELLED, UNLABELLED, files_of
from experiments.miniature.plan import Plan, TeacherTraining
from fd_scale.children import EndWithParent
from fd_scale.files import whole_file
from fd_scale.stops.preemption import StopRequest
from tools.train_demo_teacher import HEAD_WIDTH, MEAN, MODEL, STD, TEMPERATURE, Encoder, TwoViews, contrast

LOG_EVERY = 50


class Learner:
    """State of the training: query and momentum encoder, remembered negatives, optimizer. `step` steps are done."""

    def __init__(self, config: TeacherTraining, model_kwargs: dict[str, Any], device: torch.device):
        self.query = Encoder(model_kwargs).to(device)
        self.key = copy.deepcopy(self.query)
        deactivate_requires_grad(self.key)
        self.losses = nn.ModuleList(
            NTXentLoss(TEMPERATURE, memory_bank_size=(config.bank, HEAD_WIDTH)).to(device) for _ in range(2)
        )
        self.optimizer = torch.optim.AdamW(self.query.parameters(), lr=config.learning_rate, weight_decay=0.05)
        self.step = 0

    def save(self, path: Path) -> None:
        state = {
            "query": self.query.state_dict(),
            "key": self.key.state_dict(),
            "banks": dict(self.losses.named_buffers()),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        with whole_file(path) as file:
            torch.save(state, file)

    def load(self, path: Path, device: torch.device) -> None:
        state = torch.load(path, map_location=device, weights_only=True)
        self.query.load_state_dict(state["query"])
        self.key.load_state_dict(state["key"])
        for name, buffer in self.losses.named_buffers():  # lightly does not count them among the state
            buffer.copy_(state["banks"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


def train_teacher(plan: Plan, images: Path, folder: Path, out: Path) -> None:
    """Train on, from the newest state in `folder`; write `out` when all steps are done. SIGTERM saves and ends it."""
    config, stop = plan.teacher, StopRequest()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "state.pt"
    torch.manual_seed(config.seed)
    kwargs = model_kwargs(plan)
    learner = Learner(config, kwargs, device)
    if state.exists():
        learner.load(state, device)
    torch.manual_seed(config.seed + learner.step)
    np.random.seed(config.seed + learner.step)
    grid = plan.image_size // plan.patch_size
    files = files_of(images, (LABELLED, UNLABELLED))
    data = TwoViews(files, grid, plan.patch_size, blur=0.0)
    order = _order(len(data), min(config.batch, len(data)), learner.step, config)
    for views in DataLoader(data, batch_sampler=order, num_workers=config.workers, worker_init_fn=EndWithParent()):
        loss = train_step(learner, config, [part.to(device) for part in views], grid)
        if learner.step % LOG_EVERY == 0 or learner.step == config.steps:
            print(f"step {learner.step}/{config.steps}  loss {loss.item():.3f}", flush=True)
        if learner.step % config.save_every == 0 or stop.asked:
            learner.save(state)
        if stop.asked:
            return
    learner.save(state)
    facts = {
        "description": f"ViT trained contrastively on {len(files)} images, for the miniature only",
        "timm_model": MODEL,
        "timm_kwargs": kwargs,
        "mean": MEAN,
        "std": STD,
        "licence": "that of the images",
        "recipe": {"steps": config.steps, "batch": config.batch, "lightly": lightly.__version__},
    }
    weights = {name: tensor.cpu().contiguous() for name, tensor in learner.key.vit.state_dict().items()}
    with whole_file(out) as file:
        save_file(weights, file.name, metadata={"fd_scale_teacher": json.dumps(facts)})


def model_kwargs(plan: Plan) -> dict[str, Any]:
    """Arguments of timm for the teacher; a ViT of ours with absolute positions computes the same."""
    return {
        "img_size": plan.image_size,
        "patch_size": plan.patch_size,
        "embed_dim": plan.teacher.width,
        "depth": plan.teacher.depth,
        "num_heads": plan.teacher.heads,
        "num_classes": 0,
        "class_token": True,
        "global_pool": "avg",
        "fc_norm": False,  # the final norm on every token, before the mean
    }


def _order(images: int, batch: int, first: int, config: TeacherTraining) -> Iterator[list[int]]:
    """Batches of steps `first`.. to the end: every pass in a new order, what is left of a pass dropped."""
    in_pass = images // batch
    for step in range(first, config.steps):
        epoch, number = divmod(step, in_pass)
        shuffled = np.random.default_rng((config.seed, epoch)).permutation(images)
        yield shuffled[number * batch : (number + 1) * batch].tolist()


def train_step(learner: Learner, config: TeacherTraining, views: list[torch.Tensor], grid: int) -> torch.Tensor:
    """Take one step and return its loss. `views` is a batch of `TwoViews`, with `grid` tokens a side."""
    warm = min(1.0, (learner.step + 1) / (0.1 * config.steps))
    cosine = 0.5 * (1 + math.cos(math.pi * learner.step / config.steps))
    for group in learner.optimizer.param_groups:
        group["lr"] = config.learning_rate * warm * cosine
    update_momentum(learner.query, learner.key, config.momentum)
    losses, matches = learner.losses, grid * grid // 3
    of_images, of_patches = contrast(learner.query, learner.key, views, losses[0], losses[1], matches)
    loss = 0.5 * of_images + 0.5 * of_patches
    learner.optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(learner.query.parameters(), 3.0)
    learner.optimizer.step()
    learner.step += 1
    return loss
