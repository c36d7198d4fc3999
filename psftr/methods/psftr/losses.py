"""The terms of eq. 8-11 as pure functions of tensors, unweighted.

Query terms are one number for each query given, which the criterion adds up and divides by the number of actions.
Sums and means are finite, with a gradient path, when nothing is given at all.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from psftr.segments import centre_width_to_start_end

ALPHA, GAMMA = 0.25, 2.0  # of the focal loss, section 6 of the method's notes


def class_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over the K given names: logits [M, K] and labels [M] of matched queries -> [M]."""
    return F.cross_entropy(logits, labels, reduction="none")


def segment_l1(segments_cw: Tensor, goal_cw: Tensor) -> Tensor:
    """|centre error| + |width error| of matched pairs [M, 2] (eq. 8) -> [M]."""
    return (segments_cw - goal_cw).abs().sum(-1)


def segment_overlap(segments_cw: Tensor, goal_cw: Tensor, *, overlap: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """1 - overlap, `tiou_paired` or `giou_paired`, of matched pairs [M, 2] (eq. 8) -> [M]."""
    return 1 - overlap(centre_width_to_start_end(segments_cw), centre_width_to_start_end(goal_cw))


def sigmoid_focal(logits: Tensor, labels: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Focal loss (Lin et al., 2017) per element: logits and labels in {0, 1} of one shape -> that shape (eq. 9).

    -alpha_t (1 - p_t)^gamma log p_t, with alpha_t = alpha for positives and 1 - alpha for the rest.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    p = logits.sigmoid()
    p_of_label = p * labels + (1 - p) * (1 - labels)
    alpha_of_label = alpha * labels + (1 - alpha) * (1 - labels)
    return alpha_of_label * (1 - p_of_label) ** gamma * cross_entropy


def saliency_bce(logits: Tensor, is_action: Tensor, is_left_out: Tensor) -> Tensor:
    """Binary cross-entropy per frame, averaged over the batch's frames that are not left out (eq. 10): all [B, T].

    is_left_out: True on padding, and where a frame is neither action nor background.
    """
    loss = F.binary_cross_entropy_with_logits(logits, is_action, reduction="none")
    return _mean_of_kept(loss, is_left_out)


def saliency_focal(logits: Tensor, is_action: Tensor, is_left_out: Tensor) -> Tensor:
    """Focal form of `saliency_bce`, as the peers train it: all [B, T]."""
    return _mean_of_kept(sigmoid_focal(logits, is_action, alpha=ALPHA, gamma=GAMMA), is_left_out)


def _mean_of_kept(loss: Tensor, is_left_out: Tensor) -> Tensor:
    is_kept = ~is_left_out
    return torch.where(is_kept, loss, 0.0).sum() / is_kept.sum().clamp(min=1)
