"""Algorithm 1: epochs of vision only and of vision and language take turns; equation 9 is what the latter minimise."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from psftr.data.batches import Batch
from psftr.detection.criterion import DetectionCriterion
from psftr.detection.points import row_classes
from psftr.methods.actionvlm.advantage import LanguageAdvantage, advantage_loss
from psftr.methods.actionvlm.network import ActionVlm
from psftr.methods.actionvlm.prompt import segments_text


class ActionVlmObjective(nn.Module):
    """L = L_dh + w_adv L_adv + w_tg L_tg. advantage None: no L_adv. text_weight 0: no text is generated.

    alternates: epochs 0, 2, 4, … are of vision only; otherwise every epoch reads language, if the network does.
    """

    def __init__(
        self,
        *,
        criterion: DetectionCriterion,
        advantage: LanguageAdvantage | None,
        advantage_weight: float,
        text_weight: float,
        alternates: bool,
        class_names: tuple[str, ...],
    ) -> None:
        super().__init__()
        self.criterion, self.advantage = criterion, advantage
        self.advantage_weight, self.text_weight, self.alternates = advantage_weight, text_weight, alternates
        self.class_names = class_names
        self.is_vision_only = False

    def begin_epoch(self, epoch: int) -> None:
        self.is_vision_only = self.alternates and epoch % 2 == 0
        if self.is_vision_only and self.advantage is not None:
            self.advantage.begin(epoch)

    def end_epoch(self) -> None:
        if self.is_vision_only and self.advantage is not None:
            self.advantage.end()

    def forward(self, network: ActionVlm, batch: Batch) -> Mapping[str, Tensor]:
        if self.is_vision_only or network.language is None:
            return self._vision(network, batch)
        return self._vision_language(network, batch)

    def _vision(self, network: ActionVlm, batch: Batch) -> Mapping[str, Tensor]:
        losses = self.criterion(network.see(batch.features, batch.is_padding), batch)
        if self.advantage is not None:
            size = batch.features.shape[1]
            self.advantage.add(self.criterion.per_row(losses, size), self._classes(batch), _counts(batch))
        return {"total": losses.total, "classification": losses.classification, "location": losses.location}

    def _vision_language(self, network: ActionVlm, batch: Batch) -> Mapping[str, Tensor]:
        size, counts = batch.features.shape[1], _counts(batch)
        sentences = [segments_text(target, self.class_names, size=size) for target in batch.targets]
        read = network.read(batch.features, batch.is_padding, sentences if self.text_weight else None)
        losses = self.criterion(read.outputs, batch)
        told = {"classification": losses.classification, "location": losses.location}
        total = losses.total
        if read.text_loss is not None:
            told["text"] = read.text_loss
            total = total + self.text_weight * read.text_loss
        if self.advantage is not None and read.advantage is not None:
            target = self.advantage.target(self.criterion.per_row(losses, size), self._classes(batch))
            told["advantage"] = advantage_loss(read.advantage, target, counts)
            total = total + self.advantage_weight * told["advantage"]
        told["weight"] = (read.weight * counts).sum() / counts.sum().clamp(min=1)
        return {"total": total, **told}

    def _classes(self, batch: Batch) -> Tensor:
        return row_classes(batch.targets, size=batch.features.shape[1], num_classes=len(self.class_names))


def _counts(batch: Batch) -> Tensor:
    """[B,T] rows that are neither padding nor ignored."""
    return ~batch.is_padding & ~batch.is_ignored
