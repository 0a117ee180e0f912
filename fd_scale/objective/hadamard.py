"""Hadamard matrices: entries of 1 and -1, rows orthogonal. After Sylvester (doubling) and Paley (first construction).

These reach every width of a published teacher that we know of (384, 768, 1024, 1152, 1280, 1408, 1536, 1664, 4096), and
not every multiple of four.
"""

import torch
from torch import Tensor

from fd_scale.errors import BadInput


def hadamard(order: int) -> Tensor:
    """Make a Hadamard matrix (order, order) in fp64.

    Raises:
        BadInput: neither construction reaches that order.
    """
    core, doublings = order, 0
    while not _reached(core):
        if core % 2:
            raise BadInput(
                f"target.normalise=phi_s needs a Hadamard matrix, and none of order {order}, the target's channels, is "
                f"known here; set target.normalise=standardise or whiten"
            )
        core, doublings = core // 2, doublings + 1
    matrix = _paley(core - 1) if core > 2 else torch.ones(1, 1, dtype=torch.float64)
    for _ in range(doublings + (core == 2)):
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


def _reached(order: int) -> bool:
    """Without doubling, or from 2 by itself."""
    prime = order - 1
    return order in (1, 2) or (order % 4 == 0 and all(prime % factor for factor in range(2, int(prime**0.5) + 1)))


def _paley(prime: int) -> Tensor:
    """Of order prime + 1, for a prime that is 3 modulo 4: I + S with a skew S of quadratic residues."""
    character = -torch.ones(prime, dtype=torch.float64)
    character[torch.arange(1, prime).square() % prime] = 1
    character[0] = 0
    index = torch.arange(prime)
    matrix = torch.ones(prime + 1, prime + 1, dtype=torch.float64)
    matrix[1:, 0] = -1
    matrix[1:, 1:] = character[(index - index[:, None]) % prime] + torch.eye(prime, dtype=torch.float64)
    return matrix
