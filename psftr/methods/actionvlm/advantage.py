"""Language advantage: what language takes off the loss of a row, measured, predicted, and turned into its weight.

Legend: B windows, T rows of a window, C classes; class C is background.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn


class LanguageAdvantage(nn.Module):
    """Equation 1: A = mean_v^(c) - L_vl, with the mean loss per row and class of the last epoch of vision only.

    Algorithm 1 indexes the mean by phi_loc in line 14; it must be phi_cls. Background is a class of its own. The sums
    under way are buffers, so a training that is resumed in the middle of an epoch goes on with them.

    in_means: A is told in mean losses of a row (of all rows, background too) instead of in losses.
    """

    means: Tensor  # [C+1]
    totals: Tensor
    counts: Tensor
    epoch: Tensor

    def __init__(self, *, num_classes: int, in_means: bool) -> None:
        super().__init__()
        self.in_means = in_means
        for name in ("means", "totals", "counts"):
            self.register_buffer(name, torch.zeros(num_classes + 1))
        self.register_buffer("epoch", torch.tensor(-1))  # that the sums belong to

    def begin(self, epoch: int) -> None:
        """An epoch of vision only starts, or goes on after a resume."""
        if int(self.epoch) != epoch:
            self.totals.zero_()
            self.counts.zero_()
            self.epoch.fill_(epoch)

    @torch.no_grad()
    def add(self, losses: Tensor, classes: Tensor, counts: Tensor) -> None:
        """losses [B,T] of rows of vision only, their classes [B,T], counts [B,T] bool: which rows count."""
        chosen = classes[counts]
        self.totals.index_add_(0, chosen, losses[counts].to(self.totals.dtype))
        self.counts.index_add_(0, chosen, torch.ones_like(chosen, dtype=self.counts.dtype))

    @torch.no_grad()
    def end(self) -> None:
        """The means of the epoch. A class without a row takes the mean over all rows of the other classes."""
        totals, counts = self.totals, self.counts
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(totals)
            dist.all_reduce(counts)
        overall = totals[:-1].sum() / counts[:-1].sum().clamp(min=1)
        self.means.copy_(torch.where(counts > 0, totals / counts.clamp(min=1), overall))

    @torch.no_grad()
    def target(self, losses: Tensor, classes: Tensor) -> Tensor:
        """A [B,T] of equation 1; losses [B,T] with language. Nothing flows back through it."""
        advantage = self.means[classes] - losses.detach()
        if self.in_means:
            # sums of the last epoch of vision only: they stay until the next one begins
            advantage = advantage * self.counts.sum() / self.totals.sum().clamp(min=1e-12)
        return advantage


def advantage_loss(predicted: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """Equation 3: mean of (A_hat - A)^2 over the rows [B,T] that count; 0 where none does."""
    squared = (predicted - target.detach()) ** 2 * counts
    return squared.sum() / counts.sum().clamp(min=1)


def language_weight(predicted: Tensor) -> Tensor:
    """Equation 4: lambda = 2 sigmoid(ReLU(A_hat)) - 1, in [0, 1). Where A_hat < 0 only L_adv trains it."""
    return 2 * predicted.relu().sigmoid() - 1
