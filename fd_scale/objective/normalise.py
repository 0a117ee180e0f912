"""Normalisation that takes away the scale of a teacher's tokens, so that one learning rate serves all teachers.

whiten        LayerNorm without affine over channels, token by token (arXiv 2205.14141, section 3)
l2            each token to length 1 (its ablation)
none          as they are (its ablation)
standardise   each channel to mean 0 and variance 1 over all tokens so far
phi_s         PHI-S (arXiv 2410.01680, section 3.3): rotated so that all channels have one variance, then one scale

The last two need statistics. Those are sums in fp64 over all ranks, counted from one optimizer step to the next: what a
step applies depends on earlier steps alone, and neither on ranks nor on micro-batches. The rotation of PHI-S is fixed
by the calibration before the first step, unlike its mean and its scale: eigenvectors of a covariance that moves change
sign and order, and each time the student would face another task.
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from fd_scale.errors import BadInput
from fd_scale.objective.config import Normalisation
from fd_scale.objective.hadamard import hadamard

SumOverRanks = Callable[[Tensor], Tensor]
"""In place. Collective."""

EPS = 1e-5


def whiten(tokens: Tensor) -> Tensor:
    """Whiten each token (..., C) by its mean and variance over the channels."""
    return F.layer_norm(tokens, tokens.shape[-1:], eps=EPS)


class Normaliser:
    """Normaliser of a teacher's tokens, (B, T, C) fp32 -> (B, T, C) fp32, token by token; this one has no state.

    Where there is state, each call counts its tokens: call it once for each micro-batch of an optimizer step.
    """

    def __init__(self, apply: Callable[[Tensor], Tensor]):
        self.apply = apply

    def __call__(self, tokens: Tensor) -> Tensor:
        return self.apply(tokens)

    def tensors(self) -> dict[str, Tensor]:
        """State of the normaliser, whole and alike on every rank.

        It is saved with checkpoints, and resuming writes to it in place.
        """
        return {}

    @property
    def needs_calibration(self) -> bool:
        return False

    def calibrate(
        self, steps: int, batches: Iterable[Tensor], total: SumOverRanks, is_first: bool, observed: float = 1.0
    ) -> None:
        """Take the first statistics from `batches`, this rank's micro-batches of `steps` global ones. Collective.

        Args:
            observed: share of the tokens that the teacher made itself; the others, interpolated, show nothing new.
        """

    def advance(self, total: SumOverRanks) -> None:
        """Make what an optimizer step saw count from now on. Collective."""


class Standardise(Normaliser):
    """Normaliser to mean 0 and variance 1 of each channel."""

    def __init__(self, width: int, device: torch.device):
        # steps that the calibration has counted already, tokens, their sum and the sum of their squares by channel
        self._kept = torch.zeros(2 + 2 * width, dtype=torch.float64, device=device)
        self._seen = torch.zeros_like(self._kept)
        self.width = width

    def tensors(self) -> dict[str, Tensor]:
        return {"sums": self._kept}

    @property
    def needs_calibration(self) -> bool:
        return not self._kept[1]

    def calibrate(
        self, steps: int, batches: Iterable[Tensor], total: SumOverRanks, is_first: bool, observed: float = 1.0
    ) -> None:
        for tokens in batches:
            self._count(tokens.flatten(0, -2).double())
        self._kept.copy_(total(self._seen))
        self._kept[0] = steps
        self._seen.zero_()

    def advance(self, total: SumOverRanks) -> None:
        if self._kept[0] > 0:  # a batch of the calibration, seen again
            self._kept[0] -= 1
        else:
            self._kept += total(self._seen)
        self._seen.zero_()

    def __call__(self, tokens: Tensor) -> Tensor:
        mean, variance = self._moments()
        self._count(tokens.flatten(0, -2).double())
        return (tokens - mean.float()) * (variance + EPS).rsqrt().float()

    def _count(self, rows: Tensor) -> None:
        """rows (N, C) fp64"""
        self._seen[1] += len(rows)
        self._seen[2 : 2 + self.width] += rows.sum(dim=0)
        self._seen[2 + self.width :] += rows.square().sum(dim=0)

    def _moments(self) -> tuple[Tensor, Tensor]:
        """(C,) twice, fp64: mean and variance."""
        mean, square = (self._kept[2:] / self._kept[1]).split(self.width)
        return mean, (square - mean.square()).clamp(min=0)


class PhiS(Standardise):
    """PHI-S normaliser: (x - mean) Rᵀ / phi, where R = H Uᵀ.

    U are the eigenvectors of the covariance and H is a Hadamard matrix.

    phi² is the mean variance of a channel.
    """

    def __init__(self, width: int, device: torch.device):
        super().__init__(width, device)
        hadamard(width)  # may refuse
        self._rotation = torch.zeros(width, width, device=device)

    def tensors(self) -> dict[str, Tensor]:
        return {**super().tensors(), "rotation": self._rotation}

    def calibrate(
        self, steps: int, batches: Iterable[Tensor], total: SumOverRanks, is_first: bool, observed: float = 1.0
    ) -> None:
        products = torch.zeros(self.width, self.width, dtype=torch.float64, device=self._rotation.device)

        def multiplied() -> Iterable[Tensor]:
            for tokens in batches:
                rows = tokens.flatten(0, -2).double()
                products.addmm_(rows.T, rows)
                yield tokens

        super().calibrate(steps, multiplied(), total, is_first)
        count = int(self._kept[1])
        made = round(count * observed)
        if made < self.width:
            # Rounding would choose the axes that no token reaches, and later tokens reach them.
            enlarged = f", from which target.resize makes {count}" if made < count else ""
            raise BadInput(
                f"target.normalise=phi_s finds no covariance of {self.width} channels in {made} tokens{enlarged}; "
                f"raise target.calibration_steps or train.global_batch",
                agreed=True,
            )
        mean, _ = self._moments()
        covariance = total(products) / count - mean.outer(mean)
        if is_first:  # one machine's eigenvectors for all
            self._rotation.copy_(rotation(covariance, hadamard(self.width)))
        total(self._rotation)

    def __call__(self, tokens: Tensor) -> Tensor:
        mean, variance = self._moments()
        self._count(tokens.flatten(0, -2).double())
        scale = (variance.mean() + EPS).rsqrt()  # the mean variance is the same in any rotation
        return (tokens - mean.float()) @ self._rotation.T * scale.float()


def rotation(covariance: Tensor, signs: Tensor) -> Tensor:
    """Compute the rotation R (C, C) of a covariance (C, C) fp64 by a Hadamard matrix.

    R is orthogonal, and R cov Rᵀ has one value all along its diagonal.
    """
    _, axes = torch.linalg.eigh(covariance.cpu())  # columns
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    return (signs / len(signs) ** 0.5) @ (axes * largest.sign()).T


def make_normaliser(name: Normalisation, width: int, device: torch.device) -> Normaliser:
    """Make the normaliser that a configuration names.

    Raises:
        BadInput: PHI-S has no rotation for that width.
    """
    if name == "standardise":
        return Standardise(width, device)
    if name == "phi_s":
        return PhiS(width, device)
    return Normaliser({"whiten": whiten, "l2": lambda tokens: F.normalize(tokens, dim=-1), "none": lambda x: x}[name])
