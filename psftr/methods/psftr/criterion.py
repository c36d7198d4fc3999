"""The training objective (eq. 11): match, call the losses, weight them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from psftr.data.ranks import num_ranks, sum_over_ranks
from psftr.methods.psftr import losses
from psftr.methods.psftr.matcher import Matches
from psftr.segments import centre_width_to_start_end

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
        with torch.autocast(outputs.saliency_logits.device.type, enabled=False):
            num_actions = count_actions(batch.targets, outputs.saliency_logits.device)
            *auxiliary, matches = self._match((*outputs.auxiliary, outputs.final), batch.targets)
            terms = self._query_terms(outputs.final, matches, batch.targets, num_actions)
            is_left_out = batch.is_padding | batch.is_ignored
            saliency = self.saliency_loss(outputs.saliency_logits.float(), batch.is_action.float(), is_left_out)
            terms["saliency"] = self.weights.saliency * frame_share(is_left_out) * saliency
            for i, (layer, matches) in enumerate(zip(outputs.auxiliary, auxiliary, strict=True)):
                layer_terms = self._query_terms(layer, matches, batch.targets, num_actions)
                terms |= {f"aux{i}/{name}": term for name, term in layer_terms.items()}
            terms["total"] = torch.stack(list(terms.values())).sum()
        return terms

    def of_known_queries(
        self, layers: Sequence[LayerOutputs], matches: Matches, targets: Sequence[Target], device: torch.device
    ) -> Tensor:
        """The query terms of all layers, summed, for queries whose actions are known beforehand (`matches`)."""
        with torch.autocast(device.type, enabled=False):
            num_actions = count_actions(targets, device)
            terms = [self._query_terms(layer, matches, targets, num_actions) for layer in layers]
            return torch.stack([term for of_layer in terms for term in of_layer.values()]).sum()

    @torch.no_grad()
    def query_losses(self, layer: LayerOutputs, targets: Sequence[Target]) -> tuple[Tensor, Tensor]:
        """(loss [B,Q], label [B,Q]): class and segment terms of matched queries, actionness of the rest, label -1."""
        window, query, labels, goal_cw = _gather(self.matcher(layer, targets), targets)
        actionness = layer.actionness_logits.float()
        w, segments_cw = self.weights, layer.segments_cw.float()[window, query]
        loss = w.actionness * losses.sigmoid_focal(
            actionness, torch.zeros_like(actionness), alpha=losses.ALPHA, gamma=losses.GAMMA
        )
        overlap = self.overlap(centre_width_to_start_end(segments_cw), centre_width_to_start_end(goal_cw))
        named = F.cross_entropy(layer.class_logits.float()[window, query], labels, reduction="none")
        distance = (segments_cw - goal_cw).abs().sum(-1)
        loss[window, query] = w.classification * named + w.l1 * distance + w.iou * (1 - overlap)
        label = torch.full(actionness.shape, -1, device=actionness.device)
        label[window, query] = labels
        return loss, label

    @torch.no_grad()
    def _match(self, layers: Sequence[LayerOutputs], targets: Sequence[Target]) -> list[Matches]:
        """The matches of every layer, found as those of one long batch: a GPU is waited for once."""
        fields = ("class_logits", "segments_cw", "actionness_logits")
        together = replace(
            layers[0], **{name: torch.cat([getattr(layer, name) for layer in layers]) for name in fields}
        )
        matches = self.matcher(together, [*targets] * len(layers))
        return [matches[first : first + len(targets)] for first in range(0, len(matches), len(targets))]

    def _query_terms(
        self, layer: LayerOutputs, matches: Matches, targets: Sequence[Target], num_actions: Tensor
    ) -> dict[str, Tensor]:
        window, query, labels, goal_cw = _gather(matches, targets)
        class_logits = layer.class_logits.float()[window, query]  # [M, K]
        segments_cw = layer.segments_cw.float()[window, query]  # [M, 2]
        actionness = layer.actionness_logits.float()
        is_matched = torch.zeros_like(actionness)
        is_matched[window, query] = 1.0
        focal = losses.sigmoid_focal(actionness, is_matched, alpha=losses.ALPHA, gamma=losses.GAMMA).sum()
        w = self.weights
        return {
            "class": w.classification * losses.class_cross_entropy(class_logits, labels) / num_actions,
            "l1": w.l1 * losses.segment_l1(segments_cw, goal_cw) / num_actions,
            "iou": w.iou * losses.segment_overlap(segments_cw, goal_cw, overlap=self.overlap) / num_actions,
            "actionness": w.actionness * focal / num_actions,
        }


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
    window = torch.cat([torch.full_like(query, b) for b, (query, _) in enumerate(matches)]).to(device)
    query = torch.cat([query for query, _ in matches]).to(device)
    first = torch.tensor([0, *(len(t.labels) for t in targets[:-1])]).cumsum(0)
    goal = torch.cat([goal + first[b] for b, (_, goal) in enumerate(matches)]).to(device)
    labels = torch.cat([target.labels for target in targets])[goal]
    goal_cw = torch.cat([target.segments_cw for target in targets])[goal].float()
    return window, query, labels, goal_cw
