"""x + dropout(branch): how every branch of the network joins its input."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Residual"]

_STEPS = 2**16  # dropout probabilities are multiples of one over this


class Residual(nn.Module):
    """x + dropout(branch): independent, each number kept with probability 1 - dropout and divided by it.

    On a CPU this takes about 0.4 of the time of PyTorch's dropout, its slow twin, which runs everywhere else: 16 random
    bits decide about a number. So the probability is the nearest multiple of 2^-16.
    """

    def __init__(self, *, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """x [B|1,N,d] and branch [B|1,N,d] -> [B|1,N,d]."""
        if not self.training or self.dropout == 0:
            return x + branch
        if branch.device.type != "cpu" or torch.compiler.is_compiling():
            return x + F.dropout(branch, self.dropout)
        dropped = min(round(self.dropout * _STEPS), _STEPS - 1)
        dtype = torch.promote_types(x.dtype, branch.dtype)
        factor = torch.empty(branch.shape, dtype=dtype)
        torch.ge(_random_bits(branch.shape), dropped - _STEPS // 2, out=factor)  # 0 or 1, in need of no conversion
        return x + branch.to(dtype) * factor.mul_(_STEPS / (_STEPS - dropped))


def _random_bits(shape: torch.Size) -> Tensor:
    """int16 numbers, all 65,536 values alike, from torch's global random state: four from each draw."""
    count = shape.numel()
    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)  # type: ignore[call-overload]
    return words.view(torch.int16)[:count].view(shape)
