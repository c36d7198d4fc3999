"""Equation 6: L_dh = (1/M) * sum over points of (focal + 1[positive] * w * DIoU), M the running number of positives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from psftr.data.batches import Batch
from psftr.detection.losses import diou_loss, focal_loss, giou_loss
from psftr.detection.network import PointOutputs
from psftr.detection.points import Level, assign, of_points, of_rows
from psftr.detection.settings import DetectorSettings

MOMENTUM = 0.9  # of the running number of positives


@dataclass(frozen=True)
class DetectionLosses:
    """classification, location: scalars, divided by M. per_point [B,P]: what the sum runs over, before the division."""

    classification: Tensor
    location: Tensor
    per_point: Tensor

    @property
    def total(self) -> Tensor:
        return self.classification + self.location


class DetectionCriterion(nn.Module):
    """L_dh of a batch. `positives` is a running mean with momentum 0.9, so that few positives do not weigh more.

    Points on padding and on ignored rows (THUMOS14's Ambiguous) count nothing.
    """

    def __init__(
        self,
        *,
        levels: tuple[Level, ...],
        centre_radius: float,
        class_loss: Callable[[Tensor, Tensor], Tensor],
        overlap_loss: Callable[[Tensor, Tensor], Tensor],
        location_weight: float,
    ) -> None:
        super().__init__()
        self.levels, self.centre_radius = levels, centre_radius
        self.class_loss, self.overlap_loss, self.location_weight = class_loss, overlap_loss, location_weight
        self.positives: Tensor
        self.register_buffer("positives", torch.zeros(()))

    def forward(self, outputs: PointOutputs, batch: Batch) -> DetectionLosses:
        size, num_classes = batch.features.shape[1], outputs.class_logits.shape[-1]
        truth = assign(batch.targets, self.levels, size=size, num_classes=num_classes, centre_radius=self.centre_radius)
        counts = ~outputs.is_padding & ~of_points(batch.is_ignored, self.levels)
        is_positive = truth.is_positive & counts
        focal = self.class_loss(outputs.class_logits, truth.classes).sum(-1) * counts
        # the point itself is the origin: a segment is (-distance to start, distance to end)
        sign = outputs.distances.new_tensor([-1.0, 1.0])
        overlap = self.overlap_loss(outputs.distances * sign, truth.distances * sign)
        location = self.location_weight * torch.where(is_positive, overlap, 0.0)
        normaliser = self._running(is_positive.sum())
        return DetectionLosses(focal.sum() / normaliser, location.sum() / normaliser, focal + location)

    def _running(self, number: Tensor) -> Tensor:
        """M: at first the batch's own number, then the running mean; at least 1."""
        number = number.to(self.positives.dtype)
        if self.training:
            started = torch.where(self.positives > 0, self.positives, number)
            self.positives.copy_(MOMENTUM * started + (1 - MOMENTUM) * number)
        current = torch.where(self.positives > 0, self.positives, number)
        return current.clamp(min=1.0).clone()

    def per_row(self, losses: DetectionLosses, size: int) -> Tensor:
        """[B,T] the loss of each row: of the points that stand for it, one in each level, summed."""
        return of_rows(losses.per_point, self.levels, size)


def build_criterion(settings: DetectorSettings, levels: tuple[Level, ...]) -> DetectionCriterion:
    return DetectionCriterion(
        levels=levels,
        centre_radius=settings.centre_radius,
        class_loss=partial(focal_loss, alpha=settings.focal_alpha, gamma=settings.focal_gamma),
        overlap_loss={"diou": diou_loss, "giou": giou_loss}[settings.overlap_form],
        location_weight=settings.location_weight,
    )
