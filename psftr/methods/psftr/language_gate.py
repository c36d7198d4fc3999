"""The language gate: text is added only as far as it is expected to lower the loss (ActionVLM, section 3.3 and 3.4).

A gate predicts, for every frame or query, the language advantage: how much lower the loss is with text than without
(equation 2). What text adds is weighted by it (equations 4 and 5). In training every second step has its text off, and
the mean losses of these steps, class by class, are what the losses of the other steps are compared with (equation 1).
ActionVLM alternates epochs; PSFTR's 20 to 30 are too few to halve. No gate ever reads which class a frame is of.
Equation numbers in this file are those of ActionVLM where not said otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psftr.methods.psftr.sgqg import SemanticPromptInfusion
from psftr.methods.psftr.similarity import NameGuidance
from psftr.methods.psftr.ssae import CrossModalFusion

if TYPE_CHECKING:
    from psftr.data.batches import Batch
    from psftr.methods.psftr.criterion import Criterion
    from psftr.methods.psftr.network import Outputs

__all__ = [
    "ClassMeans",
    "GatedEnhancement",
    "GatedFusion",
    "GatedNameGuidance",
    "GatedPromptInfusion",
    "GatedTraining",
    "LanguageGate",
    "advantage_loss",
    "frame_groups",
    "language_weight",
]

LEFT_OUT = -1  # group of a frame or query that is compared with nothing
_MOMENTUM = 0.05  # a class mean ends as an average over about its last twenty steps without text
_START = 1.0  # a gate starts open: a closed one would leave what it weights without gradient


def language_weight(advantage: Tensor) -> Tensor:
    """Equation 4: 2 sigmoid(ReLU(A)) - 1, in [0, 1); zero where text is expected to do harm."""
    return 2 * F.relu(advantage).sigmoid() - 1


def advantage_loss(predicted: Tensor, advantage: Tensor, is_kept: Tensor) -> Tensor:
    """Equation 3: the mean of (predicted - advantage)^2 where `is_kept`; all of one shape. Zero where nothing is kept.

    `advantage` is a target: no gradient goes into it.
    """
    squared = (predicted - advantage.detach()).square()
    return torch.where(is_kept, squared, 0.0).sum() / is_kept.sum().clamp(min=1)


class LanguageGate(nn.Module):
    """Weights what text adds to each frame or query. `of`: "frames" or "queries".

    is_open: with False, in training, nothing is added; in inference a gate is always open.
    predicted: the advantage [...] that the last training step predicted.
    """

    def __init__(self, *, dim: int, of: str) -> None:
        super().__init__()
        self.of = of
        self.is_open = True
        self.predicted: Tensor | None = None
        # without drawing random numbers, so that the rest of a network starts the same with a gate and without
        self.advantage = nn.utils.skip_init(nn.Linear, 2 * dim, 1)
        nn.init.zeros_(self.advantage.weight)
        nn.init.constant_(self.advantage.bias, _START)

    def forward(self, own: Tensor, added: Tensor) -> Tensor:
        """own [...,d], what text adds to it [...,d] -> the weighted addition [...,d]. Shapes may broadcast."""
        own, added = torch.broadcast_tensors(own, added.to(own.dtype))
        predicted = self.advantage(torch.cat((own, added), dim=-1)).squeeze(-1)  # equation 2
        weight = language_weight(predicted)
        if self.training:
            self.predicted = predicted
            weight = weight * float(self.is_open)  # times zero, so that every parameter keeps a gradient
        return weight[..., None] * added  # equation 5


class GatedNameGuidance(NameGuidance):
    """V~ and, through a gate, what the curves of all names say about every frame."""

    def __init__(self, *, gate: LanguageGate, channels: int, dim: int) -> None:
        super().__init__(channels=channels, dim=dim)
        self.gate = gate

    def forward(self, visual: Tensor, curves: Tensor, is_padding: Tensor) -> Tensor:
        """visual V~ [B,T,d] and curves S [B,K,T], 0 where padded; is_padding [B,T] -> [B,T,d], 0 where padded."""
        added = super().forward(torch.zeros_like(visual), curves, is_padding)
        return visual + self.gate(visual, added)


class GatedFusion(CrossModalFusion):
    """FFN(LayerNorm(F~ + lambda CA(F~, T~, T~))): equation 1 of PSFTR with a gate on what frames read of names."""

    def __init__(self, *, gate: LanguageGate, **parts: Any) -> None:
        super().__init__(**parts)
        self.gate = gate

    def forward(self, x: Tensor, other: Tensor, is_padding: Tensor | None, other_is_padding: Tensor | None) -> Tensor:
        """x [B|1,N,d], other [B|1,M,d], is_padding [B,N] and other_is_padding [B,M] of each -> [B|1,N,d]."""
        attended = F.dropout(self.attention(x, other, other, other_is_padding), self.residual.dropout, self.training)
        return self.feed_forward(self.norm(x + self.gate(x, attended)), is_padding)


class GatedPromptInfusion(SemanticPromptInfusion):
    """FFN(LayerNorm(Q_bar + lambda CA(Q_bar, T^, T^))): equation 3 of PSFTR with a gate."""

    def __init__(self, *, gate: LanguageGate, **parts: Any) -> None:
        super().__init__(**parts)
        self.gate = gate

    def forward(self, attended: Tensor, content: Tensor, text: Tensor) -> Tensor:
        """attended Q_bar and content Q [B|1,Q,d], text T^ [B|1,K,d] -> [B|1,Q,d]."""
        infused = F.dropout(self.attention(attended, text, text), self.residual.dropout, self.training)
        return self.feed_forward(self.norm(attended + self.gate(attended, infused)))


class GatedEnhancement(nn.Module):
    """Q_cls = Q^ + lambda fusion(prototype): equation 6 of PSFTR with a gate. `fusion` adds to the queries."""

    def __init__(self, *, gate: LanguageGate, fusion: nn.Module) -> None:
        super().__init__()
        self.gate = gate
        self.fusion = fusion

    def forward(self, queries: Tensor, prototype: Tensor) -> Tensor:
        """queries [N,B,Q,d], prototype [B,1,D] -> [N,B,Q,d]."""
        return queries + self.gate(queries, self.fusion(torch.zeros_like(queries), prototype))


class ClassMeans(nn.Module):
    """The mean loss without text of each class and, last, of background: L_v of equation 1, as running means."""

    mean_loss: Tensor
    steps_seen: Tensor

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("mean_loss", torch.zeros(num_classes + 1))
        self.register_buffer("steps_seen", torch.zeros(num_classes + 1))

    @torch.no_grad()
    def update(self, loss: Tensor, groups: Tensor) -> None:
        """Losses and groups of one step without text, of one shape; a plain average at first, then a running one."""
        for group in groups[groups != LEFT_OUT].unique().tolist():
            self.steps_seen[group] += 1
            weight = max(1 / self.steps_seen[group].item(), _MOMENTUM)
            self.mean_loss[group].lerp_(loss[groups == group].mean(), weight)

    def advantage(self, loss: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Equation 1: (mean loss of its class without text - its own loss with text, where the mean is known)."""
        mean = self.mean_loss[groups.clamp(min=0)]
        return mean - loss, (groups != LEFT_OUT) & (self.steps_seen[groups.clamp(min=0)] > 0)


