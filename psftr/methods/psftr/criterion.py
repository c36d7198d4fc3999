"""The training objective (eq. 11): match, call the losses, weight them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from psftr.data.ranks import num_ranks, sum_over_ranks
from psftr.methods.psftr import losses
from psftr.methods.psftr.matcher import Matches

if TYPE_CHECKING:
    from psftr.data.batches import Batch, Target
    from psftr.methods.psftr.network import LayerOutputs, Outputs
    from psftr.methods.psftr.settings import LossSettings


class Criterion:
    """Outputs and a batch -> every weighted loss term, and "total", their sum.

    Keys: "class", "l1", "iou", "actionness", "saliency", and "aux0/class" … for each earlier decoder layer, which
    is matched by itself. Query terms are sums divided by `count_actions`, and saliency is
    weighted by the rank's share of the frames: DDP averages gradients, so several ranks step as one with all windows
    would. Computed in float32 whatever autocast says.
    """

    def __init__(
        self,
        *,
        matcher: Callable[[LayerOutputs, Sequence[Target]], Matches],
        weights: LossSettings,
        overlap: Callable[[Tensor, Tensor], Tensor],
        saliency_loss: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> None:
        self.matcher = matcher
        self.weights = weights
        self.overlap = overlap
        self.saliency_loss = saliency_loss

    def __call__(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        layers = [*outputs.auxiliary, outputs.final]
        with torch.autocast(outputs.saliency_logits.device.type, enabled=False):
            of_layers = self._query_terms(layers, self._match(layers, batch.targets), batch.targets)
            is_left_out = batch.is_padding | batch.is_ignored
            saliency = self.saliency_loss(outputs.saliency_logits.float(), batch.is_action.float(), is_left_out)
            saliency = self.weights.saliency * frame_share(is_left_out) * saliency
            total = torch.cat([*of_layers.values(), saliency[None]]).sum()
        by_layer = [dict(zip(of_layers, terms)) for terms in zip(*(one.unbind() for one in of_layers.values()))]
        named = {f"aux{i}/{name}": term for i, terms in enumerate(by_layer[:-1]) for name, term in terms.items()}
        return {**by_layer[-1], "saliency": saliency, **named, "total": total}

    def of_known_queries(
        self, layers: Sequence[LayerOutputs], matches: Matches, targets: Sequence[Target], is_left_out: Tensor
    ) -> Tensor:
        """The query terms of all layers, summed, for queries whose actions are known beforehand: `matches` of each.

        is_left_out [B,Q]: queries that stand for nothing and have no part in any term.
        """
        with torch.autocast(is_left_out.device.type, enabled=False):
            terms = self._query_terms(layers, matches * len(layers), targets, is_left_out)
            return torch.cat([*terms.values()]).sum()

    @torch.no_grad()
    def query_losses(self, layer: LayerOutputs, targets: Sequence[Target]) -> tuple[Tensor, Tensor]:
        """(loss [B,Q], label [B,Q]): class and segment terms of matched queries, actionness of the rest, label -1."""
        window, query, labels, goal_cw = _gather(self.matcher(layer, targets), targets)
        actionness = layer.actionness_logits.float()
        w, segments_cw = self.weights, layer.segments_cw.float()[window, query]
        loss = w.actionness * losses.sigmoid_focal(
            actionness, torch.zeros_like(actionness), alpha=losses.ALPHA, gamma=losses.GAMMA
        )
        named = losses.class_cross_entropy(layer.class_logits.float()[window, query], labels)
        overlap = losses.segment_overlap(segments_cw, goal_cw, overlap=self.overlap)
        loss[window, query] = (
            w.classification * named + w.l1 * losses.segment_l1(segments_cw, goal_cw) + w.iou * overlap
        )
        label = torch.full(actionness.shape, -1, device=actionness.device)
        label[window, query] = labels
        return loss, label

    @torch.no_grad()
    def _match(self, layers: Sequence[LayerOutputs], targets: Sequence[Target]) -> Matches:
        """The matches of all layers' windows, one layer after the other: a GPU is waited for once."""
        return self.matcher(_as_one_batch(layers), [*targets] * len(layers))

    def _query_terms(
        self,
        layers: Sequence[LayerOutputs],
        matches: Matches,
        targets: Sequence[Target],
        is_left_out: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Each term of the N layers, weighted, [N]; matches of the first layer's windows, then the next one's."""
        num_layers, whole = len(layers), _as_one_batch(layers)
        window, query, labels, goal_cw = _gather(matches, [*targets] * num_layers)
        class_logits = whole.class_logits.float()[window, query]  # [N M, K], as many pairs M in every layer
        segments_cw = whole.segments_cw.float()[window, query]  # [N M, 2]
        actionness = whole.actionness_logits.float()
        is_matched = torch.zeros_like(actionness)
        is_matched[window, query] = 1.0
        focal = losses.sigmoid_focal(actionness, is_matched, alpha=losses.ALPHA, gamma=losses.GAMMA)
        if is_left_out is not None:
            focal = focal.masked_fill(is_left_out.repeat(num_layers, 1), 0.0)
        w, num_actions = self.weights, count_actions(targets, actionness.device)
        named = losses.class_cross_entropy(class_logits, labels)
        distance = losses.segment_l1(segments_cw, goal_cw)
        apart = losses.segment_overlap(segments_cw, goal_cw, overlap=self.overlap)
        weighted = {
            "class": (w.classification, named),
            "l1": (w.l1, distance),
            "iou": (w.iou, apart),
            "actionness": (w.actionness, focal),
        }
        return {
            name: each.reshape(num_layers, each.numel() // num_layers).sum(1) * (weight / num_actions)
            for name, (weight, each) in weighted.items()
        }


def _as_one_batch(layers: Sequence[LayerOutputs]) -> LayerOutputs:
    """The windows of the first layer, then those of the next: [N B,Q,...]."""
    fields = ("class_logits", "segments_cw", "actionness_logits")
    return replace(layers[0], **{name: torch.cat([getattr(layer, name) for layer in layers]) for name in fields})


def count_actions(targets: Sequence[Target], device: torch.device) -> Tensor:
    """max(1, number of actions of all ranks) / number of ranks: DDP averages gradients, so this sums them."""
    count = torch.tensor(float(sum(len(target.labels) for target in targets)), device=device)
    return sum_over_ranks(count).clamp(min=1.0) / num_ranks()


def frame_share(is_left_out: Tensor) -> Tensor:
    """Frames of this rank that count, over their mean over ranks; 1 where there is one rank."""
    kept = (~is_left_out).sum().float()
    return kept.clamp(min=1.0) / (sum_over_ranks(kept) / num_ranks()).clamp(min=1.0)


def _gather(matches: Matches, targets: Sequence[Target]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Per-window matches -> flat (window [M], query [M], label [M], segment [M, 2]) on the targets' device."""
    device = targets[0].labels.device
    pairs = torch.tensor([len(query) for query, _ in matches])
    window = torch.arange(len(matches)).repeat_interleave(pairs).to(device)
    query = torch.cat([query for query, _ in matches]).to(device)
    first = torch.tensor([0, *(len(t.labels) for t in targets[:-1])]).cumsum(0)
    goal = (torch.cat([goal for _, goal in matches]) + first.repeat_interleave(pairs)).to(device)
    labels = torch.cat([target.labels for target in targets])[goal]
    goal_cw = torch.cat([target.segments_cw for target in targets])[goal].float()
    return window, query, labels, goal_cw
