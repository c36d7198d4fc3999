"""One-to-one assignment of queries to actions (eq. 7): Hungarian matching on class, L1 and overlap costs.

The class term is a function passed in, so that the paper's (class), GAP's (actionness) and their sum are three
small functions and `match` knows none of them by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from psftr.errors import PsftrError
from psftr.methods.psftr.losses import ALPHA, GAMMA
from psftr.segments import centre_width_to_start_end

if TYPE_CHECKING:
    from psftr.data.batches import Target
    from psftr.methods.psftr.network import LayerOutputs
    from psftr.methods.psftr.settings import MatcherSettings

ClassCost = Callable[["LayerOutputs", Tensor], Tensor]
"""(outputs of one layer, labels [B, N]) -> cost [B, Q, N]; lower means a better pair."""

Matches = list[tuple[Tensor, Tensor]]
"""Per window (query indices, target indices), both long [min(Q, N)] on the CPU."""


def class_cost(outputs: LayerOutputs, labels: Tensor) -> Tensor:
    """Cross-entropy of giving query q the label of action n: the class loss itself (eq. 7) -> [B, Q, N]."""
    log_probability = F.log_softmax(outputs.class_logits.float(), dim=-1)
    return -_take_labels(log_probability, labels)


def class_probability_cost(outputs: LayerOutputs, labels: Tensor) -> Tensor:
    """Minus the probability of the label, DETR's bounded stand-in for the cross-entropy -> [B, Q, N]."""
    return -_take_labels(outputs.class_logits.float().softmax(dim=-1), labels)


def actionness_cost(outputs: LayerOutputs, labels: Tensor) -> Tensor:
    """Focal loss of calling query q an action minus that of calling it background -> [B, Q, N].

    Blind to the label: every action of a window sees the same cost.
    """
    logits = outputs.actionness_logits.float()
    p = logits.sigmoid()
    as_action = -ALPHA * (1 - p) ** GAMMA * F.logsigmoid(logits)
    as_background = -(1 - ALPHA) * p**GAMMA * F.logsigmoid(-logits)
    return (as_action - as_background).unsqueeze(-1).expand(-1, -1, labels.shape[1])


def class_and_actionness_cost(outputs: LayerOutputs, labels: Tensor) -> Tensor:
    """Sum of `class_cost` and `actionness_cost` -> [B, Q, N]."""
    return class_cost(outputs, labels) + actionness_cost(outputs, labels)


def _take_labels(per_class: Tensor, labels: Tensor) -> Tensor:
    """per_class [B, Q, K], labels [B, N] -> [B, Q, N]."""
    return per_class.gather(-1, labels.unsqueeze(1).expand(-1, per_class.shape[1], -1))


@torch.no_grad()
def match(
    outputs: LayerOutputs,
    targets: Sequence[Target],
    *,
    class_cost: ClassCost,
    overlap: Callable[[Tensor, Tensor], Tensor],
    weights: MatcherSettings,
) -> Matches:
    """The cheapest one-to-one pairing of queries and actions in every window.

    cost = classification * class + l1 * L1(centre, width) + iou * (1 - overlap), weighted by `weights`, computed once
    for the whole batch with the targets padded to the longest list. `overlap` is `tiou_pairwise` or
    `giou_pairwise`. Raises PsftrError when the outputs are not finite.
    """
    sizes = [len(target.labels) for target in targets]
    if not any(sizes):
        return [(torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long)) for _ in targets]
    labels = torch.nn.utils.rnn.pad_sequence([t.labels for t in targets], batch_first=True)  # [B, N]
    goal_cw = torch.nn.utils.rnn.pad_sequence([t.segments_cw for t in targets], batch_first=True).float()
    segments_cw = outputs.segments_cw.float()
    l1 = (segments_cw.unsqueeze(2) - goal_cw.unsqueeze(1)).abs().sum(-1)  # [B, Q, N]
    shared = overlap(centre_width_to_start_end(segments_cw), centre_width_to_start_end(goal_cw))
    cost = weights.classification * class_cost(outputs, labels) + weights.l1 * l1 + weights.iou * (1 - shared)
    table = cost.cpu().numpy()  # the only transfer
    try:
        pairs = [linear_sum_assignment(rows[:, :n]) for rows, n in zip(table, sizes)]
    except ValueError as error:
        raise PsftrError(
            "the network's outputs are not finite, so nothing can be matched: the training has diverged; "
            "lower optimizer.lr, lengthen the warm-up, or train in 32-bit precision"
        ) from error
    return [(torch.from_numpy(query).long(), torch.from_numpy(goal).long()) for query, goal in pairs]