class GatedTraining(nn.Module):
    """What a network with gates needs in training: alternating steps, class means, and the advantage loss."""

    def __init__(self, *, gates: Sequence[LanguageGate], num_classes: int) -> None:
        super().__init__()
        self._gates = tuple(gates)  # a tuple: they belong to the network
        self.background = num_classes
        self.means = nn.ModuleDict({of: ClassMeans(num_classes=num_classes) for of in sorted({g.of for g in gates})})

    def begin_step(self, step: int) -> None:
        """Even steps have their text off."""
        for gate in self._gates:
            gate.is_open = step % 2 == 1

    def advantage_loss(self, outputs: Outputs, batch: Batch, criterion: Criterion) -> Tensor:
        """Equation 3, summed over the gates, of a step with text; of one without, the means are updated and it is 0."""
        total = outputs.saliency_logits.new_zeros((), dtype=torch.float32)
        for of, module in self.means.items():
            means = cast(ClassMeans, module)
            loss, groups = self._losses(of, outputs, batch, criterion)
            gates = [gate for gate in self._gates if gate.of == of]
            if not gates[0].is_open:
                means.update(loss, groups)
                continue
            advantage, is_kept = means.advantage(loss, groups)
            for predicted in _predictions(gates):
                own = predicted[:, : advantage.shape[1]]  # denoising queries follow the learnable ones
                total = total + advantage_loss(own.expand_as(advantage), advantage, is_kept)
        for gate in self._gates:
            gate.predicted = None  # a module that holds part of a graph cannot be copied
        return total

    def _losses(self, of: str, outputs: Outputs, batch: Batch, criterion: Criterion) -> tuple[Tensor, Tensor]:
        """(loss, group), both [B,T] of frames or [B,Q] of queries."""
        with torch.no_grad():
            if of == "queries":
                loss, labels = criterion.query_losses(outputs.final, batch.targets)
                return loss, torch.where(labels < 0, self.background, labels)
            loss = F.binary_cross_entropy_with_logits(
                outputs.saliency_logits.float(), batch.is_action.float(), reduction="none"
            )
            return loss, frame_groups(batch, background=self.background)


def _predictions(gates: Sequence[LanguageGate]) -> Iterator[Tensor]:
    """[B|1,T] or [B|1,Q] of each gate; of one that saw all decoder layers, the last layer's."""
    for gate in gates:
        if gate.predicted is not None:
            yield (gate.predicted[-1] if gate.predicted.dim() == 3 else gate.predicted).float()


def frame_groups(batch: Batch, *, background: int) -> Tensor:
    """[B,T] the class of the target action that each row lies in, the shortest where several do, or `background`.

    LEFT_OUT: padding, rows that are ignored, and rows of actions that are no target of the window.
    """
    length = batch.features.shape[1]
    times = (torch.arange(length, device=batch.features.device) + 0.5) / length
    groups = torch.where(batch.is_action > 0, LEFT_OUT, background)
    for row, target in zip(groups, batch.targets):
        centre, width = target.segments_cw.unbind(-1)
        for index in width.argsort(descending=True).tolist():
            row[(times - centre[index]).abs() <= width[index] / 2] = target.labels[index]
    return groups.masked_fill(batch.is_padding | batch.is_ignored, LEFT_OUT)
