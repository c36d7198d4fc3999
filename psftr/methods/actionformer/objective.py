"""The objective of ActionFormer: equation 6 and nothing else, every epoch alike."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from psftr.data.batches import Batch
from psftr.detection.criterion import DetectionCriterion


class VisionObjective(nn.Module):
    def __init__(self, *, criterion: DetectionCriterion) -> None:
        super().__init__()
        self.criterion = criterion

    def begin_epoch(self, epoch: int) -> None:
        """Every epoch is alike."""

    def end_epoch(self) -> None:
        """Nothing is kept from one epoch to the next."""

    def forward(self, network: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        losses = self.criterion(network(batch.features, batch.is_padding), batch)
        return {"total": losses.total, "classification": losses.classification, "location": losses.location}
