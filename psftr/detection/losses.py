"""The losses of equation 6 as functions of tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from psftr.segments import giou_paired, tiou_paired

_SHORTEST = 1e-8


def focal_loss(logits: Tensor, targets: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Sigmoid focal loss (Lin et al., 2017) of each value: -a_t (1 - p_t)^gamma log p_t; shapes as given."""
    probability = logits.sigmoid()
    of_truth = probability * targets + (1 - probability) * (1 - targets)
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return weight * (1 - of_truth) ** gamma * cross_entropy


def diou_loss(a: Tensor, b: Tensor) -> Tensor:
    """1 - tIoU + (distance of the centres / length of the hull)^2 of (start, end) a, b [...,2] -> [...]."""
    hull = torch.maximum(a[..., 1], b[..., 1]) - torch.minimum(a[..., 0], b[..., 0])
    apart = 0.5 * (a.sum(-1) - b.sum(-1))
    return 1 - tiou_paired(a, b) + (apart / hull.clamp(min=_SHORTEST)) ** 2


def giou_loss(a: Tensor, b: Tensor) -> Tensor:
    """1 - generalised IoU of (start, end) a, b [...,2] -> [...]."""
    return 1 - giou_paired(a, b)
